"""The streams that objectives are made of, and how they are joined into one packed forward."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..packing import offsets_of, ranges
from ..visibility import Visibility
from .packed_batch import PackedBatch


@dataclass
class Streams:
    """Content rows (queries and keys) of every sentence, then query-only rows of every sentence.

    ``predictions`` names the streams that these rows are read as: of each the rows, numbered through content and query
    rows, and the tokens that they predict. ``compared`` are those among the rows of a stream that divergences compare,
    all of a stream that it does not name. With ``every`` = n the sentences are the first, the n-th after it and so on
    of the batch.
    """

    tokens: tuple[Tensor, Tensor]
    positions: tuple[Tensor, Tensor]
    visibility: Visibility
    predictions: dict[str, tuple[Tensor, Tensor]]
    every: int = 1
    compared: dict[str, Tensor] = field(default_factory=dict)


def sentences_of(lengths: Tensor) -> Tensor:
    """The sentence number of every packed row."""
    return torch.arange(lengths.numel()).repeat_interleave(lengths)


def autoregressive_streams(
    target: Tensor, lengths: Tensor, mask_token: int, every: int = 1, name: str = "ar"
) -> Streams:
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
        predictions={name: (tokens.numel() + torch.arange(tokens.numel()), target[~first_rows(lengths)])},
        every=every,
    )


def drafting_streams(target: Tensor, lengths: Tensor, drafted: Tensor, mask_token: int, every: int = 1) -> Streams:
    """JANUS's AR pair, and masks among its content rows that stand for the next words: a draft over the AR keys.

    The masks of a sentence stand from the first to the last of its places ``drafted`` [Nt] bool. Each sees the content
    rows and the masks before it; those at the places ``drafted`` predict the target's token there, ``eos`` too: the
    stream ``draft``.
    """
    chosen = sentences_of(lengths) % every == 0
    target, drafted, lengths = target[chosen], drafted[chosen], lengths[::every]
    pair, place, sentence = autoregressive_streams(target, lengths, mask_token), ranges(lengths), sentences_of(lengths)
    tokens = lengths - 1
    known = tokens.scatter_reduce(0, sentence[drafted], place[drafted], "amin")
    masks = known.scatter_reduce(0, sentence[drafted], place[drafted] + 1, "amax") - known
    mask_place = ranges(masks) + known.repeat_interleave(masks)
    order = torch.cat([sentences_of(tokens), sentences_of(masks)]).argsort(stable=True)
    before = offsets_of(tokens + masks)[:-1] + tokens - known  # which row a mask at place 0 would be
    (content, queries), (content_place, query_place) = pair.tokens, pair.positions
    return Streams(
        tokens=(torch.cat([content, torch.full_like(mask_place, mask_token)])[order], queries),
        positions=(torch.cat([content_place, mask_place])[order], query_place),
        visibility=Visibility.draft(tokens, known, masks),
        predictions={
            **{name: (index + mask_place.numel(), wanted) for name, (index, wanted) in pair.predictions.items()},
            "draft": ((before[sentence] + place)[drafted], target[drafted]),
        },
        every=every,
    )


def causal_streams(target: Tensor, lengths: Tensor, name: str = "ar") -> Streams:
    """An ordinary decoder: row i, the target's token i, predicts token i + 1 from the rows 0 .. i."""
    tokens, nothing = target[~first_rows(lengths).roll(-1)], target[:0]
    positions = ranges(lengths - 1)
    return Streams(
        tokens=(tokens, nothing),
        positions=(positions, nothing),
        visibility=Visibility.causal(lengths - 1),
        predictions={name: (torch.arange(tokens.numel()), target[~first_rows(lengths)])},
    )


