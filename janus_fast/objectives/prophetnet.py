"""ProphetNet (Qi et al., Findings of EMNLP 2020): left to right, and further ahead than the next token."""

from dataclasses import dataclass

import torch

from ..config import MOST_AHEAD
from ..inputs import integers, numbers, option
from ..packing import ranges, stairs
from ..visibility import Visibility
from .objective import Objective
from .streams import Streams


@dataclass
class Prophetnet(Objective):
    """L = sum over s < n of alpha_s CE(s), alpha_s = g^s / (1 + g + .. + g^(n-1)), with ``ngram`` n, ``attenuation`` g.

    Stream s predicts token i + 1 + s from the source and the tokens 0 .. i, for all i at once; CE(s) is the mean over
    the T - s tokens that it predicts. Stream 0, named ``ar``, is the query stream of ``autoregressive``, by which the
    model decodes; the others are named ``ahead1``, ``ahead2`` and so on, and draft for mode "speculative". All share
    parameters. A row is a mask at the place before the token that it predicts, so that its place says how far ahead of
    the known tokens it looks.

    Of the original the architecture lacks the embedding of each stream and the buckets of relative positions; there a
    predicting row is also a key, for itself alone, and has the place of the token that it predicts. n = 2 and equal
    weights are the published code's, which takes one mean over the rows of all streams.
    """

    modes = ("ar", "speculative")

    ngram: int = option(
        2, integers(1, 1 + MOST_AHEAD), "streams of ProphetNet, of which the last predicts X tokens ahead"
    )
    attenuation: float = option(
        1.0, numbers(above=0, most=1), "each stream of ProphetNet weighs X times as much as that before it"
    )

    def __post_init__(self):
        self.streams_ahead = self.ngram - 1
        if not self.streams_ahead:
            self.modes = ("ar",)
        super().__post_init__()

    def terms(self):
        weights = [self.attenuation**ahead for ahead in range(self.ngram)]
        names = ["ar", *(f"ahead{ahead}" for ahead in range(1, self.ngram))]
        return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}, {}

    def build(self, target, lengths, drawn):
        words, place = lengths - 1, ranges(lengths)
        known = place < words.repeat_interleave(lengths)
        rows, stream, seen = stairs(words, [*range(self.ngram)])
        before = seen + stream  # the place before the token that a row predicts
        wanted = target[(lengths.cumsum(0) - lengths).repeat_interleave(rows) + before + 1]
        own = {name: (stream == ahead).nonzero().flatten() for ahead, name in enumerate(self.streams)}
        return [
            Streams(
                tokens=(target[known], torch.full_like(before, self.config.mask_token_id)),
                positions=(place[known], before),
                visibility=Visibility.prophetnet(words, self.ngram),
                predictions={name: (int(words.sum()) + index, wanted[index]) for name, index in own.items()},
            )
        ]
