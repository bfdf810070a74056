"""Sequences lying one after another, without padding: flat rows, and where each sequence begins."""

import torch
from torch import Tensor


def pack(sequences: list, dtype=torch.int64) -> tuple[Tensor, Tensor]:
    """Sequences of ids -> (flat ids [N], lengths [S] int64)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    flat = [torch.as_tensor(sequence, dtype=dtype) for sequence in sequences]
    return (torch.cat(flat) if flat else torch.empty(0, dtype=dtype)), lengths


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each packed sequence begins: ``[S]`` lengths -> ``[S + 1]`` int32 offsets."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def ranges(lengths: Tensor) -> Tensor:
    """``[0, 1, .., l0 - 1, 0, 1, .., l1 - 1, ...]``: the index of every packed row within its sequence."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum()), device=lengths.device) - starts.repeat_interleave(lengths)


def stairs(lengths: Tensor, down: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Streams that get shorter: of a sequence of length l one after another, the s-th of ``l - down[s]`` rows or none.

    Returns the rows of each sequence [S], and of each of these [N] the stream that it is of and its index in it.
    """
    rows = (lengths[:, None] - lengths.new_tensor(down)).clamp(min=0)
    streams = torch.arange(len(down), device=lengths.device).repeat(lengths.numel())
    return rows.sum(1), streams.repeat_interleave(rows.flatten()), ranges(rows.flatten())
