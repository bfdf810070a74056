"""The checks that every front page makes, with one form of message: ``{op}: {argument} must {rule}, got {value}``."""

import torch
from torch import Tensor


def matrix(op: str, argument: str, tensor: Tensor, columns: int | None = None, letters: str = "N, C") -> None:
    """A floating-point [rows, columns] tensor."""
    if tensor.ndim != 2 or (columns is not None and tensor.shape[1] != columns) or tensor.shape[1] == 0:
        wanted = f"[{letters}]" + (f" = [*, {columns}]" if columns is not None else "")
        raise ValueError(f"{op}: {argument} must have shape {wanted}, got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{op}: {argument} must be a floating-point tensor, got {tensor.dtype}")


def vector(op: str, argument: str, tensor: Tensor, length: int | None, dtype: torch.dtype) -> None:
    if tensor.ndim != 1 or (length is not None and tensor.shape[0] != length):
        wanted = "one dimension" if length is None else f"shape [{length}]"
        raise ValueError(f"{op}: {argument} must have {wanted}, got shape {list(tensor.shape)}")
    if tensor.dtype != dtype:
        raise TypeError(f"{op}: {argument} must be {dtype}, got {tensor.dtype}")


def offsets(op: str, argument: str, tensor: Tensor) -> None:
    vector(op, argument, tensor, None, torch.int32)
    if tensor.shape[0] == 0:
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
