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
        self.empty = sequences + len(ends) - 1

    def offsets(self, offsets: Tensor) -> Tensor:
        """Where sequences begin [S + 1], at most ``capacity`` -> the same and where the rows behind them do."""
        return torch.cat([offsets, torch.maximum(offsets[-1:], self.ends)])

    def naming(self, key_sequences: Tensor, empty: int) -> Tensor:
        """The key sequence of each sequence [S], and ``empty`` for the rows behind them: int32."""
        return torch.cat([key_sequences.to(torch.int32), torch.full_like(self.ends, empty)])

    def places(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row, with offsets as ``offsets`` gives them: its index within its sequence, and whether it is the
        last one. Rows behind the last sequence have index 0, so that it is one of the position table."""
        sequence = torch.searchsorted(offsets[1:], self.index, right=True)
        begins, ends = offsets[sequence], offsets[sequence + 1]
        real = self.index < offsets[self.sequences]
        return ((self.index - begins) * real).long(), self.index == ends - 1


class Sources:
    """A batch of sources in a buffer with room, and their encoding."""

    def __init__(self, model: JanusModel, count: int, rows: int):
        device = model.output_weight.device
        self.room = Room(count, rows, device)
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(count + 1, dtype=torch.int32, device=device)
        own = torch.arange(count, dtype=torch.int32, device=device)
        self.key_sequences = self.room.naming(own, self.room.empty)
        self.never, self.forever = torch.zeros_like(self.room.index), torch.full_like(self.room.index, FOREVER)

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
        positions, _ = self.room.places(offsets)
        visibility = Visibility(offsets, offsets, self.key_sequences, self.never, self.never, self.forever)
        return model.encode(self.tokens, positions, visibility), offsets
