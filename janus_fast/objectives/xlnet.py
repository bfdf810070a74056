"""XLNet (Yang et al., NeurIPS 2019): the words of a sentence in a drawn order, by content and query streams."""

from dataclasses import dataclass

import torch

from ..inputs import integers, option, rule
from ..packing import ranges
from ..visibility import Visibility
from .objective import Objective
from .streams import Streams


@dataclass
class Xlnet(Objective):
    """L = CE(ar) + CE(permuted).

    An order z of a sentence's n tokens behind ``bos``, ``eos`` among them, is drawn uniformly. CE(permuted) is the mean
    of -log p(y[z[t]] | x, y[z[1]] .. y[z[t-1]]) over the last ceil(n / ``partial_prediction``) steps t. Only these
    tokens have a rank; the others are known, and see each other. A content row sees the tokens up to its own rank, a
    query row those of lower ranks.

    In a share ``left_to_right_share`` of the sentences, drawn one by one, z is the order of the sentence, and every
    step is predicted: CE(ar), the mean over those. So that they decode, in every order the query that predicts token p
    is a mask at position p - 1, as in mode "ar". Where no sentence is so, and only the end of an order is predicted, no
    mode is trained: the model is one to begin with. With a ``partial_prediction`` of 1 every step of a drawn order is
    predicted, so mode "nar" decodes in any ``order``, behind a length that 0.1 CE(length) then trains.

    Source: the permutation language model of XLNet, whose K = 6 is ``partial_prediction``. The original has no
    sentences from left to right. It has relative positions, and the memory of the segment before, which this
    architecture lacks. Its queries begin with a learned vector, for which the mask token stands here; and what it
    predicts are spans of words, where single ones are drawn here.
    """

    modes = ("ar",)

    partial_prediction: int = option(6, integers(1), "only the last 1/X of a drawn order is predicted")
    left_to_right_share: float = option(
        0.5,
        rule("be in [0, 1]", lambda x: 0 <= x <= 1),
        "share of the sentences that are predicted from left to right, all of their tokens",
    )

    def __post_init__(self):
        if not self.left_to_right_share and self.partial_prediction > 1:
            self.modes = ()
        if self.left_to_right_share < 1 and self.partial_prediction == 1:
            self.modes, self.validated = ("ar", "nar"), {"nar": {"order": "easy_first"}}
            self.permuted = self.predicts_length = True
        super().__post_init__()

    def terms(self):
        shares = {"ar": self.left_to_right_share, "permuted": 1 - self.left_to_right_share}
        return {stream: 1.0 for stream, share in shares.items() if share}, {}

    def draw(self, target, lengths, generator):
        """Of each token the rank, -1 where it is known, and whether its sentence is from left to right: [N, 2]."""
        drawn = target.new_full((len(target), 2), -1)
        for sentence in drawn.split(lengths):
            straight = float(torch.rand((), generator=generator)) < self.left_to_right_share
            ranks = sentence[1:, 0]  # a view
            n = len(ranks)
            order = torch.arange(n) if straight else torch.randperm(n, generator=generator)
            known = 0 if straight else n - -(-n // self.partial_prediction)
            ranks.copy_(order.masked_fill(order < known, -1))
            sentence[:, 1] = straight
        return drawn

    def build(self, target, lengths, drawn):
        ranks, straight = drawn.unbind(1)
        predicted, positions = ranks >= 0, ranges(lengths)
        wanted = target[predicted]
        stream = {"ar": straight[predicted] == 1, "permuted": straight[predicted] == 0}
        rows = {name: stream[name].nonzero().flatten() for name in self.streams}
        return [
            Streams(
                tokens=(target, torch.full_like(wanted, self.config.mask_token_id)),
                positions=(positions, positions[predicted] - 1),
                visibility=Visibility.xlnet(lengths, ranks),
                predictions={name: (target.numel() + own, wanted[own]) for name, own in rows.items()},
            )
        ]
