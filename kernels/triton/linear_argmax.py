"""The most likely token of a vocabulary projection: the k most likely ones with k = 1, whose file says how."""

from torch import Tensor

from .linear_topk import linear_topk


def linear_argmax(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    tokens, log_probs = linear_topk(hidden, weight, bias, 1)
    return tokens.squeeze(1), log_probs.squeeze(1)
