"""The autoregressive distribution of JANUS alone: left to right, content and query streams."""

from ..config import JanusConfig
from .objective import Objective


def autoregressive(config: JanusConfig, **options) -> Objective:
    """L = CE(ar)."""
    return Objective(config, ("ar",), **options)
