"""The checks that every front page makes, with one form of message: ``{op}: {argument} must {rule}, got {value}``;
and what autocast does to arguments."""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import torch
from torch import Tensor

from janus_fast.inputs import MOST_INTEGER

# Devices that have autocast; asked once, since torch.compile of torch 2.11 cannot look into the question.
AUTOCAST = frozenset(d for d in ("cpu", "cuda", "xpu", "mps", "hpu") if torch.amp.is_autocast_available(d))


def tensor(op: str, argument: str, value) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {argument} must be a tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: {argument} must be a dense tensor, got one of layout {value.layout}")
    if value.is_nested:
        raise TypeError(f"{op}: {argument} must be a dense tensor, got a nested one")


def integers(op: str, **arguments) -> None:
    """Whole numbers; True and False are none. Python's own type stands first, for it is found soonest."""
    for argument, value in arguments.items():
        if not isinstance(value, (int, Integral, torch.SymInt)) or isinstance(value, bool):
            raise TypeError(f"{op}: {argument} must be an integer, got {_shown(value)}")


def token(op: str, argument: str, value) -> None:
    """The id of a token, which vocabularies count in int32."""
    integers(op, **{argument: value})
    if not 0 <= value <= MOST_INTEGER:
        raise ValueError(f"{op}: {argument} must be in [0, {MOST_INTEGER}], got {value}")


def numbers(op: str, **arguments) -> None:
    """Finite numbers."""
    for argument, value in arguments.items():
        if not isinstance(value, (float, Real, torch.SymInt, torch.SymFloat)) or isinstance(value, bool):
            raise TypeError(f"{op}: {argument} must be a number, got {_shown(value)}")
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            continue  # known when the compiled program runs
        try:
            finite = math.isfinite(value)
        except OverflowError:  # an integer behind the last float
            finite = False
        if not finite:
            raise ValueError(f"{op}: {argument} must be a finite number, got {value}")


def switches(op: str, **arguments) -> None:
    for argument, value in arguments.items():
        if not isinstance(value, bool):
            raise TypeError(f"{op}: {argument} must be True or False, got {_shown(value)}")


def mapping(op: str, argument: str, value, what: str) -> None:
    if not isinstance(value, Mapping):
        got = _shown(value) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{op}: {argument} must be a dict from {what}, got {got}")


def _shown(value) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def floating(op: str, argument: str, value: Tensor) -> None:
    tensor(op, argument, value)
    if not value.is_floating_point():
        raise TypeError(f"{op}: {argument} must be a floating-point tensor, got {value.dtype}")


def matrix(op: str, argument: str, value: Tensor, columns: int | None = None, letters: str = "N, C") -> None:
    """A floating-point [rows, columns] tensor with a column or more."""
    tensor(op, argument, value)
    if value.ndim != 2 or (columns is not None and value.shape[1] != columns):
        wanted = f"[{letters}]" + (f" = [*, {columns}]" if columns is not None else "")
        raise ValueError(f"{op}: {argument} must have shape {wanted}, got {list(value.shape)}")
    not_empty(op, argument, value, C=value.shape[1])
    floating(op, argument, value)


def not_empty(op: str, argument: str, value: Tensor, **sizes: int) -> None:
    """None of the ``sizes`` of a tensor, by their letters, is 0."""
    for letter, size in sizes.items():
        if size == 0:
            raise ValueError(f"{op}: {argument} must have {letter} of at least 1, got shape {list(value.shape)}")


def vector(op: str, argument: str, value: Tensor, length: int | None, dtype: torch.dtype) -> None:
    tensor(op, argument, value)
    if value.ndim != 1 or (length is not None and value.shape[0] != length):
        wanted = "one dimension" if length is None else f"shape [{length}]"
        raise ValueError(f"{op}: {argument} must have {wanted}, got shape {list(value.shape)}")
    if value.dtype != dtype:
        raise TypeError(f"{op}: {argument} must be {dtype}, got {value.dtype}")


def offsets(op: str, argument: str, value: Tensor) -> None:
    vector(op, argument, value, None, torch.int32)
    if value.shape[0] == 0:
        raise ValueError(f"{op}: {argument} must hold at least the offset 0, got no element")


def same(op: str, first: tuple[str, Tensor], *others: tuple[str, Tensor], dtype: bool = True) -> None:
    """The other tensors lie on the first one's device and, with ``dtype``, share its dtype."""
    for name, tensor in others:
        if tensor.device != first[1].device:
            raise ValueError(
                f"{op}: {name} must be on the device of {first[0]}, {first[1].device}, got {tensor.device}"
            )
        if dtype and tensor.dtype != first[1].dtype:
            raise TypeError(f"{op}: {name} must have the dtype of {first[0]}, {first[1].dtype}, got {tensor.dtype}")


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Under autocast, factors of a product in its dtype, but for float64, as torch.matmul takes them."""
    device = next(t.device.type for t in tensors if t is not None)
    if device not in AUTOCAST or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def autocast_residual(residual: Tensor, *others: Tensor) -> Tensor:
    """Under autocast, what is added to is widened to the widest of the others, as torch.add does."""
    if residual.device.type not in AUTOCAST or not torch.is_autocast_enabled(residual.device.type):
        return residual
    dtype = residual.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype)
    return residual.to(dtype)
