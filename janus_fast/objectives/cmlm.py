"""Conditional masked language model (Mask-Predict, Ghazvininejad et al. 2019): the NAR distribution alone."""

from ..config import JanusConfig
from .objective import Objective


def cmlm(config: JanusConfig, **options) -> Objective:
    """L = CE(nar) + 0.1 CE(length), with uniform masking unless told otherwise."""
    return Objective(config, ("nar",), **{"masking": "uniform", "cross_entropy": {"nar": 1.0}, **options})
