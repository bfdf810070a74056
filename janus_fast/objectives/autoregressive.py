"""The autoregressive distribution of JANUS alone: left to right, content and query streams."""

from dataclasses import dataclass

from .objective import Objective


@dataclass
class Autoregressive(Objective):
    """L = CE(ar)."""

    modes = ("ar",)
    takes_one_stream = True

    def terms(self):
        return {"ar": 1.0}, {}

    def build(self, target, lengths, drawn):
        return [self.left_to_right(target, lengths)]
