"""The best token of a projection to the vocabulary, by definition: logits, log-softmax, first maximum."""

import torch
from torch import Tensor


def linear_argmax(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns tokens [N], among equals the lowest, and their log-probabilities [N]."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(dtype) @ weight.to(dtype).T  # [N, C] @ [C, V] -> [N, V]
    if bias is not None:
        logits = logits + bias.to(dtype)
    best, tokens = logits.max(-1)
    return tokens, best - logits.logsumexp(-1)
