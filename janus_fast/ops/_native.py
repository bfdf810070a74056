"""The native library: where it lies, whether it loaded, and which instruction set its CPU kernels use."""

import ctypes
from contextlib import contextmanager

import torch

from janus_fast import installation
from janus_fast.inputs import listed

PATH = installation.PACKAGE / "_C.so"


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none. A library that is there but does not load is an error, not an absence."""
    if reason := installation.operations_missing():
        return None, reason
    torch.ops.load_library(PATH)
    library = ctypes.CDLL(str(PATH))
    library.janus_fast_isa.restype = ctypes.c_char_p
    library.janus_fast_isas.restype = ctypes.c_char_p
    library.janus_fast_set_isa.argtypes = [ctypes.c_char_p]
    return library, None


def _cuda_missing() -> str | None:
    if missing is not None:
        return missing
    if not torch._C._dispatch_has_kernel_for_dispatch_key("janus_fast::attention", "CUDA"):
        return f"the native library {PATH.name} was built without CUDA's compiler, nvcc"
    return "this torch was built for ROCm" if torch.version.hip else None


_library, missing = _load()
cuda_missing = _cuda_missing()  # why there are no native CUDA kernels


def isa() -> str | None:
    """The instruction set of the native CPU kernels, "avx512_bf16_amx" to "generic"; None when they are not built."""
    return _library.janus_fast_isa().decode() if _library else None


def isas() -> tuple[str, ...]:
    """The instruction sets that this build has and this processor runs, best first."""
    return tuple(_library.janus_fast_isas().decode().split()) if _library else ()


@contextmanager
def use_isa(name: str):
    """Run with the kernels of another instruction set, everywhere in the process; for tests and benchmarks."""
    previous = isa()
    _set_isa(name, "isa")
    try:
        yield
    finally:
        _set_isa(previous, "isa")


def _set_isa(name: str, argument: str) -> None:
    if _library.janus_fast_set_isa(name.encode()) != 0:
        raise ValueError(f"janus_fast: {argument} must be one of {listed(isas())} on this processor, got {name!r}")


if _library and (_name := installation.asked_isa()):
    _set_isa(_name, "JANUS_FAST_ISA")
