"""Attention patterns as visibility intervals: one integer a query, two integers a key.

A key ``j`` carries an interval ``[visible_from[j], visible_until[j])``, a query ``i`` a time ``query_times[i]``.
Within the same sequence, ``i`` sees ``j`` iff ``visible_from[j] <= query_times[i] < visible_until[j]``.

Every builder below is a few integers a row, because all the patterns share one form: a row of the content stream
looks around at its own time, its key appears at that same time, and only ``visible_until`` tells how long it stays.
``docs/visibility.md`` explains the idea and shows the patterns.
"""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor

from .inputs import integer
from .packing import offsets_of, ranges, stairs

FOREVER = 2**31 - 1


@dataclass(frozen=True, eq=False, repr=False)
class Visibility:
    """Which packed query rows see which packed key rows.

    ``Q`` query sequences lie one after another in ``Nq`` rows, ``K`` key sequences in ``Nk`` rows. Query sequence
    ``s`` attends to key sequence ``key_sequences[s]``; several may name the same one, so that streams of a sentence,
    or candidates of a source, share keys without copies.

    All tensors are int32 on one device: ``query_offsets`` [Q + 1], ``key_offsets`` [K + 1], ``key_sequences`` [Q],
    ``query_times`` [Nq], ``visible_from`` and ``visible_until`` [Nk].

    Self-attention patterns keep one layout: the rows are ``[content rows | query-only rows]`` and the keys are exactly
    the content rows, that is the first ``num_keys`` rows. Content sequence ``s`` attends to key sequence ``s``; a
    query stream is a second group of query sequences that names the same key sequences.

    Making one checks types and shapes; ``validate`` also reads the values. The class methods build the patterns of
    known systems; their lengths are 1-D tensors or lists of integers and may be 0, and anything else is a ValueError.
    """

    query_offsets: Tensor
    key_offsets: Tensor
    key_sequences: Tensor
    query_times: Tensor
    visible_from: Tensor
    visible_until: Tensor

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_tensor("Visibility", field.name, getattr(self, field.name), self.query_offsets)
        if self.key_sequences.numel() != self.query_offsets.numel() - 1:
            raise ValueError(
                f"Visibility: key_sequences must have one entry for each of the {self.query_offsets.numel() - 1} "
                f"query sequences, got {self.key_sequences.numel()}"
            )
        if self.visible_until.numel() != self.visible_from.numel():
            raise ValueError(
                f"Visibility: visible_until must have as many entries as visible_from ({self.visible_from.numel()}), "
                f"got {self.visible_until.numel()}"
            )

    def __repr__(self) -> str:
        queries = f"{self.num_queries} queries in {self.key_sequences.numel()} sequences"
        keys = f"{self.num_keys} keys in {self.key_offsets.numel() - 1} sequences"
        return f"Visibility({queries}, {keys}, {self.query_offsets.device})"

    @property
    def num_queries(self) -> int:
        """Nq, the query rows of all sequences."""
        return self.query_times.numel()

    @property
    def num_keys(self) -> int:
        """Nk, the key rows of all sequences."""
        return self.visible_from.numel()

    @property
    def is_causal(self) -> bool:
        """Whether this is what ``causal`` makes: sequences that attend to themselves, left to right."""
        own = Visibility.causal(self.key_offsets.diff())
        return all(torch.equal(getattr(self, field.name), getattr(own, field.name)) for field in fields(self))

    # Builders, vectorised over the sentences.

    @classmethod
    def bidirectional(
        cls, query_offsets: Tensor, key_offsets: Tensor | None = None, key_sequences: Tensor | None = None
    ) -> "Visibility":
        """Every query sees every key of its sequence: encoder, cross-attention, mask-predict decoder.

        Args:
            query_offsets: [Q + 1] int32, where each query sequence begins.
            key_offsets: [K + 1] int32, where each key sequence begins; by default keys are the queries' rows.
            key_sequences: [Q] int32, the key sequence of each query sequence; by default the one of the same number.
        """
        key_offsets = query_offsets if key_offsets is None else key_offsets
        for name, offsets in (("query_offsets", query_offsets), ("key_offsets", key_offsets)):
            _check_tensor("Visibility.bidirectional", name, offsets, query_offsets)
        if key_sequences is None:
            key_sequences = torch.arange(query_offsets.numel() - 1, dtype=torch.int32, device=query_offsets.device)
        nq, nk = int(query_offsets[-1]), int(key_offsets[-1])
        times = query_offsets.new_zeros(nq, dtype=torch.int32)
        first = query_offsets.new_zeros(nk, dtype=torch.int32)
        return cls(query_offsets, key_offsets, key_sequences, times, first, torch.full_like(first, FOREVER))

    @classmethod
    def causal(cls, lengths: Tensor) -> "Visibility":
        """Row ``i`` sees keys ``j <= i``: left to right.

        Args:
            lengths: [S], tokens of each sequence.
        Source: Transformer (Vaswani et al., 2017), decoder self-attention.
        """
        lengths = _integers("causal", "lengths", lengths)
        return cls._content(lengths, ranges(lengths))

    @classmethod
    def autoregressive(cls, lengths: Tensor) -> "Visibility":
        """JANUS, AR: a causal content stream and a query stream of the same lengths, which reads the same keys.

        Content row ``i`` and query row ``i`` both see content keys ``j <= i``. Rows: ``[content | queries]``.

        Args:
            lengths: [S], tokens of each sequence.
        Source: JANUS (Liang et al., EMNLP 2022).
        """
        lengths = _integers("autoregressive", "lengths", lengths)
        times = ranges(lengths)
        return cls._content(lengths, times, query_lengths=lengths, query_times=times)

    @classmethod
    def draft(cls, lengths: Tensor, known: Tensor, masked: Tensor) -> "Visibility":
        """JANUS, AR, and masks behind its first ``known`` tokens, which stand for the next ones in one pass.

        The content of a sentence is ``[token 0 .. | mask 0 .. m-1]``. Tokens and queries see what they see in
        ``autoregressive``, and no mask; mask ``c`` sees the tokens ``j < known`` and the masks up to itself, so that it
        is the same however many follow. Rows: ``[content | queries of the tokens]``.

        Args:
            lengths: [S], tokens of each sequence.
            known: [S], tokens that the masks see, 0 to its length.
            masked: [S], ``m`` of each sequence.
        Source: ours, for drafts that are verified from left to right: TiDAR (Liu et al., 2025), whose masks see each
            other, with the order of the cache for the masks, too.
        """
        lengths = _integers("draft", "lengths", lengths)
        known = _integers("draft", "known", known, shape_of=("lengths", lengths))
        masked = _integers("draft", "masked", masked, shape_of=("lengths", lengths))
        _refuse_longer("draft", "known", known, lengths)
        rows = lengths + masked
        tokens, place = lengths.repeat_interleave(rows), ranges(rows)
        # Between two tokens there is a moment for each mask; with the next token all masks are gone.
        step, seen = int(masked.max()) + 1 if masked.numel() else 1, known.repeat_interleave(rows)
        times = torch.where(place < tokens, (place + 1) * step, seen * step + 1 + place - tokens)
        until = torch.where(place < tokens, FOREVER, (seen + 1) * step)
        return cls._content(rows, times, until, query_lengths=lengths, query_times=(ranges(lengths) + 1) * step)

    @classmethod
    def janus(cls, visible: Tensor, masked: Tensor) -> "Visibility":
        """JANUS, NAR and AUX in one pass: what is visible, masks, and the true tokens behind the masks.

        With ``b`` masked tokens, the content of a sentence is ``[visible | mask 0 .. b-1 | true 0 .. b-1]``, and every
        row sees all visible tokens. Besides these,

            visible and mask rows (NAR) see  all masks,
            true row r            sees  masks c > r   and true tokens c <= r,
            AUX query r           sees  masks c >= r  and true tokens c < r.

        So every row sees exactly ``visible + b`` keys. Rows: ``[content of all sentences | AUX queries of all]``.

        Args:
            visible: [S], visible tokens of each sentence.
            masked: [S], masked tokens of each sentence.
        Source: JANUS (Liang et al., EMNLP 2022).
        """
        return cls._masked("janus", visible, masked, masks_first=True)

    @classmethod
    def mpnet(cls, visible: Tensor, masked: Tensor) -> "Visibility":
        """MPNet: permuted prediction that always sees a full sentence, by masks where tokens are yet to come.

        ``visible`` tokens are not predicted, ``masked`` are, in the order given. The content of a sentence is
        ``[visible | true 0 .. b-1 | mask 0 .. b-1]``; who sees what is as in ``janus``.

        Args:
            visible: [S], tokens of each sentence that are not predicted.
            masked: [S], tokens of each sentence that are.
        Source: MPNet (Song et al., NeurIPS 2020).
        """
        return cls._masked("mpnet", visible, masked, masks_first=False)

    @classmethod
    def xlnet(cls, lengths: Tensor, ranks: Tensor) -> "Visibility":
        """XLNet: two streams over a factorisation order.

        A target has the rank at which it is predicted, any other token rank -1. Content row ``i`` sees keys of rank at
        most its own (itself included), the query row of target ``i`` those of a lower rank. Targets of one sentence
        that share a rank are predicted at once. Rows: ``[content | one query for each target, in token order]``.

        Args:
            lengths: [S], tokens of each sequence.
            ranks: [N], the rank of each token, -1 or more.
        Source: XLNet (Yang et al., NeurIPS 2019); without the memory of earlier segments.
        """
        lengths = _integers("xlnet", "lengths", lengths)
        ranks = _integers("xlnet", "ranks", ranks, at_least=-1)
        if ranks.numel() != int(lengths.sum()):
            raise ValueError(
                f"Visibility.xlnet: ranks must have one entry for each of the {int(lengths.sum())} tokens, "
                f"got {ranks.numel()}"
            )
        target = ranks >= 0
        targets_before = torch.nn.functional.pad(target.cumsum(0), (1, 0))
        query_lengths = targets_before[offsets_of(lengths).long()].diff()
        return cls._content(lengths, ranks + 1, query_lengths=query_lengths, query_times=ranks[target])

    @classmethod
    def prophetnet(cls, lengths: Tensor, streams: int) -> "Visibility":
        """ProphetNet: a causal main stream, and query streams that predict further and further ahead of it.

        Main row ``i`` sees main ``j <= i``, and so does row ``i`` of every stream. Stream ``s`` has ``T - s`` rows, as
        its row ``i`` stands for what is ``s`` tokens further than the next one. Stream 0 is that of ``autoregressive``.
        Rows: ``[main | stream 0 .. n-1 of each sentence]``.

        Args:
            lengths: [S], ``T`` of each sentence.
            streams: n, at least 1.
        Source: ProphetNet (Qi et al., Findings of EMNLP 2020), n-gram prediction, whose predicting rows are also keys,
            each for itself alone.
        """
        lengths, down = _streams("prophetnet", lengths, streams)
        rows, _, known = stairs(lengths, down)
        return cls._content(lengths, ranges(lengths), query_lengths=rows, query_times=known)

    @classmethod
    def bang(cls, lengths: Tensor, streams: int) -> "Visibility":
        """BANG: predicting streams that bridge AR (stream 1) and NAR (the first rows of all streams), and AR queries.

        The content of a sentence is ``[main 0 .. T-1 | stream 1 | .. | stream N]``. Main row ``p`` sees main
        ``j <= p``. Row ``p`` of stream ``s``, ``p`` from ``s`` to ``T``, stands for token ``p`` when the ``s - 1``
        tokens before it are unknown too: it sees main ``j <= p - s`` and, for each token from there to ``p``, the row
        that knows as much, which is row ``p - s + k`` of stream ``k``, ``k`` from 1 to ``s``. So behind every main row
        there is a chain of N masks, as far as the sentence goes, each of which sees those before it: the masks of
        ``draft``. Queries are those of ``autoregressive``. Rows: ``[content | queries of the main rows]``.

        Args:
            lengths: [S], ``T`` of each sentence.
            streams: N, at least 1.
        Source: BANG (Qi et al., ICML 2021), cross-stream visible n-stream self-attention in pre-training, but for the
            queries, and without the rows that see no main row.
        """
        lengths, down = _streams("bang", lengths, streams)
        rows, stream, known = stairs(lengths, [0, *down])
        step = streams + 1
        until = torch.where(stream == 0, FOREVER, (known + 1) * step)
        return cls._content(
            rows, known * step + stream, until, query_lengths=lengths, query_times=ranges(lengths) * step
        )

    @classmethod
    def concatenate(cls, parts: Iterable["Visibility"]) -> tuple["Visibility", list[tuple[int, int]]]:
        """Joins patterns that do not see each other into one, so that one forward serves them all.

        Its rows are ``[content rows of all parts | query-only rows of all parts]``: the keys stay the first rows.

        Returns:
            The joint pattern, and for each part the rows ``(content, query)`` at which its content rows and its
            query-only rows begin.
        Raises:
            ValueError: no parts, parts on several devices, or a part whose keys are not its first rows.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("Visibility.concatenate: parts must have at least one Visibility, got none")
        num_sequences = [part.key_offsets.numel() - 1 for part in parts]
        for number, (part, sequences) in enumerate(zip(parts, num_sequences, strict=True)):
            if part.query_offsets.device != parts[0].query_offsets.device:
                raise ValueError(
                    f"Visibility.concatenate: parts must be on one device, "
                    f"got {parts[0].query_offsets.device} and {part.query_offsets.device}"
                )
            own = torch.arange(sequences, dtype=torch.int32, device=part.key_sequences.device)
            if not (
                torch.equal(part.query_offsets[: sequences + 1], part.key_offsets)
                and torch.equal(part.key_sequences[:sequences], own)
            ):
                raise ValueError(
                    f"Visibility.concatenate: parts must have their keys as first rows (self-attention), "
                    f"got part {number}: {part}"
                )

        content_lengths = [part.key_offsets.diff() for part in parts]
        query_lengths = [part.query_offsets[k:].diff() for part, k in zip(parts, num_sequences, strict=True)]
        first_sequence = list(accumulate(num_sequences, initial=0))
        sequences = [
            part.key_sequences[k:] + first for part, k, first in zip(parts, num_sequences, first_sequence, strict=False)
        ]
        own = torch.arange(first_sequence[-1], dtype=torch.int32, device=parts[0].key_sequences.device)
        joint = cls(
            offsets_of(torch.cat(content_lengths + query_lengths)), offsets_of(torch.cat(content_lengths)),
            torch.cat([own, *sequences]),
            torch.cat([p.query_times[: p.num_keys] for p in parts] + [p.query_times[p.num_keys :] for p in parts]),
            torch.cat([p.visible_from for p in parts]), torch.cat([p.visible_until for p in parts]),
        )  # fmt: skip
        content_rows = accumulate((p.num_keys for p in parts), initial=0)
        query_rows = accumulate((p.num_queries - p.num_keys for p in parts), initial=joint.num_keys)
        return joint, list(zip(content_rows, query_rows, strict=True))[:-1]

    def rows(self, index: Tensor) -> "Visibility":
        """The same keys seen by the query rows ``index`` (ascending) alone."""
        offsets = torch.searchsorted(index, self.query_offsets.to(index.dtype)).to(torch.int32)
        return Visibility(
            offsets, self.key_offsets, self.key_sequences, self.query_times[index], self.visible_from,
            self.visible_until,
        )  # fmt: skip

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Visibility":
        """The same on another device."""
        return Visibility(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def validate(self) -> "Visibility":
        """Checks the values and returns self. Reads every offset: for tests and hand-made patterns, not for each step.

        Raises:
            ValueError: offsets do not begin at 0, decrease, or do not end at the number of rows; ``key_sequences``
                names a sequence that does not exist.
        """
        for name, offsets, rows in (
            ("query_offsets", self.query_offsets, self.num_queries),
            ("key_offsets", self.key_offsets, self.num_keys),
        ):
            if int(offsets[0]) != 0 or int(offsets[-1]) != rows:
                raise ValueError(
                    f"Visibility: {name} must begin at 0 and end at the number of rows, {rows}, "
                    f"got {int(offsets[0])} and {int(offsets[-1])}"
                )
            falls = (offsets.diff() < 0).nonzero()
            if falls.numel():
                at = int(falls[0])
                raise ValueError(
                    f"Visibility: {name} must not decrease, got {int(offsets[at])} before {int(offsets[at + 1])} "
                    f"at sequence {at}"
                )
        num_sequences = self.key_offsets.numel() - 1
        foreign = self.key_sequences[(self.key_sequences < 0) | (self.key_sequences >= num_sequences)]
        if foreign.numel():
            raise ValueError(
                f"Visibility: key_sequences must name one of the {num_sequences} key sequences, got {int(foreign[0])}"
            )
        return self

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

    def intervals(self) -> Tensor:
        """[Nq, n, 2] int32: the keys that each query sees, as intervals ``[begin, end)`` of key rows.

        The row form of a pattern, as other attention kernels want it: FlexAttention, for one, whose ``mask_mod`` is
        then ``any(begin[q, i] <= k < end[q, i])``. A query's intervals ascend and do not touch. ``n`` is the most that
        one has, at least 1; a query with fewer ends with ``[0, 0)``. On a GPU reads ``n`` back. O(Nq * Nk) memory.
        """
        sees = torch.nn.functional.pad(self.dense(), (1, 1))
        query, bound = (sees[:, 1:] != sees[:, :-1]).nonzero(as_tuple=True)  # begin and end in turn
        counts = torch.bincount(query, minlength=self.num_queries)
        most = max(2, int(counts.max())) if self.num_queries else 2
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        intervals = torch.zeros(self.num_queries, most, dtype=torch.int32, device=query.device)
        intervals[query, place] = bound.int()
        return intervals.view(self.num_queries, most // 2, 2)

    def plot(
        self, ax=None, *, title: str | None = None, query_groups: Sequence[tuple[str, int]] | None = None,
        key_groups: Sequence[tuple[str, int]] | None = None, query_labels: Sequence[str] | None = None,
        key_labels: Sequence[str] | None = None, colours: Mapping[str, str] | None = None,
    ):  # fmt: skip
        """Draws who sees whom: a row for each query, a column for each key, coloured by the key's group.

        Args:
            ax: matplotlib axes; a new figure without.
            title: above the picture.
            query_groups, key_groups: ``(name, rows)`` of consecutive rows, for instance
                ``[("visible", 3), ("masks", 2), ("true", 2)]``; without, the sequences.
            query_labels, key_labels: a short name for each row.
            colours: colours of key groups by name; the others take the next of a colour-blind-safe palette.
        Returns:
            The matplotlib axes.
        Raises:
            ImportError: matplotlib is missing.
            ValueError: groups or labels do not add up to the rows.
        """
        from .visibility_plot import plot

        return plot(self, ax, title, query_groups, key_groups, query_labels, key_labels, colours)

    @classmethod
    def _content(
        cls, lengths: Tensor, times: Tensor, until: Tensor | None = None, query_lengths: Tensor | None = None,
        query_times: Tensor | None = None,
    ) -> "Visibility":  # fmt: skip
        """Content rows whose keys appear at the row's own time and stay until ``until``; then a query stream."""
        key_offsets = offsets_of(lengths)
        key_sequences = torch.arange(lengths.numel(), dtype=torch.int32, device=lengths.device)
        times = times.to(torch.int32)
        until = torch.full_like(times, FOREVER) if until is None else until.to(torch.int32)
        if query_lengths is None:
            return cls(key_offsets, key_offsets, key_sequences, times, times, until)
        query_offsets = offsets_of(torch.cat([lengths, query_lengths]))
        query_times = torch.cat([times, query_times.to(torch.int32)])
        return cls(query_offsets, key_offsets, key_sequences.repeat(2), query_times, times, until)

    @classmethod
    def _masked(cls, builder: str, visible: Tensor, masked: Tensor, masks_first: bool) -> "Visibility":
        """``janus`` and ``mpnet``: mask c leaves at time c + 1, when true token c appears."""
        visible = _integers(builder, "visible", visible)
        masked = _integers(builder, "masked", masked, shape_of=("visible", visible))
        lengths = visible + 2 * masked
        b = masked.repeat_interleave(lengths)
        place = ranges(lengths) - visible.repeat_interleave(lengths)  # below 0: visible; then two blocks of b
        second = place >= b
        true = second if masks_first else (place >= 0) & ~second
        mask = (place >= 0) & ~true
        swap = torch.where(second, place - b, place) + 1  # c + 1, when true token c takes over from mask c
        times = torch.where(true, swap, 0)
        return cls._content(lengths, times, torch.where(mask, swap, FOREVER), masked, ranges(masked))


