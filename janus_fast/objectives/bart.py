"""BART (Lewis et al., ACL 2020): text is restored, left to right, from what corruption left of it."""

from dataclasses import dataclass

from .autoregressive import Autoregressive


@dataclass
class Bart(Autoregressive):
    """L = CE(ar), of monolingual text, whose source is the text itself, corrupted (``janus_fast.training.corruption``).

    It is ``autoregressive``, which also trains on such text, under the name of the pre-training that it then is.
    """

    restores = True
