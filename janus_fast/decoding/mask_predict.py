"""Mask-predict over packed canvases, in shapes that no data decide: recorded for a GPU, or run as it is written.

``janus_fast.reference.mask_predict`` is the definition.
"""

import math
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from .. import ops
from ..ops.update_mask import Canvases
from ..packing import offsets_of
from ..reference.mask_predict import forbidding_bias, rank, require_finite, without_repeats
from ..visibility import Visibility
from .continuations import log_probs_of, log_softmax_of
from .fused import FusedModel
from .hypothesis import Hypothesis
from .options import NonAutoregressiveOptions
from .runtime import Eager
from .shapes import Room, Sources


@dataclass
class Outcome:
    """What a run leaves behind, on the device; lists have one entry for each pass."""

    lengths: Tensor  # [S, beam]
    length_log_probs: Tensor
    offsets: Tensor  # [S * beam + 1] of the canvases, whether there was room for them or not
    canvases: Canvases
    row_offsets: list[Tensor] = field(default_factory=list)  # [S * beam + 1] of the rows that the pass predicts
    masked: list[Tensor] = field(default_factory=list)  # [N] what the pass reads
    predicted: list[Tensor] = field(default_factory=list)  # [N] what the canvases then are, nothing masked again
    certain: list[Tensor] = field(default_factory=list)  # [N] the log-probabilities of that
    not_finite: list[Tensor] = field(default_factory=list)  # [1] scores that are not finite, after the pass
    read: Tensor | None = None  # [N] log-probabilities of what follows each row, left to right


