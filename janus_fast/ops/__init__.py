"""The operations: one file each, with what it computes, what it takes, and which backends run it.

Every one is also registered as ``torch.ops.janus_fast.<name>`` for ``torch.compile`` and ``torch.export``; that is the
kernel alone, without derivatives, which are the functions'.
"""

from importlib import import_module
from pkgutil import iter_modules

from janus_fast.ops._native import isa
from janus_fast.ops._operation import OPERATIONS, backends, explain

_files = [file.name for file in iter_modules(__path__) if not file.name.startswith("_")]
_operations = {name: vars(import_module(f"{__name__}.{name}"))[name] for name in _files}
globals().update(_operations)

__all__ = ["OPERATIONS", "backends", "explain", "isa", *_operations]
