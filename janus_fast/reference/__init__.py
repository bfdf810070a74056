"""What each operation computes: plain PyTorch, any float dtype. Nothing fast imports this."""
