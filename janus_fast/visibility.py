"""Attention patterns as visibility intervals: one integer a query, two integers a key.

A key ``j`` carries an interval ``[visible_from[j], visible_until[j])``, a query ``i`` a time ``query_times[i]``.
Within the same sequence, ``i`` sees ``j`` iff ``visible_from[j] <= query_times[i] < visible_until[j]``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FOREVER = 2**31 - 1


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each packed sequence begins: ``[S]`` lengths -> ``[S + 1]`` int32 offsets."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def ranges(lengths: Tensor) -> Tensor:
    """``[0, 1, .., l0 - 1, 0, 1, .., l1 - 1, ...]``: the index of every packed row within its sequence."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum()), device=lengths.device) - starts.repeat_interleave(lengths)


@dataclass(frozen=True)
class Visibility:
    """Which packed query rows see which packed key rows.

    ``Q`` query sequences lie one after another in ``Nq`` rows, ``K`` key sequences in ``Nk`` rows. Query sequence
    ``s`` attends to key sequence ``key_sequences[s]``; several may name the same one, so that streams of a sentence,
    or candidates of a source, share keys without copies.

    All tensors are int32 on one device: ``query_offsets`` [Q + 1], ``key_offsets`` [K + 1], ``key_sequences`` [Q],
    ``query_times`` [Nq], ``visible_from`` and ``visible_until`` [Nk].
    """

    query_offsets: Tensor
    key_offsets: Tensor
    key_sequences: Tensor
    query_times: Tensor
    visible_from: Tensor
    visible_until: Tensor

    @property
    def num_queries(self) -> int:
        return self.query_times.numel()

    @property
    def num_keys(self) -> int:
        return self.visible_from.numel()

    @classmethod
    def bidirectional(
        cls, query_offsets: Tensor, key_offsets: Tensor | None = None, key_sequences: Tensor | None = None
    ) -> "Visibility":
        """Every query sees every key of its sequence: encoder, cross-attention, mask-predict decoder."""
        key_offsets = query_offsets if key_offsets is None else key_offsets
        if key_sequences is None:
            key_sequences = torch.arange(query_offsets.numel() - 1, dtype=torch.int32, device=query_offsets.device)
        nq, nk = int(query_offsets[-1]), int(key_offsets[-1])
        times = query_offsets.new_zeros(nq, dtype=torch.int32)
        first = query_offsets.new_zeros(nk, dtype=torch.int32)
        return cls(query_offsets, key_offsets, key_sequences, times, first, torch.full_like(first, FOREVER))

    def rows(self, index: Tensor) -> "Visibility":
        """The same keys seen by the query rows ``index`` (ascending) alone."""
        offsets = torch.searchsorted(index, self.query_offsets.to(index.dtype)).to(torch.int32)
        return Visibility(
            offsets, self.key_offsets, self.key_sequences, self.query_times[index], self.visible_from,
            self.visible_until,
        )  # fmt: skip

    def dense(self) -> Tensor:
        """[Nq, Nk] bool, True where the query sees the key. O(Nq * Nk) memory: for tests and pictures."""
        query_sequence = torch.repeat_interleave(self.key_sequences, self.query_offsets.diff().long())
        key_sequence = torch.repeat_interleave(
            torch.arange(self.key_offsets.numel() - 1, device=self.key_offsets.device), self.key_offsets.diff().long()
        )
        time = self.query_times[:, None]
        return (
            (query_sequence[:, None] == key_sequence[None])
            & (self.visible_from[None] <= time)
            & (time < self.visible_until[None])
        )
