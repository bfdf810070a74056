"""Training objectives, one file a system: what rows a batch has, what they predict, how losses tie them."""

from .autoregressive import autoregressive
from .cmlm import cmlm
from .janus import janus
from .objective import Objective
from .packed_batch import PackedBatch, as_one

OBJECTIVES = {"autoregressive": autoregressive, "cmlm": cmlm, "janus": janus}

__all__ = ["OBJECTIVES", "Objective", "PackedBatch", "as_one", "autoregressive", "cmlm", "janus"]