def _check_tensor(owner: str, name: str, value: Tensor, first: Tensor) -> None:
    """Refuses what is no tensor of a Visibility, which lies where its ``first`` does."""
    place = f" on {first.device}" if isinstance(first, Tensor) else ""
    if not _is_dense(value) or value.dtype != torch.int32 or value.dim() != 1 or value.device != first.device:
        raise ValueError(f"{owner}: {name} must be a 1-D int32 tensor{place}, got {_shown(value)}")
    if name.endswith("_offsets") and value.numel() == 0:
        raise ValueError(f"{owner}: {name} must have one entry more than there are sequences, got none")


def _is_dense(value) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def _shown(value) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested:  # whose shape is none
        return "a nested tensor"
    layout = "" if _is_dense(value) else f"{value.layout} of "
    return f"{layout}{value.dtype} {list(value.shape)} on {value.device}"


def _integers(
    builder: str, name: str, value: Tensor, at_least: int = 0, shape_of: tuple[str, Tensor] | None = None
) -> Tensor:
    """A builder's argument as an int64 tensor, or a ValueError that says what is wrong with it."""
    rule = f"Visibility.{builder}: {name} must be a 1-D tensor of integers"
    try:
        tensor = torch.as_tensor(value, dtype=torch.int64 if isinstance(value, (list, tuple)) and not value else None)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{rule}, got {reprlib.repr(value)}") from None
    if (
        not _is_dense(tensor)
        or tensor.dim() != 1
        or tensor.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    ):
        raise ValueError(f"{rule}, got {_shown(tensor)}")
    if shape_of is not None and tensor.shape != shape_of[1].shape:
        raise ValueError(
            f"Visibility.{builder}: {name} must have one entry for each of the {shape_of[1].numel()} {shape_of[0]}, "
            f"got {tensor.numel()}"
        )
    if tensor.numel() and int(tensor.min()) < at_least:
        raise ValueError(f"Visibility.{builder}: {name} must be at least {at_least}, got {int(tensor.min())}")
    return tensor.long()


def _refuse_longer(builder: str, name: str, value: Tensor, lengths: Tensor) -> None:
    if bool((value > lengths).any()):
        at = int((value > lengths).nonzero()[0])
        raise ValueError(
            f"Visibility.{builder}: {name} must not exceed lengths, "
            f"got {int(value[at])} of {int(lengths[at])} at sequence {at}"
        )


def _streams(builder: str, lengths: Tensor, streams: int) -> tuple[Tensor, list[int]]:
    """Lengths [S]; and by how many rows each of the streams is shorter."""
    lengths = _integers(builder, "lengths", lengths)
    streams = integer(f"Visibility.{builder}: streams", streams, 1)
    return lengths, [*range(streams)]
