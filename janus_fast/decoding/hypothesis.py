"""What a decoding mode returns."""

from dataclasses import dataclass, field

LAST = -1e10  # the sum of log-probabilities of an output behind all others


@dataclass
class Hypothesis:
    """One output of one source: ids without ``bos`` and ``eos``, best first among its siblings.

    ``score`` is what candidates were ranked by, ``token_scores`` the log-probability (nats) of each id, followed by
    that of ``eos`` in autoregressive mode and with ``rerank``. ``iterations`` counts decoder passes, but that of
    ``rerank``; ``history`` holds the canvas, with masks, before the first and after each pass when asked for,
    ``predictions`` and ``prediction_scores`` what each pass made of it, before the least certain were masked again;
    ``attention`` what each id looked at, and ``logits`` the scores of the vocabulary in each step.
    """

    ids: list[int]
    score: float
    token_scores: list[float]
    iterations: int
    history: list[list[int]] = field(default_factory=list)
    predictions: list[list[int]] = field(default_factory=list)
    prediction_scores: list[list[float]] = field(default_factory=list)
    attention: list[list[float]] = field(default_factory=list)
    logits: list = field(default_factory=list)
