"""The k best tokens of a projection to the vocabulary, by definition: logits, log-softmax, stable sort."""

import torch
from torch import Tensor


def linear_topk(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Returns tokens [N, k], best first, among equals the lowest first, and their log-probabilities [N, k]."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(dtype) @ weight.to(dtype).T  # [N, C] @ [C, V] -> [N, V]
    if bias is not None:
        logits = logits + bias.to(dtype)
    best, tokens = logits.sort(dim=-1, descending=True, stable=True)
    return tokens[:, :k].contiguous(), best[:, :k] - logits.logsumexp(-1, keepdim=True)
