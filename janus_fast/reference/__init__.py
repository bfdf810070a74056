"""What each operation computes: plain PyTorch, any float dtype; the ``reference`` backend of ``janus_fast.ops``.
``beam_search``, ``mask_predict``, ``speculative`` and ``semi_nar`` are what decoding modes compute with them."""

from importlib import import_module
from pkgutil import iter_modules

from janus_fast.reference.beam_step import BeamState

_definitions = {name: vars(import_module(f"{__name__}.{name}"))[name] for _, name, _ in iter_modules(__path__)}
globals().update(_definitions)

__all__ = ["BeamState", *_definitions]
