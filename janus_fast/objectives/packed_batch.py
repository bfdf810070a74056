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
    ``parts`` says by the name of a stream which of them are its own, and ``targets`` holds each stream's tokens.
    ``compared`` are the rows of a stream that divergences compare, in the order of the others; all of one that it does
    not name. ``source_rows`` [E] int64 are the rows of the source that predict the targets of the stream ``encoder``,
    if there is one. ``totals`` counts the rows of each stream, and under ``kl`` those compared, under ``length`` the
    sentences, of the whole batch; ``shares`` says of each of these what share this one has: 1 where no others have
    the rest.
    """

    source: Tensor
    source_offsets: Tensor
    tokens: Tensor
    positions: Tensor
    visibility: Visibility
    cross: Visibility
    rows: Tensor
    parts: dict[str, slice | Tensor]
    targets: dict[str, Tensor]
    compared: dict[str, Tensor]
    source_rows: Tensor | None = None
    lengths: Tensor | None = None
    totals: dict[str, int] | None = None
    shares: dict[str, float] | None = None

    def to(self, device) -> "PackedBatch":
        """The same on another device."""

        def moved(value):
            if isinstance(value, dict):
                return {name: moved(each) for name, each in value.items()}
            return value.to(device) if hasattr(value, "to") else value

        return PackedBatch(**{name: moved(value) for name, value in vars(self).items()})


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
