"""Sampling: which of the tokens that may follow a random number draws."""

import numpy as np
import torch
from torch import Tensor

from ..reference.beam_search import NO_OUTPUT
from .options import AutoregressiveOptions


class Sampling:
    """Draws from the ``sampling_topk`` best tokens at ``sampling_temperature``, cut to the smallest set that holds
    ``sampling_topp`` of their mass. The random numbers of a sample depend on (seed, the source's number, the sample's
    number) alone, not on the batch.
    """

    def __init__(self, options: AutoregressiveOptions, numbers: list[int], steps: int, device: torch.device):
        self.options = options
        streams = (np.random.default_rng([options.seed, n, k]) for n in numbers for k in range(options.num_hypotheses))
        self.uniforms = torch.from_numpy(np.stack([stream.random(steps) for stream in streams])).to(device)

    def __call__(self, ids: Tensor, log_probs: Tensor, samples: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Of ids and log-probabilities [R, K] of these ``samples`` [R] those that are drawn: [R, 1] each."""
        log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
        log_probs = log_probs[:, : self.options.sampling_topk or None]
        weights = (log_probs.double() / self.options.sampling_temperature).softmax(-1)
        if not weights.isfinite().all():
            raise FloatingPointError(NO_OUTPUT)
        cumulative = weights.cumsum(-1)
        weights = weights.masked_fill(cumulative - weights >= self.options.sampling_topp, 0.0)
        cumulative = weights.cumsum(-1)
        drawn = (cumulative <= self.uniforms[samples, step, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        drawn = drawn.minimum((weights > 0).sum(-1, keepdim=True) - 1)
        return ids.gather(1, order.gather(1, drawn)), log_probs.gather(1, drawn)
