"""The streams that objectives are made of, and how they are joined into one packed forward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..packing import offsets_of, ranges
from ..visibility import Visibility
from .packed_batch import PackedBatch


@dataclass
class Streams:
    """Content rows (queries and keys) of every sentence, then query-only rows of every sentence.

    ``predicted`` is a bool mask over the content rows that predict a token; all query rows do. ``names`` are the names
    of these two parts (None: nothing is predicted there) and ``targets`` their tokens. With ``every`` = n the sentences
    are the first, the n-th after it and so on of the batch.
    """

    tokens: tuple[Tensor, Tensor]
    positions: tuple[Tensor, Tensor]
    visibility: Visibility
    predicted: Tensor
    names: tuple[str | None, str | None]
    targets: tuple[Tensor, Tensor]
    every: int = 1


def sentences_of(lengths: Tensor) -> Tensor:
    """The sentence number of every packed row."""
    return torch.arange(lengths.numel()).repeat_interleave(lengths)


def autoregressive_streams(target: Tensor, lengths: Tensor, mask_token: int, every: int = 1) -> Streams:
    """JANUS's AR pair: content rows are the target without its last token, query rows masks at the same positions.

    Query row i predicts token i + 1 from the content rows 0 .. i. Of the sentences, each ``every``-th alone has them.
    """
    target, lengths = target[sentences_of(lengths) % every == 0], lengths[::every]
    positions, sentence = ranges(lengths), sentences_of(lengths)
    content = positions < (lengths - 1)[sentence]
    tokens, positions, sentence = target[content], positions[content], sentence[content]
    return Streams(
        tokens=(tokens, torch.full_like(tokens, mask_token)),
        positions=(positions, positions),
        visibility=Visibility.autoregressive(lengths - 1),
        predicted=torch.zeros_like(content[content]),
        names=(None, "ar"),
        targets=(tokens[:0], target[~_first_rows(lengths)]),
        every=every,
    )


def causal_streams(target: Tensor, lengths: Tensor) -> Streams:
    """An ordinary decoder: row i, the target's token i, predicts token i + 1 from the rows 0 .. i."""
    tokens, nothing = target[~_first_rows(lengths).roll(-1)], target[:0]
    positions = ranges(lengths - 1)
    return Streams(
        tokens=(tokens, nothing),
        positions=(positions, nothing),
        visibility=Visibility.causal(lengths - 1),
        predicted=torch.ones_like(tokens, dtype=torch.bool),
        names=("ar", None),
        targets=(target[~_first_rows(lengths)], nothing),
    )


def masked_streams(target: Tensor, lengths: Tensor, masked: Tensor, mask_token: int, *, auxiliary: bool) -> Streams:
    """JANUS's NAR and AUX pair for the places ``masked`` [Nt] bool of the target.

    Content rows of a sentence: visible tokens, mask tokens (they predict ``nar``), the original tokens behind the
    masks. Query rows (they predict ``aux``): masks again. Without ``auxiliary``, visible and mask tokens alone, in the
    order of the target: the mask-predict forward.
    """
    positions, sentence = ranges(lengths), sentences_of(lengths)
    hidden, place, owner = target[masked], positions[masked], sentence[masked]
    masks = torch.full_like(hidden, mask_token)
    nothing = target[:0]
    if not auxiliary:
        return Streams(
            tokens=(target.masked_fill(masked, mask_token), nothing),
            positions=(positions, nothing),
            visibility=Visibility.bidirectional(offsets_of(lengths)),
            predicted=masked,
            names=("nar", None),
            targets=(hidden, nothing),
        )
    # sorts by sentence, then by group; stable, so that the order within a group is left to right
    order = torch.cat([sentence[~masked] * 3, owner * 3 + 1, owner * 3 + 2]).argsort(stable=True)
    group = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([(~masked).sum(), len(hidden), len(hidden)]))
    count = torch.zeros_like(lengths).index_add(0, sentence, masked.long())
    return Streams(
        tokens=(torch.cat([target[~masked], masks, hidden])[order], masks),
        positions=(torch.cat([positions[~masked], place, place])[order], place),
        visibility=Visibility.janus(lengths - count, count),
        predicted=(group == 1)[order],
        names=("nar", "aux"),
        targets=(hidden, hidden),
    )


def join(source: Tensor, source_lengths: Tensor, parts: list[Streams], encoder_passes: int = 1) -> PackedBatch:
    """One packed batch of all parts: the content rows of each, then the query rows of each.

    With two encoder passes ``source`` holds the sentences twice: every other part attends to the second copy.
    """
    source_offsets = offsets_of(source_lengths)
    visibility, _ = Visibility.concatenate(part.visibility for part in parts)
    # cross-attention: query sequences in the packing order, each naming its sentence's source
    count = source_lengths.numel() // encoder_passes
    copies = [n % encoder_passes for n in range(len(parts))]
    contents = [(part, 0, copy) for part, copy in zip(parts, copies, strict=True)]
    queries = [(part, 1, copy) for part, _, copy in contents if part.tokens[1].numel() or part.names[1]]
    order = contents + queries
    sentences = torch.cat(
        [torch.arange(0, count, part.every, dtype=torch.int32) + copy * count for part, _, copy in order]
    )
    cross = Visibility.bidirectional(visibility.query_offsets, source_offsets, sentences)

    rows, slices, targets, start, first = [], {}, {}, 0, 0
    for part, kind, _ in order:
        size = part.tokens[kind].numel()
        index = torch.arange(size) if kind else part.predicted.nonzero().flatten()
        if name := part.names[kind]:
            rows.append(index + start)
            slices[name] = slice(first, first + index.numel())
            targets[name] = part.targets[kind]
            first += index.numel()
        start += size
    return PackedBatch(
        source=source,
        source_offsets=source_offsets,
        tokens=torch.cat([part.tokens[kind] for part, kind, _ in order]),
        positions=torch.cat([part.positions[kind] for part, kind, _ in order]),
        visibility=visibility,
        cross=cross,
        rows=torch.cat(rows),
        parts=slices,
        targets=targets,
    )


def _first_rows(lengths: Tensor) -> Tensor:
    return ranges(lengths) == 0
