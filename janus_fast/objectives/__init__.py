"""Training objectives, one file a system: what rows a batch has, what they predict, how losses tie them.

``OBJECTIVES`` has them by the names of their files, and so has this module: ``janus_fast.objectives.janus(config)``.
"""

from importlib import import_module
from pkgutil import iter_modules

from .objective import Objective
from .packed_batch import PackedBatch, as_one

_classes = (c for m in iter_modules(__path__) for c in vars(import_module(f".{m.name}", __name__)).values())
OBJECTIVES = {
    c.__module__.rpartition(".")[2]: c for c in _classes if isinstance(c, type) and issubclass(c, Objective) and c.modes
}
globals().update(OBJECTIVES)

__all__ = ["OBJECTIVES", "Objective", "PackedBatch", "as_one", *OBJECTIVES]