def masked_streams(
    target: Tensor, lengths: Tensor, masked: Tensor, predicted: Tensor, mask_token: int, *, auxiliary: bool,
    ranks: Tensor | None = None,
) -> Streams:  # fmt: skip
    """JANUS's NAR and AUX pair for the places ``masked`` [Nt] bool of the target.

    Content rows of a sentence: visible tokens, mask tokens (they predict ``nar``), the original tokens behind the
    masks. Query rows (they predict ``aux``): masks again. Without ``auxiliary``, visible and mask tokens alone, in the
    order of the target: the mask-predict forward. Of the masks, those at the places ``predicted`` [Nt] bool predict.

    AUX predicts from left to right or, with ``ranks`` [Nt], from the lowest to the highest: MPNet's pair, in which the
    original tokens stand before the masks.
    """
    positions, sentence = ranges(lengths), sentences_of(lengths)
    chosen = masked.nonzero().flatten()
    if ranks is not None:
        chosen = chosen[(sentence * target.numel() + ranks)[chosen].argsort(stable=True)]
    hidden, place, owner = target[chosen], positions[chosen], sentence[chosen]
    masks = torch.full_like(hidden, mask_token)
    nothing = target[:0]
    if not auxiliary:
        return Streams(
            tokens=(target.masked_fill(masked, mask_token), nothing),
            positions=(positions, nothing),
            visibility=Visibility.bidirectional(offsets_of(lengths)),
            predictions={"nar": (predicted.nonzero().flatten(), target[predicted])},
        )
    mask, true = (1, 2) if ranks is None else (2, 1)
    pattern = Visibility.janus if ranks is None else Visibility.mpnet
    # sorts by sentence, then by group; stable, so that the order within a group is the one of prediction
    order = torch.cat([sentence[~masked] * 3, owner * 3 + mask, owner * 3 + true]).argsort(stable=True)
    group = torch.tensor([0, mask, true]).repeat_interleave(torch.tensor([(~masked).sum(), len(hidden), len(hidden)]))
    count = torch.zeros_like(lengths).index_add(0, sentence, masked.long())
    predict = predicted[chosen].nonzero().flatten()
    return Streams(
        tokens=(torch.cat([target[~masked], masks, hidden])[order], masks),
        positions=(torch.cat([positions[~masked], place, place])[order], place),
        visibility=pattern(lengths - count, count),
        predictions={
            "nar": ((group == mask)[order].nonzero().flatten()[predict], hidden[predict]),
            "aux": (order.numel() + predict, hidden[predict]),
        },
    )


def join(source: Tensor, source_lengths: Tensor, parts: list[Streams], encoder_passes: int = 1) -> PackedBatch:
    """One packed batch of all parts: the content rows of each, then the query rows of each.

    With two encoder passes ``source`` holds the sentences twice: every other part attends to the second copy.
    """
    source_offsets = offsets_of(source_lengths)
    visibility, begins = Visibility.concatenate(part.visibility for part in parts)
    # cross-attention: query sequences in the packing order, each naming its sentence's source
    count = source_lengths.numel() // encoder_passes
    order = [(part, 0, n % encoder_passes) for n, part in enumerate(parts)]
    order += [(part, 1, copy) for part, _, copy in order if _has_queries(part.visibility)]
    sentences = torch.cat(
        [torch.arange(0, count, part.every, dtype=torch.int32) + copy * count for part, _, copy in order]
    )
    cross = Visibility.bidirectional(visibility.query_offsets, source_offsets, sentences)

    found, targets, compared = {}, {}, {}
    for part, (content, query) in zip(parts, begins, strict=True):
        size = part.tokens[0].numel()
        for name, (index, wanted) in part.predictions.items():
            found[name], targets[name] = torch.where(index < size, index + content, index - size + query), wanted
        compared |= part.compared
    rows, order_of_rows = torch.cat(list(found.values())).sort()
    places = order_of_rows.argsort().split([index.numel() for index in found.values()])
    return PackedBatch(
        source=source,
        source_offsets=source_offsets,
        tokens=torch.cat([part.tokens[kind] for part, kind, _ in order]),
        positions=torch.cat([part.positions[kind] for part, kind, _ in order]),
        visibility=visibility,
        cross=cross,
        rows=rows,
        parts={name: _as_slice(place) for name, place in zip(found, places, strict=True)},
        targets=targets,
        compared=compared,
    )


def first_rows(lengths: Tensor) -> Tensor:
    """Which packed rows are the first of their sentence."""
    return ranges(lengths) == 0


def _has_queries(visibility: Visibility) -> bool:
    return visibility.query_offsets.numel() > visibility.key_offsets.numel()


def _as_slice(places: Tensor) -> slice | Tensor:
    """Places that follow one another as a slice, whose rows are a view."""
    first, size = int(places[0]) if places.numel() else 0, places.numel()
    return slice(first, first + size) if bool((places.diff() == 1).all()) else places
