"""The Triton kernels: whether Triton is there, and operators that import it when the first of them runs."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch

from janus_fast.installation import absence

missing = None if find_spec("triton") else f"it needs {absence('triton')}"


def older_than(major: int, minor: int) -> bool:
    """Whether the Triton that is installed is older than a version."""
    import triton  # late, as it takes long; its package has another name in some builds of torch

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) < (major, minor)


def launcher(module: str, function: str) -> Callable:
    """``function`` of ``janus_fast.kernels.<module>``, on the device of its first argument."""

    def launch(*arguments):
        with torch.cuda.device(arguments[0].device):
            return getattr(import_module(f"janus_fast.kernels.{module}"), function)(*arguments)

    return launch
