"""Greedy and beam search, and sampling, by steps in shapes that no data decide: recorded for a GPU, or run as written.

``janus_fast.reference.beam_search`` is the definition.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..reference.beam_search import NO_OUTPUT
from ..reference.beam_step import BeamState
from ..visibility import Visibility
from .continuations import Continuations
from .fused import FusedModel
from .hypothesis import Hypothesis
from .options import AutoregressiveOptions
from .runtime import Eager
from .sampling import draw
from .shapes import Sources

STEPS_BETWEEN_LOOKS = 4


class BeamSearch:
    """The state of a search, and the step that changes it, for sources of which there is ``sources`` room.

    All hypotheses of a sentence share one sequence of cached keys, one row for each position and hypothesis, and
    ``beam_step`` says by intervals of times which of these each sees: nothing is copied when hypotheses are reordered.
    Programs compute sentences that are done, and those that are missing, in vain. ``caches`` is
    [layers, sentences * positions * beams, 2, H, D], finite; with fewer than ``longest + 1`` positions they grow, which
    a recorded program cannot.

    A sample is a sentence of its own with one hypothesis, which continues as its random number says.
    """

    def __init__(
        self, model: FusedModel, sources: Sources, options: AutoregressiveOptions, caches: Tensor,
        numbers: list[int] = (), prefixes: list[list[int]] | None = None, allowed: Tensor | None = None,
    ):  # fmt: skip
        self.model, self.config, self.options = model, model.config, options
        self.sources = sources
        config, device, beams, steps = model.config, caches.device, options.beam_size, options.longest(model.config) + 1
        self.longest, self.samples = steps - 1, options.kept // beams  # of a source
        sentences, streams = sources.room.sequences * self.samples, 1 + config.two_stream
        self.continuations = Continuations(model.model, options, prefixes, allowed)
        self.uniforms = None
        if options.sampling_topk != 1:
            self.uniforms = torch.from_numpy(options.uniforms(numbers, steps)).to(device)
        self.prefixes, self.asks_for_past = prefixes, bool(options.no_repeat_ngram_size or prefixes)
        make = {"device": device, "dtype": torch.int32}
        # What the decoder reads: the last token of each hypothesis, and in a two-stream model a mask for each.
        self.inputs = torch.full((streams, sentences * beams), config.mask_token_id, device=device)
        self.state = BeamState.new(sentences, steps, beams, device)
        self.state = self.state._replace(tokens=self.inputs[0].view(sentences, beams))
        self.position = torch.zeros(1, **make)  # of all hypotheses alike
        self.grows = torch.tensor([0, beams] * sentences + [0], **make)
        self._keep_in(caches)
        self.compute(torch.arange(sentences, device=device))

    def _keep_in(self, caches: Tensor) -> None:
        """Each sentence has as many rows of the caches, of which those up to the position form its sequence."""
        sentences, beams = self.state.tokens.shape
        self.caches, self.positions = caches, caches.shape[1] // (sentences * beams)
        make = {"device": caches.device, "dtype": torch.int32}
        first_key = torch.arange(sentences, **make) * (self.positions * beams)
        self.own_keys = (first_key[:, None] + torch.arange(beams, **make)).flatten().long()
        both = torch.stack([first_key, first_key + beams], 1).flatten()
        self.key_offsets = torch.cat([both, both.new_full((1,), caches.shape[1])])  # at the first step

    def _grow(self) -> None:
        """Half as many positions again."""
        held = self.caches.unflatten(1, (len(self.state.tokens), self.positions, -1))
        more = min(self.positions + self.positions // 2 + 1, self.longest + 1) - self.positions
        self._keep_in(F.pad(held, (0,) * 9 + (more,)).flatten(1, 3))

    def begin(self) -> None:
        """Encodes the sources and sets the state to what it is before the first step."""
        encoded, self.source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        self.state.begin((self.sources.offsets.diff() == 0).repeat_interleave(self.samples))
        self.state.tokens.fill_(self.config.decoder_start_token_id)
        self.position.zero_()

    def compute(self, sentences: Tensor) -> None:
        """From here on computes these sentences alone: the others are done."""
        beams, named, self.queries = self.state.tokens.shape[1], sentences.int(), []
        self.rows = (sentences[:, None] * beams + torch.arange(beams, device=named.device)).flatten()
        self.owners = self.rows // (beams * self.samples)
        for streams in (len(self.inputs), 1):  # all rows, and those that predict
            offsets = torch.arange(streams * len(named) + 1, device=named.device, dtype=torch.int32) * beams
            keys = 2 * named.repeat(streams)  # every other sequence is not written yet
            no_times = torch.zeros_like(self.rows, dtype=torch.int32).repeat(streams)
            self.queries.append((offsets, keys, (named // self.samples).repeat(streams), no_times))

    def feed(self) -> Tensor:
        """Reads the last token of every hypothesis: the hidden rows [R, C] that predict the next ones."""
        decoder, state, room = self.model.model.decoder, self.state, self.sources.room
        everything = len(self.rows) == self.inputs.shape[1]
        pick = (lambda t: t) if everything else (lambda t: t[..., self.rows])
        x = self.model.embed(decoder, pick(self.inputs).flatten(), decoder.embed_positions(self.position))
        key_offsets = torch.addcmul(self.key_offsets, self.grows, self.position)
        seen, times = [], pick(state.times.flatten())
        sees = [t[:, : self.positions].flatten() for t in (state.visible_from, state.visible_until)]
        for at, (offsets, keys, sources, no_times) in zip(
            (times.repeat(len(self.inputs)), times), self.queries, strict=True
        ):
            cross = Visibility(offsets, self.source_offsets, sources, no_times, room.never, room.forever)
            seen.append((Visibility(offsets, key_offsets, keys, at, *sees), cross))
        places = torch.add(pick(self.own_keys), self.position, alpha=state.tokens.shape[1])
        self.position += 1
        return self.model.step(x, seen[0], self.cross_keys, self.caches, places, seen[1])

    def end(self) -> None:
        """The step behind the longest output, of which the end alone is chosen."""
        self.step(self.longest, last=True)

    def step(self, number: int | None = None, last: bool = False) -> None:
        """Feeds every hypothesis' last token and chooses the next ones; in the ``last`` step the end alone.

        Options that look at the past, and caches that grow, want to know the ``number`` of the step.
        """
        if number == self.positions:
            self._grow()
        hidden = self.feed()
        if last:
            chosen = self.continuations.end(hidden, self.owners)
        else:
            past = self.past(number)[self.rows] if self.asks_for_past else None
            chosen = self.continuations(hidden, self.owners, past)
        if self.uniforms is not None:
            chosen = draw(*chosen, self.uniforms[self.rows, number], self.options)
        if len(self.rows) < self.inputs.shape[1]:  # of the others, which are done, nothing is read
            chosen = (t.new_zeros(self.inputs.shape[1], t.shape[1]).index_copy_(0, self.rows, t) for t in chosen)
        ids, log_probs = (t.view(*self.state.tokens.shape, -1) for t in chosen)
        ops.beam_step(log_probs, ids, self.state, eos=self.config.eos_token_id)
        if self.prefixes and number < self.continuations.prefixes.shape[1]:  # what is forced is free
            forced = (self.continuations.prefixes[:, number] >= 0).repeat_interleave(self.samples)
            self.state.totals[forced[:, None] & self.state.totals.isfinite()] = 0.0

    def past(self, steps: int) -> Tensor:
        """What all hypotheses hold after so many steps: [sentences * beams, steps]."""
        wrote = self.state.slots[:, 1 : steps + 1].long()  # the row of which each token was chosen
        return self.state.history_tokens[:, :steps].gather(2, wrote).transpose(1, 2).flatten(0, 1)

    def run(
        self, runtime: Eager, begin: Callable, step: Callable, end: Callable, options: AutoregressiveOptions
    ) -> None:
        """All steps of a search, by ``begin``, ``step`` and ``end`` as ``runtime`` recorded them.

        The host knows how many steps it has asked for, and hears of finished sentences when it has asked for more;
        where nothing is recorded, it looks at every step, and what is done is computed no more.
        """
        begin()
        look = None
        for number in range(self.longest):
            if number in (0, options.min_decoding_length):
                self.continuations.allow_end(number >= options.min_decoding_length)
            if not runtime.recorded:
                self.step(number)
                left = (self.state.steps == number + 1).nonzero()[:, 0]
                if len(left) == 0:
                    return
                if len(left) * self.state.tokens.shape[1] < len(self.rows):
                    self.compute(left)
                continue
            step()
            if (number + 1) % STEPS_BETWEEN_LOOKS == 0:
                if look is not None and look()[0].item() == 0:
                    return
                look = runtime.download(self.state.remaining)
        if options.forced_eos:
            end()

    def _cut_off(self, sentence: int, lengths: list, tokens: list, totals: list, scores: list, count: list) -> None:
        """At the longest, of the best hypotheses those that have not ended are finished, too."""
        beams = self.state.tokens.shape[1]
        ended = sum(length + 1 == self.longest for length in lengths[: count[sentence]])
        rows = slice(sentence * beams, sentence * beams + beams - ended)
        wrote = self.state.slots[sentence, 1 : self.longest + 1].long()
        parts = self.state.history_scores[sentence, : self.longest].gather(1, wrote).T.tolist()
        for place, said in enumerate(self.past(self.longest)[rows].tolist()):
            total = self.state.totals[sentence, place].item()
            if math.isfinite(total):
                at = count[sentence]
                lengths[at], tokens[at], totals[at], scores[at] = self.longest, said, total, parts[place]
                count[sentence] += 1

    def results(self, sources: int, options: AutoregressiveOptions, runtime: Eager) -> list[list[Hypothesis]]:
        """The finished hypotheses of the first ``sources`` sources, best first."""
        names = ("count", "lengths", "tokens", "totals", "scores")
        finished = (getattr(self.state, f"finished_{name}") for name in names)
        count, lengths, tokens, totals, scores = (t.tolist() for t in runtime.download(*finished)())
        groups: list[list[Hypothesis]] = [[] for _ in range(sources)]
        for s in range(sources * self.samples):
            if not options.forced_eos and self.state.steps[s] == self.longest:
                self._cut_off(s, lengths[s], tokens[s], totals[s], scores[s], count)
            if count[s] == 0:
                raise FloatingPointError(NO_OUTPUT)
            for i in range(count[s]):
                length, parts = lengths[s][i], scores[s][i][: lengths[s][i] + 1]
                begun = len(self.prefixes[s // self.samples]) if self.prefixes else 0
                total = sum(parts[begun:]) if options.sampling_topk != 1 else totals[s][i]
                passes = min(length + 1, options.steps(self.config))  # without an end at the longest
                score = total / passes**options.length_penalty
                groups[s // self.samples].append(Hypothesis(tokens[s][i][:length], score, parts, passes))
        # sorted is stable: of equal scores the one that finished first wins
        return [sorted(group, key=lambda h: -h.score)[: options.num_hypotheses] for group in groups]
