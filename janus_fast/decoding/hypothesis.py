"""What a decoding mode returns, and the checks of options that modes share."""

import math
from dataclasses import dataclass, field


@dataclass
class Hypothesis:
    """One output of one source: ids without ``bos`` and ``eos``, best first among its siblings.

    ``score`` is what candidates were ranked by, ``token_scores`` the log-probability (nats) of each id, followed by
    that of ``eos`` in autoregressive mode. ``iterations`` counts decoder passes; ``history`` holds the canvas, with
    masks, before the first and after each pass when asked for.
    """

    ids: list[int]
    score: float
    token_scores: list[float]
    iterations: int
    history: list[list[int]] = field(default_factory=list)


def require_integer(name: str, value, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_number(name: str, value, *, above: float, most: float = math.inf) -> None:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not above < value <= most:
        rule = f"above {above:g}" if most == math.inf else f"in ({above:g}, {most:g}]"
        raise ValueError(f"{name} must be a finite number {rule}, got {value!r}")


def require_choice(name: str, value, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
