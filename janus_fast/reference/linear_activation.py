"""A linear layer and its activation, by definition."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {  # Hugging Face's names
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def linear_activation(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Returns activation(x W^T + bias) [N, O] in the dtype of ``x``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    product = x.to(dtype) @ weight.to(dtype).T  # [N, C] @ [C, O] -> [N, O]
    if bias is not None:
        product = product + bias.to(dtype)
    return ACTIVATIONS[activation](product).to(x.dtype)
