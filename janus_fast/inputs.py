"""What users hand in, checked: a mistake is one sentence that names the argument."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real

BATCH_TYPES = ("examples", "tokens")


def integer(name: str, value, least: int, most: int | None = None) -> int:
    """``value`` as an int: NumPy's integers are integers, True and False are not."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return int(value)


def number(name: str, value, *, above: float, most: float = math.inf) -> float:
    real = isinstance(value, Real) and not isinstance(value, bool)
    try:
        finite = real and math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        finite = False
    if not finite or not above < value <= most:
        rule = f"above {above:g}" if most == math.inf else f"in ({above:g}, {most:g}]"
        raise ValueError(f"{name} must be a finite number {rule}, got {value!r}")
    return float(value)


def unwrap_numbers(instance) -> None:
    """Makes NumPy's numbers in the fields of a dataclass Python's; JSON and torch's generators take no others."""
    for field in dataclasses.fields(instance):
        if hasattr(value := getattr(instance, field.name), "item"):
            object.__setattr__(instance, field.name, value.item())


def choice(name: str, value, choices: tuple):
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    return choices[choices.index(value)]  # True for NumPy's True


def batch_limit(max_batch_size: int, batch_type: str, default: int) -> int:
    """How much is decoded at once, counted as ``batch_type`` says; 0 is ``default``, in examples."""
    if batch_type not in BATCH_TYPES:
        raise ValueError(f"batch_type must be 'examples' or 'tokens', got {batch_type!r}")
    size = integer("max_batch_size", max_batch_size, 0)
    if batch_type == "tokens" and not size:
        raise ValueError("max_batch_size must be at least 1 with batch_type 'tokens', got 0")
    return size or default


def list_of(name: str, value, what: str, kinds: type | tuple = (list, tuple), *, gaps: bool = False) -> list:
    """The items of a sequence, each of ``kinds``, or None where it may have ``gaps``; arrays become lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {what}, got {type(value).__name__}")
    value = [item.tolist() if hasattr(item, "tolist") else item for item in value]
    for place, item in enumerate(value):
        if not isinstance(item, kinds) and not (gaps and item is None):
            raise TypeError(f"{name} {place} must be one of the {what}, got {type(item).__name__}")
    return value


def texts(name: str, value, *, gaps: bool = False) -> list[str]:
    """A list of sentences; a gap is an empty one."""
    sentences = list_of(name, value, "sentences", str, gaps=gaps)
    return [text(f"{name} {place}", item or "") for place, item in enumerate(sentences)]


def text(name: str, value) -> str:
    """A sentence, which can be written as UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a sentence, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{value[error.start]!r} at character {error.start}"
        raise ValueError(f"{name} must be text without lone surrogates, got {what}") from None
    return value


def token_lists(name: str, value, *, gaps: bool = False) -> list[list[str]]:
    """A list of lists of tokens; a gap is an empty one."""
    lists = [tokens or [] for tokens in list_of(name, value, "token lists", gaps=gaps)]
    for place, tokens in enumerate(lists):
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"{name} {place} must hold tokens, which are text, got {token!r}")
    return lists
