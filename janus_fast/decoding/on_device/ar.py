"""Greedy and beam search by steps that never wait for the host: ``decoding/ar.py`` in shapes that no data decide."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ...reference.beam_step import BeamState
from ...visibility import Visibility
from ..ar import NO_OUTPUT
from ..hypothesis import Hypothesis
from ..options import AutoregressiveOptions
from .model import FusedModel
from .shapes import Sources

STEPS_BETWEEN_LOOKS = 4


class Search:
    """The state of a beam search, and the step that changes it, for sources of which there is ``sources`` room.

    All hypotheses of a sentence share one sequence of cached keys, one row for each position and hypothesis, and
    ``beam_step`` says by intervals of times which of these each sees: nothing is copied when hypotheses are reordered.
    Sentences that are done, and those that are missing, are computed in vain. ``caches`` is
    [layers, sentences * (longest + 1) * beams, 2, H, D], finite.
    """

    def __init__(self, model: FusedModel, sources: Sources, beams: int, longest: int, caches: Tensor):
        self.model, self.config, self.sources, self.longest = model, model.config, sources, longest
        config, device, sentences = model.config, caches.device, sources.room.sequences
        steps, streams, hypotheses = longest + 1, 1 + config.two_stream, sentences * beams
        self.beams, self.steps_each, self.caches = beams, steps, caches
        self.streams, self.hypotheses = streams, hypotheses
        make = {"device": device, "dtype": torch.int32}
        # What the decoder reads: the last token of each hypothesis, and in a two-stream model a mask for each.
        self.inputs = torch.full((streams * hypotheses,), config.mask_token_id, device=device)
        self.state = BeamState.new(sentences, steps, beams, device)
        self.state = self.state._replace(tokens=self.inputs[:hypotheses].view(sentences, beams))
        self.position = torch.zeros(1, **make)  # of all hypotheses alike
        # Each sentence has `steps * beams` rows of keys, of which those up to the position form its sequence.
        self.beam_numbers = torch.arange(beams, **make)
        sequences = torch.arange(sentences, **make)
        first_key = sequences * (steps * beams)
        self.own_keys = (first_key[:, None] + self.beam_numbers).flatten().long()
        both = torch.stack([first_key, first_key + beams], 1).flatten()
        self.key_offsets = torch.cat([both, both.new_full((1,), caches.shape[1])])  # at the first step
        self.grows = torch.tensor([0, beams] * sentences + [0], **make)
        self.query_offsets = torch.arange(streams * sentences + 1, **make) * beams
        self.query_sequences = 2 * sequences.repeat(streams)  # every other sequence is what is not written yet
        self.source_sequences = sequences.repeat(streams)
        self.no_times = torch.zeros(streams * hypotheses, **make)
        self.banned = torch.zeros(config.target_vocab_size, dtype=torch.bool, device=device)
        always = [config.pad_token_id, config.bos_token_id]
        if not config.predictable_mask:
            always.append(config.mask_token_id)
        self.banned[torch.tensor(always, device=device)] = True
        self.choices = min(2 * beams + len({*always, config.eos_token_id}), config.target_vocab_size)

    def begin(self) -> None:
        """Encodes the sources and sets the state to what it is before the first step."""
        encoded, source_offsets = self.sources.encode(self.model)
        self.cross_keys = self.model.cross_keys(encoded)
        sources, sentences, self.cross = self.sources, self.sources.room.sequences, []
        for streams in (self.streams, 1):  # all rows, and those that predict
            offsets, times = self.query_offsets[: streams * sentences + 1], self.no_times[: streams * self.hypotheses]
            named = self.source_sequences[: streams * sentences]
            self.cross.append(Visibility(offsets, source_offsets, named, times, sources.never, sources.forever))
        self.state.begin(self.sources.offsets.diff() == 0)
        self.state.tokens.fill_(self.config.decoder_start_token_id)
        self.position.zero_()

    def step(self, last: bool = False) -> None:
        """Feeds every hypothesis' last token and chooses the next ones; in the ``last`` step the end alone."""
        decoder, state = self.model.model.decoder, self.state
        x = self.model.embed(decoder, self.inputs, decoder.embed_positions(self.position))
        offsets = torch.addcmul(self.key_offsets, self.grows, self.position)
        times, *sees = (t.flatten() for t in (state.times, state.visible_from, state.visible_until))
        sentences = self.sources.room.sequences
        predicting = Visibility(
            self.query_offsets[: sentences + 1], offsets, self.query_sequences[:sentences], times, *sees
        )
        everything = predicting
        if self.config.two_stream:
            everything = Visibility(self.query_offsets, offsets, self.query_sequences, times.repeat(2), *sees)
        places = torch.add(self.own_keys, self.position, alpha=self.beams)
        hidden = self.model.step(
            x, (everything, self.cross[0]), self.cross_keys, self.caches, places, (predicting, self.cross[1])
        )
        ids, log_probs = self._end(hidden) if last else self._continuations(hidden)
        shape = *state.tokens.shape, ids.shape[1]
        ops.beam_step(log_probs.view(shape), ids.view(shape), state, eos=self.config.eos_token_id)
        self.position += 1

    def _continuations(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As in ``decoding/ar.py``, but what is forbidden stays in its place: the step sorts it behind all else."""
        model = self.model.model
        ids, log_probs = ops.linear_topk(hidden, model.output_weight, model.output_bias, k=self.choices)
        return ids, log_probs.masked_fill(self.banned[ids], float("-inf"))

    def _end(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.full((hidden.shape[0], self.choices), self.config.eos_token_id, device=hidden.device)
        log_probs = torch.full(ids.shape, float("-inf"), device=hidden.device, dtype=torch.float32)
        log_probs[:, 0] = F.log_softmax(self.model.model.logits(hidden).float(), -1)[:, self.config.eos_token_id]
        return ids, log_probs

    def run(self, runtime, begin, step, options: AutoregressiveOptions) -> None:
        """All steps of a search, by ``begin`` and ``step`` as ``runtime`` recorded them.

        The host knows how many steps it has asked for, and hears of finished sentences when it has asked for more.
        """
        end = self.banned[self.config.eos_token_id : self.config.eos_token_id + 1]
        begin()
        end.fill_(options.min_decoding_length > 0)
        look = None
        for number in range(self.longest):
            if number == options.min_decoding_length:
                end.fill_(False)
            step()
            if (number + 1) % STEPS_BETWEEN_LOOKS == 0:
                if look is not None and look()[0].item() == 0:
                    return
                look = runtime.download(self.state.remaining)
        self.step(last=True)

    def results(self, sources: int, options: AutoregressiveOptions, runtime) -> list[list[Hypothesis]]:
        """The finished hypotheses of the first ``sources`` sources, best first."""
        names = ("count", "lengths", "tokens", "totals", "scores")
        finished = (getattr(self.state, f"finished_{name}") for name in names)
        count, lengths, tokens, totals, scores = (t.tolist() for t in runtime.download(*finished)())
        groups: list[list[Hypothesis]] = []
        for s in range(sources):
            groups.append([])
            for i in range(count[s]):
                length = lengths[s][i]
                score = totals[s][i] / (length + 1) ** options.length_penalty
                parts = tokens[s][i][:length], score, scores[s][i][: length + 1], length + 1
                groups[-1].append(Hypothesis(*parts))
        if not all(groups):
            raise FloatingPointError(NO_OUTPUT)
        # sorted is stable: of equal scores the one that finished first wins
        return [sorted(group, key=lambda h: -h.score)[: options.num_hypotheses] for group in groups]
