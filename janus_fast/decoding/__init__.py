"""Decoding modes, one file each: ``ar`` (beam search, sampling) and ``mask_predict``; both need torch."""

from .hypothesis import Hypothesis
from .options import AutoregressiveOptions, NonAutoregressiveOptions

# imported when first named
_FUNCTIONS = {"beam_search": "ar", "sample": "ar", "score": "ar", "mask_predict": "on_device.mask_predict"}
__all__ = ["AutoregressiveOptions", "Hypothesis", "NonAutoregressiveOptions", *_FUNCTIONS]


def __getattr__(name):
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'janus_fast.decoding' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_FUNCTIONS[name]}", __name__), name)
