"""Decoding: what modes can be told, and what they return. All else here needs torch: ``beam_search``, ``sampling``,
``score`` and ``mask_predict``."""

from .hypothesis import Hypothesis
from .options import (
    AutoOptions,
    AutoregressiveOptions,
    NonAutoregressiveOptions,
    SemiAutoregressiveOptions,
    SpeculativeOptions,
)

__all__ = [
    "AutoOptions", "AutoregressiveOptions", "Hypothesis", "NonAutoregressiveOptions", "SemiAutoregressiveOptions",
    "SpeculativeOptions",
]  # fmt: skip
