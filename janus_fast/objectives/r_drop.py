"""R-Drop (Liang et al. 2021): left to right twice, under two dropouts, which a symmetric divergence ties together."""

from dataclasses import dataclass

from ..inputs import option, weight
from .objective import Objective


@dataclass
class RDrop(Objective):
    """L = CE(ar) + CE(again) + alpha J(ar, again), where both draw dropout of their own, in the encoder, too.

    J is half the sum of both Kullback-Leibler divergences, at every token; alpha 5 is the authors' for translation.
    """

    modes = ("ar",)
    takes_one_stream = True

    alpha: float = option(5.0, weight, "weight of R-Drop's divergence")
    encoder_passes: int = 2

    def terms(self):
        return {"ar": 1.0, "again": 1.0}, {("ar", "again"): self.alpha}

    def build(self, target, lengths, drawn):
        return [self.left_to_right(target, lengths, name=name) for name in self.streams]
