"""What CTranslate2's ``Translator`` returns, by its names."""

from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass
class TranslationResult:
    """Hypotheses of a source, best first, as tokens; the other lists have an entry for each where they were asked for.

    ``attention`` of a token is a number for each token of the source; ``logits`` has an array [V] float32 for each
    step. Reading a result as a list of dictionaries, as of old, works too.
    """

    hypotheses: list[list[str]]
    scores: list[float] = field(default_factory=list)
    attention: list[list[list[float]]] = field(default_factory=list)
    logits: list[list] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.hypotheses)

    def __getitem__(self, number: int) -> dict:
        entry = {"tokens": self.hypotheses[range(len(self))[number]]}
        for name, own in (("score", self.scores), ("attention", self.attention)):
            if own:
                entry[name] = own[number]
        return entry


@dataclass
class ScoringResult:
    """Tokens of a target, its end included, and the log-probability of each."""

    tokens: list[str]
    log_probs: list[float]


@dataclass
class GenerationStepResult:
    """A token as it is generated."""

    step: int
    batch_id: int
    token_id: int
    hypothesis_id: int
    token: str
    log_prob: float | None
    logits: object
    is_last: bool


@dataclass
class ExecutionStats:
    """Of a file: tokens written, lines read, milliseconds."""

    num_tokens: int = 0
    num_examples: int = 0
    total_time_in_ms: float = 0.0


class _Async:
    """A result that may not be there yet."""

    def __init__(self, results: Future, number: int):
        self._results, self._number = results, number

    def done(self) -> bool:
        """Whether ``result`` returns at once."""
        return self._results.done()

    def result(self):
        """The result, as soon as it is there; or the exception that was raised instead."""
        return self._results.result()[self._number]


class AsyncTranslationResult(_Async):
    """A ``TranslationResult`` that may not be there yet."""


class AsyncScoringResult(_Async):
    """A ``ScoringResult`` that may not be there yet."""
