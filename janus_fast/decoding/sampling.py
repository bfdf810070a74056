"""Sampling: which of the tokens that may follow a random number draws."""

from torch import Tensor

from ..reference.beam_search import NO_OUTPUT
from .options import AutoregressiveOptions


def draw(ids: Tensor, log_probs: Tensor, uniforms: Tensor, options: AutoregressiveOptions) -> tuple[Tensor, Tensor]:
    """Of ids and log-probabilities [R, K] those that numbers in [0, 1) [R] draw: [R, 1] each.

    From the ``sampling_topk`` best tokens at ``sampling_temperature``, cut to the smallest set that holds
    ``sampling_topp`` of their mass.
    """
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    log_probs = log_probs[:, : options.sampling_topk or None]
    weights = (log_probs.double() / options.sampling_temperature).softmax(-1)
    if not weights.isfinite().all():
        raise FloatingPointError(NO_OUTPUT)
    cumulative = weights.cumsum(-1)
    weights = weights.masked_fill(cumulative - weights >= options.sampling_topp, 0.0)
    cumulative = weights.cumsum(-1)
    drawn = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    drawn = drawn.minimum((weights > 0).sum(-1, keepdim=True) - 1)
    return ids.gather(1, order.gather(1, drawn)), log_probs.gather(1, drawn)
