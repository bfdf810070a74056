"""What a Translator returns."""

from dataclasses import dataclass, field


@dataclass
class TranslationResult:
    """What one source became; every list is best first, one entry a hypothesis.

    Attributes:
        hypotheses: ids, tokens or text, as the source was; without ``bos`` and ``eos``.
        scores: what they were ranked by, in nats.
        token_scores: the log-probability (nats) of each token, and but in mode "nar" without ``rerank`` of the end.
        iterations: decoder passes, that of ``rerank`` not counted. In mode "speculative" each adds one token, ``eos``
            counted, to those of drafts; in mode "semi_nar" a block.
        history: with ``return_history=True`` in mode "nar" the canvas before the first and after each pass; in mode
            "speculative" the words so far, and the draft, that each was fed.
        predictions: with ``return_history=True`` in mode "nar" what each pass made of the canvas, before the least
            certain tokens were masked again.
        prediction_scores: the log-probability (nats) of each of these tokens, in the pass that predicted it.
        attention: with ``return_attention=True`` how much each token looked at each id or token of the source.
        logits: with ``return_logits_vocab=True`` what each step weighed, the whole vocabulary [V]: log-probabilities,
            or with ``renormalize_logits=True`` scores before the softmax; of what may not follow minus infinity.
        tokens: those of hypotheses that are text.
    """

    hypotheses: list
    scores: list[float]
    token_scores: list[list[float]] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    history: list[list] = field(default_factory=list)
    predictions: list[list] = field(default_factory=list)
    prediction_scores: list[list[list[float]]] = field(default_factory=list)
    attention: list[list[list[float]]] = field(default_factory=list)
    logits: list[list] = field(default_factory=list)
    tokens: list[list[str]] = field(default_factory=list)

    @property
    def accepted(self) -> list[int]:
        """In mode "speculative" the tokens of drafts that are in each hypothesis."""
        return [len(scores) - passes for scores, passes in zip(self.token_scores, self.iterations, strict=True)]

    def _repr_html_(self) -> str:
        """What a notebook shows: how each hypothesis came about, by what is here of it."""
        from .trace import fragment

        return fragment(self)


def without_unknowns(tokens: list[str], attention: list[list[float]], source: list[str], unknown: str) -> list[str]:
    """``tokens`` with that of the source which it looked at most for each unknown one."""
    looked = [max(range(len(source)), key=row.__getitem__) for row in attention]
    return [source[place] if token == unknown else token for token, place in zip(tokens, looked, strict=True)]


@dataclass
class ScoringResult:
    """A target's ``tokens``, its end included, and their ``log_probs`` (nats)."""

    tokens: list
    log_probs: list[float]
