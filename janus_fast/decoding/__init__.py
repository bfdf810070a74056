"""Decoding modes, one file each: ``ar`` (beam search, sampling) and ``nar`` (mask-predict)."""

from .ar import AutoregressiveOptions, beam_search, sample, score
from .hypothesis import Hypothesis
from .nar import NonAutoregressiveOptions, mask_predict

__all__ = [
    "AutoregressiveOptions",
    "Hypothesis",
    "NonAutoregressiveOptions",
    "beam_search",
    "mask_predict",
    "sample",
    "score",
]
