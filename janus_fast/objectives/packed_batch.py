"""What an objective makes of (source, target) pairs: one packed forward and the rows it predicts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..visibility import Visibility


@dataclass
class PackedBatch:
    """Rows of a batch, packed, with what they must predict.

    ``source`` [Ns] int64 lies at ``source_offsets`` [S + 1] int32. Of the decoder rows ``tokens``, ``positions`` [N]
    int64, the first ``visibility.num_keys`` are keys too. ``rows`` [R] int64, ascending, are the rows that predict;
    ``parts`` names slices of them (``ar``, ``nar``, ``aux``) and ``targets`` holds each part's tokens.
    ``ar_masked`` indexes the ``ar`` part at the positions that ``nar`` and ``aux`` predict too, in their order.
    ``totals`` counts the rows of each part, and under ``length`` the sentences, of the whole batch; ``shares`` says
    of each of these what share this one has: 1 where no others have the rest.
    """

    source: Tensor
    source_offsets: Tensor
    tokens: Tensor
    positions: Tensor
    visibility: Visibility
    cross: Visibility
    rows: Tensor
    parts: dict[str, slice]
    targets: dict[str, Tensor]
    lengths: Tensor | None = None
    ar_masked: Tensor | None = None
    totals: dict[str, int] | None = None
    shares: dict[str, float] | None = None

    def to(self, device) -> "PackedBatch":
        """The same on another device."""
        return dataclasses.replace(
            self,
            **{
                name: {k: v.to(device) for k, v in value.items()} if name == "targets" else value.to(device)
                for name, value in vars(self).items()
                if name == "targets" or hasattr(value, "to")
            },
        )


def as_one(batches: Sequence[PackedBatch]) -> list[PackedBatch]:
    """The batches as parts of one that holds them all: their losses add up to its loss, whatever rows each has."""
    totals = {part: sum(batch.totals[part] for batch in batches) for part in batches[0].totals}
    return [
        dataclasses.replace(
            batch,
            totals=totals,
            shares={part: share * batch.totals[part] / max(totals[part], 1) for part, share in batch.shares.items()},
        )
        for batch in batches
    ]