class MaskPredict:
    """Encoder, lengths and all passes over ``room`` rows of canvases, for sources of which there is ``sources`` room.

    ``run`` neither waits for the device nor lets data decide a shape. Every pass computes all rows up to the last
    layer, done and missing canvases included; of those that are masked it computes as many as there can be. Without
    ``room`` it waits: to know how many rows the canvases have, and before each pass how many of them are masked. With
    ``options.rerank`` a last pass reads what they became.
    """

    def __init__(
        self, model: FusedModel, options: NonAutoregressiveOptions, sources: Sources, room: int | None = None,
        allowed: Tensor | None = None,
    ):  # fmt: skip
        self.model, self.options, self.sources, self.config = model, options, sources, model.config
        self.allowed = allowed  # [S, V], of each source the tokens that there are
        self.longest, self.waits = options.longest(self.config), room is None
        self.bias = forbidding_bias(model.model)
        if room is not None:
            self._make_room(room)
            self.masked_rows = [self._room_of(self._masked_rows(t)) for t in range(options.iterations)]

    def _make_room(self, capacity: int) -> None:
        device = self.sources.tokens.device
        self.room = Room(self.sources.room.sequences * self.options.length_beam, capacity, device)
        self.room.sees(*self._keys())
        self.no_scores = torch.zeros(capacity, device=device, dtype=torch.float32)
        self.masks = torch.full((capacity,), self.config.mask_token_id, device=device)

    def _keys(self) -> list[tuple[Room, int]]:
        return [(self.room, 1), (self.sources.room, self.options.length_beam)]

    def _room_of(self, rows: int) -> Room:
        """For so many of the canvases' rows."""
        return Room(self.room.sequences, rows, self.room.index.device).sees(*self._keys())

    def _masked_rows(self, done: int) -> int:
        """The most rows that are masked after ``done`` passes: ``update_mask`` masks this part of every canvas."""
        if self.config.predictable_mask:  # a predicted mask stays masked
            return self.room.capacity
        return math.ceil(self.room.capacity * (1.0 - done / self.options.iterations))

    def run(self) -> Outcome:
        outcome = self.begin()
        for iteration in range(self.options.iterations) if self.options.order == "parallel" else count():
            if self.waits and not outcome.canvases.row_offsets[-1]:
                break
            outcome.row_offsets.append(outcome.canvases.row_offsets)
            masked, outcome.canvases = outcome.canvases.masked_tokens, self.refine(outcome.canvases, iteration)
            if self.options.return_history or not self.waits:  # a recorded program serves those who want it, too
                outcome.masked.append(masked)
                outcome.predicted.append(outcome.canvases.tokens)
                outcome.certain.append(outcome.canvases.scores)
            outcome.not_finite.append(outcome.canvases.not_finite)
        if self.options.rerank:
            outcome.read = self.read(outcome.canvases.tokens)
        return outcome

    def begin(self) -> Outcome:
        """Encodes the sources and lays out a canvas of masks for each length that is tried."""
        decoder, options, held = self.model.model.decoder, self.options, self.sources.room.sequences
        encoded, source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        lengths, log_probs = ops.predict_lengths(  # also of the rows behind the sources
            encoded, source_offsets, decoder.embed_length.weight, beam=options.length_beam,
            candidates=options.length_candidates, max_length=self.longest,
        )  # fmt: skip
        lengths, log_probs = lengths[:held], log_probs[:held]
        offsets = self._canvas_offsets(lengths)
        if self.waits:
            self._make_room(int(offsets[-1]))
        self.offsets = offsets.clamp(max=self.room.capacity)
        self.packed = self.room.offsets(self.offsets), source_offsets
        self.places = self.room.places(self.packed[0])
        self.positions, first = decoder.embed_positions(self.places), self.places == 0
        # between bos and eos; the rows behind the canvases are bos
        tokens = self.masks.masked_fill(first.roll(-1), self.config.eos_token_id)
        tokens.masked_fill_(first, self.config.bos_token_id)
        nothing = tokens[:0], self.no_scores[:0]
        canvases = self._update(tokens, self.no_scores, tokens[:0], *nothing, ratio=0.0)
        return Outcome(lengths, log_probs, offsets, canvases)

    def _canvas_offsets(self, lengths: Tensor) -> Tensor:
        """Of equal lengths of a source the first alone has a canvas; of a source that is missing none has."""
        repeated = (lengths[:, :, None] == lengths[:, None, :]).tril(-1).any(-1)
        present = self.sources.offsets.diff() > 0
        rows = lengths * (repeated < present[:, None])  # not repeated, and present
        return torch.cat([self.sources.offsets[:1], rows.flatten().cumsum(0, dtype=torch.int32)])

    def refine(self, canvases: Canvases, iteration: int) -> Canvases:
        """One pass of the decoder: predict what is masked, mask the least certain again."""
        decoder, order = self.model.model.decoder, self.options.order
        rows = self._room_of(int(canvases.row_offsets[-1])) if self.waits else self.masked_rows[iteration]
        x = self.model.embed(decoder, canvases.masked_tokens, self.positions)
        listed = canvases.rows[: rows.capacity]
        seen = self.room.visibility(self.packed[0], *self.packed)
        seen_by_rows = rows.visibility(rows.offsets(canvases.row_offsets), *self.packed)
        hidden = self.model.refine(x, seen, self.cross_keys, listed, seen_by_rows)
        predictions = self._best(hidden, self.bias, listed)
        ratio, begins = 1.0 - (iteration + 1) / self.options.iterations, canvases.row_offsets
        if order != "parallel":
            chosen, ratio = next_of(order, begins, predictions[1]), 0.0
            listed, *predictions = listed[chosen], *(each[chosen] for each in predictions)
            begins = offsets_of(begins.diff() > 0)
        return self._update(
            canvases.tokens, canvases.scores, listed, *predictions, ratio=ratio, row_offsets=begins,
            adaptive=self.options.adaptive and order == "parallel",
        )  # fmt: skip

    def read(self, tokens: Tensor) -> Tensor:
        """The log-probability of what follows each row, left to right: as if canvases were given targets.

        Rows are content, ``eos`` too, which none that matters sees; then as many masks, which predict.
        """
        model, count, places = self.model.model, self.room.capacity, self.places.int()
        (own, canvases), (theirs, sources) = self.room.keys
        packed, seen = self.packed, []
        for streams in (2, 1):  # all rows, and those that predict
            offsets = packed[0] if streams == 1 else torch.cat([packed[0], packed[0][1:] + count])
            never, named = own.never.repeat(streams), [keys.repeat(streams) for keys in (canvases, sources)]
            causal = Visibility(offsets, packed[0], named[0], places.repeat(streams), places, own.forever)
            seen.append((causal, Visibility(offsets, packed[1], named[1], never, theirs.never, theirs.forever)))
        x = self.model.embed(model.decoder, torch.cat([tokens, self.masks]), self.positions.repeat(2, 1))
        hidden = self.model.refine(x, seen[0], self.cross_keys, own.index + count, seen[1], content=count)
        best, log_probs = self._best(hidden, model.output_bias, own.index)
        return log_probs_of(model, model.output_bias, tokens.roll(-1), hidden, best, log_probs)

    def _best(self, hidden: Tensor, bias: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token for each of these rows of the canvases, and its log-probability."""
        if self.allowed is None:
            return ops.linear_argmax(hidden, self.model.model.output_weight, bias)
        canvas = torch.searchsorted(self.offsets[1:].long(), rows.long(), right=True)
        allowed = self.allowed[canvas // self.options.length_beam]
        log_probs, best = log_softmax_of(self.model.model, hidden, bias, allowed).max(-1)
        return best, log_probs.float()

    def _update(self, *state: Tensor, **options) -> Canvases:
        return ops.update_mask(*state, self.offsets, mask_token=self.config.mask_token_id, static=True, **options)

    def results(
        self, outcome: Outcome, sources: int, options: NonAutoregressiveOptions, runtime: Eager
    ) -> tuple[int, list[list[Hypothesis]] | None]:
        """How many rows the canvases have; and the candidates of the first ``sources`` sources, best first, or None
        where there was no room for so many rows."""
        o = outcome
        read = [] if o.read is None else [o.read]
        shown = [o.masked, o.predicted, o.certain] if options.return_history else [[], [], []]
        parts = [o.row_offsets, o.not_finite, read, *shown]
        flat = [o.lengths, o.length_log_probs, o.offsets, o.canvases.tokens, o.canvases.scores]
        flat += [t for part in parts for t in part]
        lengths, length_log_probs, offsets, tokens, scores, *lists = runtime.download(*flat)()
        row_offsets, not_finite, read, *shown = ([lists.pop(0) for _ in part] for part in parts)
        lengths, length_log_probs, offsets = lengths[:sources], length_log_probs[:sources], offsets.tolist()
        if offsets[-1] > self.room.capacity:
            return offsets[-1], None
        require_finite("length", length_log_probs)
        if any(count.item() for count in not_finite):
            require_finite("prediction", scores.new_tensor([math.nan]))

        nothing = torch.zeros(len(offsets) - 1, dtype=torch.int32)
        passes = sum((begins.diff() > 0 for begins in row_offsets), nothing).tolist()
        tokens, scores, shown = tokens.tolist(), scores.tolist(), [[t.tolist() for t in part] for part in shown]
        groups: list[list[Hypothesis]] = []
        for source in range(sources):
            groups.append([])
            for canvas in range(source * options.length_beam, (source + 1) * options.length_beam):
                inner = slice(offsets[canvas] + 1, offsets[canvas + 1] - 1)
                if offsets[canvas] == offsets[canvas + 1]:
                    continue  # an earlier candidate has this length
                ids, history = tokens[inner], ()
                if options.return_history and passes[canvas]:
                    history = [[t[inner] for t in part[: passes[canvas]]] for part in shown]
                    history[0].append(ids)
                token_scores = scores[inner]
                for log_probs in read:
                    own = log_probs[offsets[canvas] : offsets[canvas + 1] - 1]
                    require_finite("candidate", own)
                    token_scores = own.tolist()
                if options.remove_repeats:
                    ids, token_scores = without_repeats(ids, token_scores)
                groups[-1].append(Hypothesis(ids, 0.0, token_scores, passes[canvas], *history))
        most_likely = lengths.gather(1, length_log_probs.argmax(1, keepdim=True))[:, 0].tolist()
        return offsets[-1], [rank(group, length, options) for group, length in zip(groups, most_likely, strict=True)]


def next_of(order: str, offsets: Tensor, log_probs: Tensor) -> Tensor:
    """Of each canvas that has masked rows, at ``offsets`` [S + 1] among all of them, the one that is filled next."""
    begins, ends = offsets[:-1].long(), offsets[1:].long()
    some = begins < ends
    if order == "right_to_left":
        return ends[some] - 1
    if order == "left_to_right":
        return begins[some]
    canvas = torch.arange(len(begins), device=offsets.device).repeat_interleave(ends - begins)
    surest = log_probs.argsort(descending=True, stable=True)
    return surest[canvas[surest].argsort(stable=True)][begins[some]]
