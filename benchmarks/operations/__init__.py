"""Each operation against plain PyTorch, on the CPU and on a GPU."""
