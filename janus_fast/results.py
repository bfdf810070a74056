"""What a Translator returns."""

from dataclasses import dataclass, field


@dataclass
class TranslationResult:
    """What one source became; every list is best first, one entry a hypothesis.

    Attributes:
        hypotheses: ids, tokens or text, as the source was; without ``bos`` and ``eos``.
        scores: what they were ranked by, in nats.
        token_scores: the log-probability (nats) of each token, and in "ar" mode, and with ``rerank``, of the end.
        iterations: decoder passes, that of ``rerank`` not counted.
        history: the canvases of every pass, with ``return_history=True``.
    """

    hypotheses: list
    scores: list[float]
    token_scores: list[list[float]] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    history: list[list] = field(default_factory=list)


@dataclass
class ScoringResult:
    """A target's ``tokens``, its end included, and their ``log_probs`` (nats)."""

    tokens: list
    log_probs: list[float]
