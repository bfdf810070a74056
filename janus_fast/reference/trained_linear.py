"""A linear layer in training, by definition."""

import torch
from torch import Tensor


def trained_linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Returns x W^T + bias [N, O], or the positive part of it, in the dtype of ``x``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    product = x.to(dtype) @ weight.to(x.dtype).to(dtype).T + bias.to(dtype)  # [N, C] @ [C, O] -> [N, O]
    return (product.relu() if relu else product).to(x.dtype)
