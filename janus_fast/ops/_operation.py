"""What every operation shares: its record, its registration with torch, and the choice of a backend."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_fast.ops import _native

library = torch.library.Library("janus_fast", "FRAGMENT")
OPERATIONS: dict[str, "Operation"] = {}


def define(name: str, schema: str, fake: Callable) -> None:
    """Registers ``torch.ops.janus_fast.<name>``; its kernels come from the native library, in any load order."""
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"janus_fast::{name}", fake, lib=library)


@dataclass(frozen=True)
class Operation:
    """One operation: its schema, its definition in plain torch, and what the native kernels take.

    ``reference`` and the registered operator take the same flat arguments, in the order of ``schema``.
    ``samples()`` yields (label, flat arguments) for tests: odd sizes, one row, nothing, strided, extreme values.
    ``work(*arguments)`` is (bytes, floating-point operations) of a call, for benchmark ratios.
    ``gradients`` names the arguments that have one.
    """

    name: str
    schema: str
    reference: Callable
    fake: Callable
    samples: Callable[[], Iterable[tuple[str, tuple]]]
    work: Callable[..., tuple[int, int]]
    cpp_dtypes: tuple[torch.dtype, ...] = ()
    gradients: tuple[str, ...] = ()

    def __post_init__(self):
        define(self.name, self.schema, self.fake)
        OPERATIONS[self.name] = self

    @property
    def native(self):
        return getattr(torch.ops.janus_fast, self.name).default

    def candidates(self, device: str) -> tuple[str, ...]:
        return ("cpp", "reference") if device == "cpu" else ("reference",)

    def refusal(self, backend: str, dtype: torch.dtype | None) -> str | None:
        """Why a backend cannot run a call, or None when it can. ``dtype`` None asks about no call in particular."""
        if backend == "reference":
            return None
        if _native.missing is not None:
            return _native.missing
        if dtype is not None and dtype not in self.cpp_dtypes:
            return f"it takes {', '.join(str(d).removeprefix('torch.') for d in self.cpp_dtypes)}, not {dtype}"
        return None

    def choose(self, backend: str, like: Tensor) -> str:
        """The backend that runs a call on tensors of this device and dtype."""
        candidates = self.candidates(like.device.type)
        if backend == "auto":
            for candidate in candidates:
                if self.refusal(candidate, like.dtype) is None:
                    return candidate
        if backend not in candidates:
            raise ValueError(
                f"{self.name}: backend must be one of {('auto', *candidates)} on {like.device.type}, got {backend!r}"
            )
        if (reason := self.refusal(backend, like.dtype)) is not None:
            raise NotImplementedError(f"{self.name}: backend must be able to run this call, got {backend!r}: {reason}")
        return backend


def backends(name: str, device: str = "cpu") -> tuple[str, ...]:
    """The backends that operation ``name`` can use here on ``device``, in the order in which "auto" tries them."""
    operation = _find(name)
    kind = torch.device(device).type
    return tuple(b for b in operation.candidates(kind) if operation.refusal(b, None) is None)


def explain(name: str, *tensors: Tensor) -> str:
    """Which backend runs a call of operation ``name`` on these tensors (default: float32 on the CPU), and why."""
    operation = _find(name)
    like = next((t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()), None)
    like = torch.empty(0) if like is None else like
    chosen = operation.choose("auto", like)
    lines = [f"{name} on {like.device.type}, {str(like.dtype).removeprefix('torch.')}:"]
    for candidate in operation.candidates(like.device.type):
        reason = operation.refusal(candidate, like.dtype)
        detail = f"no: {reason}" if reason else "chosen" if candidate == chosen else "can run"
        lines.append(f"  {candidate}{f' ({_native.isa()})' if candidate == 'cpp' and not reason else ''}: {detail}")
    return "\n".join(lines)


def _find(name: str) -> Operation:
    if name not in OPERATIONS:
        raise ValueError(f"janus_fast: operation must be one of {sorted(OPERATIONS)}, got {name!r}")
    return OPERATIONS[name]
