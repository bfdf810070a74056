"""Greedy and beam search, and sampling, by steps in shapes that no data decide: recorded for a GPU, or run as written.

``janus_fast.reference.beam_search`` is the definition.
"""

from collections.abc import Callable

import torch
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
from .sampling import Sampling
from .shapes import Sources

STEPS_BETWEEN_LOOKS = 4


class BeamSearch:
    """The state of a search, and the step that changes it, for sources of which there is ``sources`` room.

    All hypotheses of a sentence share one sequence of cached keys, one row for each position and hypothesis, and
    ``beam_step`` says by intervals of times which of these each sees: nothing is copied when hypotheses are reordered.
    Sentences that are done, and those that are missing, are computed in vain. ``caches`` is
    [layers, sentences * (longest + 1) * beams, 2, H, D], finite.

    A sample is a sentence of its own with one hypothesis, which continues as its random number says.
    """

    def __init__(
        self, model: FusedModel, sources: Sources, options: AutoregressiveOptions, caches: Tensor,
        numbers: list[int] = (), prefixes: list[list[int]] | None = None,
    ):  # fmt: skip
        self.model, self.config, self.sources, self.caches = model, model.config, sources, caches
        config, device, beams, steps = model.config, caches.device, options.beam_size, options.longest(model.config) + 1
        self.longest, self.samples = steps - 1, options.kept // beams  # of a source
        self.sentences = sentences = sources.room.sequences * self.samples
        streams, hypotheses = 1 + config.two_stream, sentences * beams
        self.continuations = Continuations(model.model, options, prefixes)
        self.sampling = Sampling(options, numbers, steps, device) if options.sampling_topk != 1 else None
        self.asks_for_past = bool(options.no_repeat_ngram_size or prefixes)
        make = {"device": device, "dtype": torch.int32}
        # What the decoder reads: the last token of each hypothesis, and in a two-stream model a mask for each.
        self.inputs = torch.full((streams * hypotheses,), config.mask_token_id, device=device)
        self.state = BeamState.new(sentences, steps, beams, device)
        self.state = self.state._replace(tokens=self.inputs[:hypotheses].view(sentences, beams))
        self.position = torch.zeros(1, **make)  # of all hypotheses alike
        # Each sentence has `steps * beams` rows of keys, of which those up to the position form its sequence.
        sequences = torch.arange(sentences, **make)
        first_key = sequences * (steps * beams)
        self.own_keys = (first_key[:, None] + torch.arange(beams, **make)).flatten().long()
        both = torch.stack([first_key, first_key + beams], 1).flatten()
        self.key_offsets = torch.cat([both, both.new_full((1,), caches.shape[1])])  # at the first step
        self.grows = torch.tensor([0, beams] * sentences + [0], **make)
        self.query_offsets = torch.arange(streams * sentences + 1, **make) * beams
        self.query_sequences = 2 * sequences.repeat(streams)  # every other sequence is what is not written yet
        self.source_sequences = (sequences // self.samples).repeat(streams)
        self.no_times = torch.zeros(streams * hypotheses, **make)

    def begin(self) -> None:
        """Encodes the sources and sets the state to what it is before the first step."""
        encoded, source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        sources, self.cross = self.sources, []
        for rows in (len(self.inputs), self.state.tokens.numel()):  # all, and those that predict
            count = rows // self.state.tokens.shape[1]
            offsets, named = self.query_offsets[: count + 1], self.source_sequences[:count]
            held, times = sources.room, self.no_times[:rows]
            self.cross.append(Visibility(offsets, source_offsets, named, times, held.never, held.forever))
        self.state.begin((sources.offsets.diff() == 0).repeat_interleave(self.samples))
        self.state.tokens.fill_(self.config.decoder_start_token_id)
        self.position.zero_()

    def feed(self) -> Tensor:
        """Reads every hypothesis' last token: the hidden rows [R, C] that predict the next ones."""
        decoder, state = self.model.model.decoder, self.state
        x = self.model.embed(decoder, self.inputs, decoder.embed_positions(self.position))
        offsets = torch.addcmul(self.key_offsets, self.grows, self.position)
        times, *sees = (t.flatten() for t in (state.times, state.visible_from, state.visible_until))
        sentences = self.sentences
        predicting = Visibility(
            self.query_offsets[: sentences + 1], offsets, self.query_sequences[:sentences], times, *sees
        )
        everything = predicting
        if self.config.two_stream:
            everything = Visibility(self.query_offsets, offsets, self.query_sequences, times.repeat(2), *sees)
        places = torch.add(self.own_keys, self.position, alpha=state.tokens.shape[1])
        self.position += 1
        return self.model.step(
            x, (everything, self.cross[0]), self.cross_keys, self.caches, places, (predicting, self.cross[1])
        )

    def step(self, number: int | None = None, last: bool = False) -> None:
        """Feeds every hypothesis' last token and chooses the next ones; in the ``last`` step the end alone.

        Options that look at the past want to know the ``number`` of the step.
        """
        hidden = self.feed()
        if last:
            ids, log_probs = self.continuations.end(hidden)
        else:
            ids, log_probs = self.continuations(hidden, self.past(number) if self.asks_for_past else None)
        if self.sampling is not None:
            ids, log_probs = self.sampling(ids, log_probs, number, self.state.steps > number)
        shape = *self.state.tokens.shape, ids.shape[1]
        ops.beam_step(log_probs.view(shape), ids.view(shape), self.state, eos=self.config.eos_token_id)

    def past(self, steps: int) -> Tensor:
        """What the hypotheses hold after so many steps: [R, steps]."""
        wrote = self.state.slots[:, 1 : steps + 1].long()  # the row of which each token was chosen
        return self.state.history_tokens[:, :steps].gather(2, wrote).transpose(1, 2).flatten(0, 1)

    def run(self, runtime: Eager, begin: Callable, step: Callable, options: AutoregressiveOptions) -> None:
        """All steps of a search, by ``begin`` and ``step`` as ``runtime`` recorded them.

        The host knows how many steps it has asked for, and hears of finished sentences when it has asked for more;
        where nothing is recorded, it looks at every step.
        """
        begin()
        look, every = None, STEPS_BETWEEN_LOOKS if runtime.recorded else 1
        for number in range(self.longest):
            if number in (0, options.min_decoding_length):
                self.continuations.allow_end(number >= options.min_decoding_length)
            step() if runtime.recorded else self.step(number)
            if (number + 1) % every == 0:
                before, look = look, runtime.download(self.state.remaining)
                seen = before if runtime.recorded else look
                if seen is not None and seen()[0].item() == 0:
                    return
        self.step(self.longest, last=True)

    def results(self, sources: int, options: AutoregressiveOptions, runtime: Eager) -> list[list[Hypothesis]]:
        """The finished hypotheses of the first ``sources`` sources, best first."""
        names = ("count", "lengths", "tokens", "totals", "scores")
        finished = (getattr(self.state, f"finished_{name}") for name in names)
        count, lengths, tokens, totals, scores = (t.tolist() for t in runtime.download(*finished)())
        groups: list[list[Hypothesis]] = [[] for _ in range(sources)]
        for s in range(sources * self.samples):
            if count[s] == 0:
                raise FloatingPointError(NO_OUTPUT)
            for i in range(count[s]):
                length, parts = lengths[s][i], scores[s][i][: lengths[s][i] + 1]
                total = sum(parts) if options.sampling_topk != 1 else totals[s][i]
                score = total / (length + 1) ** options.length_penalty
                groups[s // self.samples].append(Hypothesis(tokens[s][i][:length], score, parts, length + 1))
        # sorted is stable: of equal scores the one that finished first wins
        return [sorted(group, key=lambda h: -h.score)[: options.num_hypotheses] for group in groups]
