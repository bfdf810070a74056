"""What each decoding mode can be told, checked when made."""

import math
from dataclasses import dataclass

from .. import inputs
from ..config import JanusConfig

MOST = 512  # beam_size, length_beam, iterations: a slip is to end in an error, not in want of memory
MOST_SAMPLES = 4096  # of a source
MOST_INTEGER = 2**31 - 1  # of what takes no memory
# Decoded at once: the rows of sources, times the hypotheses kept for each; of a short source as many as FEWEST_ROWS.
MOST_ROWS, FEWEST_ROWS = MOST * 256, 32


@dataclass
class AutoregressiveOptions:
    """Options of autoregressive decoding; names and meanings are CTranslate2's.

    Scores are log-probabilities of the model whatever is forbidden, where CTranslate2 (4.8.5) gives the probability of
    forbidden tokens to the others.

    Attributes:
        beam_size: hypotheses kept, at most 512; 1 is greedy.
        num_hypotheses: hypotheses returned, at most ``beam_size``; of sampling, independent
            samples, at most 4,096.
        length_penalty: a hypothesis scores sum(log p) / length ** length_penalty, ``eos`` included in both.
        max_decoding_length, min_decoding_length: tokens of an output, ``eos`` not counted.
        no_repeat_ngram_size: no n-gram of this size is in an output twice; 0: any may be.
        sampling_topk: other than 1 samples from so many best tokens (0: from all), with ``beam_size=1``.
        sampling_topp: cuts these to the smallest set that holds this share of their mass, in (0, 1].
        sampling_temperature: divides the scores before sampling, above 0.
        seed: of the samples.
    Raises:
        ValueError: a value out of range, or two that do not fit each other.
    """

    beam_size: int = 5
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    max_decoding_length: int = 256
    min_decoding_length: int = 1
    no_repeat_ngram_size: int = 0
    sampling_topk: int = 1
    sampling_topp: float = 1.0
    sampling_temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, most in (
            ("beam_size", MOST),
            ("num_hypotheses", MOST_SAMPLES),
            ("max_decoding_length", MOST_INTEGER),
        ):
            setattr(self, name, inputs.integer(name, getattr(self, name), 1, most))
        for name in ("min_decoding_length", "no_repeat_ngram_size", "sampling_topk"):
            setattr(self, name, inputs.integer(name, getattr(self, name), 0, MOST_INTEGER))
        self.seed = inputs.integer("seed", self.seed, 0, 2**64 - 1)
        if self.min_decoding_length > self.max_decoding_length:
            raise ValueError(
                f"min_decoding_length must be at most max_decoding_length = {self.max_decoding_length}, "
                f"got {self.min_decoding_length}"
            )
        self.length_penalty = inputs.number("length_penalty", self.length_penalty, above=-math.inf)
        self.sampling_topp = inputs.number("sampling_topp", self.sampling_topp, above=0, most=1)
        self.sampling_temperature = inputs.number("sampling_temperature", self.sampling_temperature, above=0)
        if self.sampling_topk == 1 and (self.sampling_topp, self.sampling_temperature) != (1, 1):
            raise ValueError(
                "sampling_topk must not be 1 when sampling_topp or sampling_temperature is not 1, got 1; "
                "0 samples from all tokens"
            )
        if self.sampling_topk != 1 and self.beam_size != 1:
            raise ValueError(f"beam_size must be 1 when sampling_topk is not 1, got {self.beam_size}")
        if self.sampling_topk == 1 and self.num_hypotheses > self.beam_size:
            raise ValueError(f"num_hypotheses must be at most beam_size = {self.beam_size}, got {self.num_hypotheses}")

    @property
    def kept(self) -> int:
        """Hypotheses of a source that are in the making at once."""
        return self.beam_size if self.sampling_topk == 1 else self.num_hypotheses

    def longest(self, config: JanusConfig) -> int:
        """The most tokens an output may have: what is asked for, and what the position table (with ``bos``) holds."""
        table = config.max_target_positions - 1
        if self.min_decoding_length > table:
            raise ValueError(
                f"min_decoding_length must be at most the model's longest output = {table}, "
                f"got {self.min_decoding_length}"
            )
        return min(self.max_decoding_length, table)


@dataclass
class NonAutoregressiveOptions:
    """Options of mask-predict decoding.

    Attributes:
        iterations: decoder passes, at most 512.
        length_beam: candidates of different length, at most 512, refined at once. Lengths that fall together at an end
            of the range are one candidate.
        length_candidates: "window", the lengths around the most likely one, or "topk", the most likely ones.
        score: what ranks candidates: "tokens", the mean log-probability of the predicted tokens, where an empty
            candidate wins only if its length is the most likely one; or "canvas", the original's mean over ``bos`` and
            ``eos`` (0 each) as well.
        adaptive: a candidate ends when a pass changes none of its tokens and at most a third of them are to be
            predicted again.
        num_hypotheses: candidates returned, at most ``length_beam``; fewer where there are fewer.
        return_history: results hold the canvas after every pass.
    Raises:
        ValueError: a value out of range, or two that do not fit each other.
    """

    iterations: int = 4
    length_beam: int = 3
    length_candidates: str = "window"
    score: str = "tokens"
    adaptive: bool = True
    num_hypotheses: int = 1
    return_history: bool = False

    def __post_init__(self):
        for name in ("iterations", "length_beam", "num_hypotheses"):
            setattr(self, name, inputs.integer(name, getattr(self, name), 1, MOST))
        self.length_candidates = inputs.choice("length_candidates", self.length_candidates, ("window", "topk"))
        self.score = inputs.choice("score", self.score, ("tokens", "canvas"))
        self.adaptive = inputs.choice("adaptive", self.adaptive, (True, False))
        self.return_history = inputs.choice("return_history", self.return_history, (True, False))
        if self.num_hypotheses > self.length_beam:
            raise ValueError(
                f"num_hypotheses must be at most length_beam = {self.length_beam}, got {self.num_hypotheses}"
            )

    @property
    def kept(self) -> int:
        """Canvases of a source that are in the making at once."""
        return self.length_beam

    def longest(self, config: JanusConfig) -> int:
        """The longest canvas, ``bos`` and ``eos`` included, that the model has positions and a length class for."""
        if not config.two_stream:
            raise ValueError("mode must be 'ar' with a one-stream model, which predicts no lengths, got 'nar'")
        longest = min(config.max_target_positions, config.length_classes - 1)
        if self.length_beam > longest - 1:
            raise ValueError(
                f"length_beam must be at most the number of target lengths = {longest - 1}, got {self.length_beam}"
            )
        return longest
