"""Mask-predict as one program without a word from the host: ``decoding/nar.py`` in shapes that no data decide."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ... import ops
from ...visibility import FOREVER, Visibility
from ..hypothesis import Hypothesis
from ..nar import forbidding_bias, rank, require_finite, settled
from ..options import NonAutoregressiveOptions
from .model import FusedModel
from .shapes import Room, Sources


@dataclass
class Outcome:
    """What a refinement leaves behind, on the device; lists have one entry for each pass."""

    lengths: Tensor  # [S, beam]
    length_log_probs: Tensor
    offsets: Tensor  # [S * beam + 1] of the canvases, whether there was room for them or not
    tokens: Tensor  # [N]
    scores: Tensor
    row_offsets: list[Tensor] = field(default_factory=list)  # [S * beam + 1] of the rows that the pass predicts
    done: list[Tensor] = field(
        default_factory=list
    )  # [S * beam] canvases that ignore the pass; from the second pass on
    masked: list[Tensor] = field(default_factory=list)  # [N] what the pass reads
    not_finite: list[Tensor] = field(default_factory=list)  # [1] scores that are not finite, after the pass


@dataclass
class Canvases:
    """The state of a refinement between two passes, as ``update_mask_static`` returns it."""

    tokens: Tensor
    scores: Tensor
    masked: Tensor
    rows: Tensor
    changed: Tensor
    row_offsets: Tensor
    totals: Tensor
    done: Tensor | None = None


class Refinement:
    """Encoder, lengths and all passes over ``room`` rows of canvases, for sources of which there is ``sources`` room.

    ``run`` neither waits for the device nor lets data decide a shape. Every pass computes all rows up to the last
    layer, done and missing canvases included; of what ``masked_rows`` lists it computes as many rows as there can be.
    """

    def __init__(self, model: FusedModel, options: NonAutoregressiveOptions, sources: Sources, room: int):
        self.model, self.options, self.sources, self.config = model, options, sources, model.config
        device, canvases = sources.tokens.device, sources.room.sequences * options.length_beam
        self.longest = options.longest(self.config)
        self.room = Room(canvases, room, device)
        self.bias = forbidding_bias(model.model)
        own = torch.arange(canvases, dtype=torch.int32, device=device)
        self.never, self.forever = torch.zeros_like(self.room.index), torch.full_like(self.room.index, FOREVER)
        self.no_scores = torch.zeros(room, device=device, dtype=torch.float32)
        self.nothing = torch.zeros(1, dtype=torch.int32, device=device)
        # Of each pass: room for the rows that it predicts, and which canvas and source these see.
        self.masked_rows = [Room(canvases, self._masked_rows(t), device) for t in range(options.iterations)]
        self.named = [
            (rows.naming(own, self.room.empty), rows.naming(own // options.length_beam, sources.room.empty))
            for rows in (self.room, *self.masked_rows)
        ]

    def _masked_rows(self, done: int) -> int:
        """The most rows that are masked after ``done`` passes: ``update_mask`` masks this part of every canvas."""
        if self.config.predictable_mask:  # a predicted mask stays masked
            return self.room.capacity
        return math.ceil(self.room.capacity * (1.0 - done / self.options.iterations))

    def run(self) -> Outcome:
        canvases, outcome = self.begin()
        for iteration in range(self.options.iterations):
            outcome.row_offsets.append(canvases.row_offsets)
            outcome.masked.append(canvases.masked)
            canvases = self.refine(canvases, iteration)
            outcome.not_finite.append(canvases.totals[2:])
            if canvases.done is not None:
                outcome.done.append(canvases.done)
        outcome.masked.append(canvases.masked)
        outcome.tokens, outcome.scores = canvases.tokens, canvases.scores
        return outcome

    def begin(self) -> tuple[Canvases, Outcome]:
        """Encodes the sources and lays out a canvas of masks for each length that is tried."""
        decoder, options = self.model.model.decoder, self.options
        encoded, source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        lengths, length_log_probs, wanted = torch.ops.janus_fast.predict_canvases(
            encoded, self.sources.offsets, decoder.embed_length.weight, options.length_beam,
            options.length_candidates == "window", 2, self.longest,
        )  # fmt: skip
        self.offsets = wanted.clamp(max=self.room.capacity)
        self.words = self.offsets.diff() - 2
        self.packed = self.room.offsets(self.offsets), source_offsets
        positions, last = self.room.places(self.packed[0])
        self.positions = decoder.embed_positions(positions)
        canvases = self._canvases_of_masks(positions, last)
        return canvases, Outcome(lengths, length_log_probs, wanted, canvases.tokens, canvases.scores)

    def _canvases_of_masks(self, positions: Tensor, last: Tensor) -> Canvases:
        """Canvases of masks between ``bos`` and ``eos``; the rows behind them are ``bos``."""
        config = self.config
        tokens = torch.full_like(positions, config.mask_token_id).masked_fill(last, config.eos_token_id)
        tokens.masked_fill_(positions == 0, config.bos_token_id)
        nothing = positions[:1], self.nothing, tokens[:1], self.no_scores[:1]
        return Canvases(*self._update(tokens, self.no_scores, *nothing, None, 0.0))

    def refine(self, canvases: Canvases, iteration: int) -> Canvases:
        """One pass of the decoder: predict what is masked, mask the least certain again."""
        decoder, rows = self.model.model.decoder, self.masked_rows[iteration]
        x = self.model.embed(decoder, canvases.masked, self.positions)
        listed = canvases.rows[: rows.capacity]
        seen, seen_by_rows = (
            self._sees(self.packed[0], 0),
            self._sees(rows.offsets(canvases.row_offsets), 1 + iteration),
        )
        hidden = self.model.refine(x, seen, self.cross_keys, listed, seen_by_rows)
        predicted, log_probs = ops.linear_argmax(hidden, self.model.model.output_weight, self.bias)
        ratio = 1.0 - (iteration + 1) / self.options.iterations
        state = self._update(
            canvases.tokens, canvases.scores, listed, canvases.totals, predicted, log_probs, canvases.done, ratio
        )
        following = Canvases(*state)
        if self.options.adaptive and iteration + 1 < self.options.iterations:
            following.done = settled(following.changed, following.row_offsets.diff(), self.words)
        return following

    def _update(self, tokens, scores, rows, row_count, predicted, log_probs, done, ratio: float):
        return torch.ops.janus_fast.update_mask_static(
            tokens, scores, rows, row_count, predicted, log_probs, self.offsets, done, ratio, self.config.mask_token_id
        )

    def _sees(self, offsets: Tensor, which: int) -> tuple[Visibility, Visibility]:
        """Which keys of canvases and of sources the rows at ``offsets`` see: all of their sequence."""
        canvases, sources = self.named[which]
        times = self.never[: self.room.capacity if which == 0 else self.masked_rows[which - 1].capacity]
        own = Visibility(offsets, self.packed[0], canvases, times, self.never, self.forever)
        held = self.sources
        return own, Visibility(offsets, self.packed[1], sources, times, held.never, held.forever)

    def results(
        self, outcome: Outcome, sources: int, options: NonAutoregressiveOptions, runtime
    ) -> tuple[int, list[list[Hypothesis]] | None]:
        """How many rows the canvases have; and the candidates of the first ``sources`` sources, best first, or None
        where there was no room for so many rows."""
        o = outcome
        parts = [o.row_offsets, o.done, o.masked if options.return_history else [], o.not_finite]
        flat = [o.lengths, o.length_log_probs, o.offsets, o.tokens, o.scores, *(t for part in parts for t in part)]
        lengths, length_log_probs, offsets, tokens, scores, *lists = runtime.download(*flat)()
        row_offsets, done, masked, not_finite = ([lists.pop(0) for _ in part] for part in parts)
        lengths, length_log_probs, offsets = lengths[:sources], length_log_probs[:sources], offsets.tolist()
        if offsets[-1] > self.room.capacity:
            return offsets[-1], None
        require_finite("length", length_log_probs)
        if any(count.item() for count in not_finite):
            require_finite("prediction", scores.new_tensor([math.nan]))

        predicts = torch.stack([begins.diff() > 0 for begins in row_offsets])
        if done:
            predicts[1:] &= ~torch.stack(done)
        passes = predicts.sum(0).tolist()
        tokens, scores, masked = tokens.tolist(), scores.tolist(), [m.tolist() for m in masked]
        groups: list[list[Hypothesis]] = []
        for source in range(sources):
            groups.append([])
            for canvas in range(source * options.length_beam, (source + 1) * options.length_beam):
                inner = slice(offsets[canvas] + 1, offsets[canvas + 1] - 1)
                if offsets[canvas] == offsets[canvas + 1]:
                    continue  # an earlier candidate has this length
                ids, history = tokens[inner], []
                if options.return_history and passes[canvas]:
                    history = [*(m[inner] for m in masked[: passes[canvas]]), ids]
                groups[-1].append(Hypothesis(ids, 0.0, scores[inner], passes[canvas], history))
        most_likely = lengths.gather(1, length_log_probs.argmax(1, keepdim=True))[:, 0].tolist()
        return offsets[-1], [rank(group, length, options) for group, length in zip(groups, most_likely, strict=True)]
