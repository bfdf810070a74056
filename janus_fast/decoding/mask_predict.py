"""Mask-predict over packed canvases, in shapes that no data decide: recorded for a GPU, or run as it is written."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops
from ..ops.update_mask import Canvases
from ..reference.mask_predict import forbidding_bias, rank, require_finite
from ..visibility import FOREVER, Visibility
from .fused import FusedModel
from .hypothesis import Hypothesis
from .options import NonAutoregressiveOptions
from .runtime import Eager
from .shapes import Room, Sources


@torch.inference_mode()
def run_eagerly(
    model: FusedModel, sources: list[list[int]], options: NonAutoregressiveOptions
) -> list[list[Hypothesis]]:
    """In buffers of just the size that these sources need; it waits to know it, and ends when no word is masked."""
    program = MaskPredict(model, options, Sources(model.model, len(sources), sum(map(len, sources))))
    program.sources.load(sources, Eager())
    return program.results(program.run(), len(sources), options, Eager())[1]


@dataclass
class Outcome:
    """What a run leaves behind, on the device; lists have one entry for each pass."""

    lengths: Tensor  # [S, beam]
    length_log_probs: Tensor
    offsets: Tensor  # [S * beam + 1] of the canvases, whether there was room for them or not
    canvases: Canvases
    row_offsets: list[Tensor] = field(default_factory=list)  # [S * beam + 1] of the rows that the pass predicts
    masked: list[Tensor] = field(default_factory=list)  # [N] what the pass reads
    not_finite: list[Tensor] = field(default_factory=list)  # [1] scores that are not finite, after the pass


class MaskPredict:
    """Encoder, lengths and all passes over ``room`` rows of canvases, for sources of which there is ``sources`` room.

    ``run`` neither waits for the device nor lets data decide a shape, but where it has no ``room``, which it makes when
    it knows the lengths. Every pass computes all rows up to the last layer, done and missing canvases included; of what
    ``masked_rows`` lists it computes as many rows as there can be.
    """

    def __init__(self, model: FusedModel, options: NonAutoregressiveOptions, sources: Sources, room: int | None = None):
        self.model, self.options, self.sources, self.config = model, options, sources, model.config
        self.longest, self.waits = options.longest(self.config), room is None
        self.bias = forbidding_bias(model.model)
        if room is not None:
            self._make_room(room)

    def _make_room(self, capacity: int) -> None:
        beam, device = self.options.length_beam, self.sources.tokens.device
        canvases = self.sources.room.sequences * beam
        self.room = Room(canvases, capacity, device)
        own = torch.arange(canvases, dtype=torch.int32, device=device)
        self.never, self.forever = torch.zeros_like(self.room.index), torch.full_like(self.room.index, FOREVER)
        self.no_scores = torch.zeros(capacity, device=device, dtype=torch.float32)
        self.masks = torch.full((capacity,), self.config.mask_token_id, device=device)
        # Of each pass: room for the rows that it predicts, and which canvas and source these see.
        self.masked_rows = [Room(canvases, self._masked_rows(t), device) for t in range(self.options.iterations)]
        self.named = [
            (rows.naming(own, self.room.empty), rows.naming(own // beam, self.sources.room.empty))
            for rows in (self.room, *self.masked_rows)
        ]

    def _masked_rows(self, done: int) -> int:
        """The most rows that are masked after ``done`` passes: ``update_mask`` masks this part of every canvas."""
        if self.config.predictable_mask:  # a predicted mask stays masked
            return self.room.capacity
        return math.ceil(self.room.capacity * (1.0 - done / self.options.iterations))

    def run(self) -> Outcome:
        outcome = self.begin()
        for iteration in range(self.options.iterations):
            outcome.row_offsets.append(outcome.canvases.row_offsets)
            outcome.masked.append(outcome.canvases.masked_tokens)
            outcome.canvases = self.refine(outcome.canvases, iteration)
            outcome.not_finite.append(outcome.canvases.not_finite)
            if self.waits and not outcome.canvases.row_offsets[-1]:
                break
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
        positions, last = self.room.places(self.packed[0])
        self.positions = decoder.embed_positions(positions)
        # between bos and eos; the rows behind the canvases are bos
        tokens = self.masks.masked_fill(last, self.config.eos_token_id)
        tokens.masked_fill_(positions == 0, self.config.bos_token_id)
        nothing = tokens[:0], self.no_scores[:0]
        canvases = self._update(tokens, self.no_scores, tokens[:0], *nothing, ratio=0.0)
        return Outcome(lengths, log_probs, offsets, canvases)

    def _canvas_offsets(self, lengths: Tensor) -> Tensor:
        """Of equal lengths of a source the first alone has a canvas; of a source that is missing none has."""
        repeated = (lengths[:, :, None] == lengths[:, None, :]).tril(-1).any(-1)
        missing = self.sources.offsets.diff() == 0
        rows = lengths * (repeated | missing[:, None]).logical_not()
        return torch.cat([self.sources.offsets[:1], rows.flatten().cumsum(0, dtype=torch.int32)])

    def refine(self, canvases: Canvases, iteration: int) -> Canvases:
        """One pass of the decoder: predict what is masked, mask the least certain again."""
        decoder, rows = self.model.model.decoder, self.masked_rows[iteration]
        x = self.model.embed(decoder, canvases.masked_tokens, self.positions)
        listed = canvases.rows[: rows.capacity]
        seen = self._sees(self.packed[0], 0)
        seen_by_rows = self._sees(rows.offsets(canvases.row_offsets), 1 + iteration)
        hidden = self.model.refine(x, seen, self.cross_keys, listed, seen_by_rows)
        predictions = ops.linear_argmax(hidden, self.model.model.output_weight, self.bias)
        ratio = 1.0 - (iteration + 1) / self.options.iterations
        return self._update(
            canvases.tokens, canvases.scores, listed, *predictions, ratio=ratio, row_offsets=canvases.row_offsets,
            adaptive=self.options.adaptive,
        )  # fmt: skip

    def _update(self, *state: Tensor, **options) -> Canvases:
        return ops.update_mask(*state, self.offsets, mask_token=self.config.mask_token_id, static=True, **options)

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
        parts = [o.row_offsets, o.masked if options.return_history else [], o.not_finite]
        flat = [o.lengths, o.length_log_probs, o.offsets, o.canvases.tokens, o.canvases.scores]
        flat += [t for part in parts for t in part]
        lengths, length_log_probs, offsets, tokens, scores, *lists = runtime.download(*flat)()
        row_offsets, masked, not_finite = ([lists.pop(0) for _ in part] for part in parts)
        lengths, length_log_probs, offsets = lengths[:sources], length_log_probs[:sources], offsets.tolist()
        if offsets[-1] > self.room.capacity:
            return offsets[-1], None
        require_finite("length", length_log_probs)
        if any(count.item() for count in not_finite):
            require_finite("prediction", scores.new_tensor([math.nan]))

        passes = sum((begins.diff() > 0).int() for begins in row_offsets).tolist()
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
