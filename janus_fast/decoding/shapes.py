"""Shapes that no data decide: sizes rounded up so that few of them occur, packed rows in buffers with room to spare."""

import torch
from torch import Tensor

from ..model import JanusModel
from ..packing import offsets_of, pack
from ..visibility import FOREVER, Visibility

PADDING = 64  # rows: attention gives a sequence to one block, so long ones would take longer than all others


def rounded(size: int) -> int:
    """The least of 1, 2, .. 8, 10, .. 16, 20, .. 32, 40, .. that is not below ``size``: four sizes an octave."""
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return -(-size // step) * step


class Room:
    """Room for ``capacity`` packed rows of ``sequences`` sequences, whose lengths the device alone knows.

    Rows behind the last sequence form sequences of their own, which see the last one of all, and that is empty: so
    offsets cover every row, whichever kernel reads them, and what lies behind has no influence on anything.
    """

    def __init__(self, sequences: int, capacity: int, device: torch.device):
        self.sequences, self.capacity = sequences, capacity
        ends = [*range(PADDING, capacity, PADDING), capacity, capacity]
        self.ends = torch.tensor(ends, dtype=torch.int32, device=device)
        self.index = torch.arange(capacity, dtype=torch.int32, device=device)
        self.never, self.forever = torch.zeros_like(self.index), torch.full_like(self.index, FOREVER)
        self.empty = sequences + len(ends) - 1

    def offsets(self, offsets: Tensor) -> Tensor:
        """Where sequences begin [S + 1], at most ``capacity`` -> the same and where the rows behind them do."""
        return torch.cat([offsets, torch.maximum(offsets[-1:], self.ends)])

    def sees(self, *keys: tuple["Room", int]) -> "Room":
        """Rows see all of a sequence in each of ``keys``. As many sequences in a row as are named see the same one."""
        own = torch.arange(self.sequences, dtype=torch.int32, device=self.ends.device)
        self.keys = [(room, torch.cat([own // each, torch.full_like(self.ends, room.empty)])) for room, each in keys]
        return self

    def visibility(self, offsets: Tensor, *key_offsets: Tensor) -> list[Visibility]:
        """What is seen in each of the keys, all offsets as ``offsets`` gives them."""
        return [
            Visibility(offsets, packed, named, self.never, room.never, room.forever)
            for packed, (room, named) in zip(key_offsets, self.keys, strict=True)
        ]

    def places(self, offsets: Tensor) -> Tensor:
        """The index of each row within its sequence, with offsets as ``offsets`` gives them. Rows behind the last
        sequence have index 0, so that it is one of the position table."""
        sequence = torch.searchsorted(offsets[1:], self.index, right=True)
        real = self.index < offsets[self.sequences]
        return ((self.index - offsets[sequence]) * real).long()


class Sources:
    """A batch of sources in a buffer with room, and their encoding."""

    def __init__(self, model: JanusModel, count: int, rows: int):
        device = model.output_weight.device
        self.room = Room(count, rows, device)
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(count + 1, dtype=torch.int32, device=device)
        self.room.sees((self.room, 1))

    def load(self, sources: list[list[int]], runtime) -> None:
        """There may be fewer sources and rows than there is room for; the sources that are missing have no rows."""
        tokens, lengths = pack(sources)
        offsets = offsets_of(lengths)
        runtime.upload(self.tokens, torch.nn.functional.pad(tokens, (0, self.tokens.numel() - tokens.numel())))
        missing = self.offsets.numel() - offsets.numel()
        runtime.upload(self.offsets, torch.cat([offsets, offsets[-1:].expand(missing)]))

    def encode(self, model) -> tuple[Tensor, Tensor]:
        """Encoded rows, and the offsets of the sources and of the rows behind them."""
        offsets = self.room.offsets(self.offsets)
        (visibility,) = self.room.visibility(offsets, offsets)
        return model.encode(self.tokens, self.room.places(offsets), visibility), offsets
