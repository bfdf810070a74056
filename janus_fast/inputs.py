"""What users hand in, declared and checked: a mistake is one sentence that names the argument."""

import dataclasses
import inspect
import math
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from contextlib import suppress
from difflib import get_close_matches
from functools import partial, wraps
from numbers import Integral, Real
from pathlib import Path

BATCH_TYPES = ("examples", "tokens")
SENTENCE = "a sentence as one string"
MOST_INTEGER = 2**31 - 1  # of what takes no memory
FEW = 5  # choices, which a message can say before anything else
ALIKE = 0.65  # of two names, of which one may be meant by the other


class OptionError(ValueError):
    """``{name} must {rule}, got {value}``: name and rule are our words, in which options can be written otherwise."""

    def __init__(self, name: str, rule: str, value: object):
        super().__init__(name, rule, str(value))

    def __str__(self) -> str:
        return self.in_flags(())

    def in_flags(self, names: Iterable[str]) -> str:
        """The message, with the options ``names`` as the command line has them."""
        name, rule, value = self.args
        owner, space, last = name.rpartition(" ")
        if last in names:  # else a word of one part may be no option
            name = f"{owner}{space}{flag(last)}"
        return f"{in_flags(f'{name} must {rule}', names)}, got {value}"


class TooLong(ValueError):
    """A sentence of a stream that has more tokens than the model has positions, unless it is cut."""

    def __init__(self, number: int, length: int, limit: int, uncut: int):
        super().__init__(number, length, limit, uncut)

    def __str__(self) -> str:
        return self.named("source {}", "max_input_length={} cuts such sources")

    def named(self, name: str, hint: str) -> str:
        number, length, limit, uncut = self.args
        return f"{too_long(name.format(number), length, limit)}; {hint.format(uncut)}"


def in_flags(text: str, names: Iterable[str]) -> str:
    """``text`` of ours with ``--beam-size`` for ``beam_size``, where that is among ``names``."""
    return re.sub(r"\w+", lambda word: flag(word[0]) if "_" in word[0] and word[0] in names else word[0], text)


def flag(name: str) -> str:
    """An option as the command line has it."""
    return "--" + name.replace("_", "-")


def option(default, check: Callable | None, help: str, **more) -> dataclasses.Field:
    """A field of a dataclass of options.

    Args:
        default: its default, or ``dataclasses.MISSING``.
        check: called with name and value; returns the value, or raises OptionError.
        help: what it is, in a line for the command line and the documentation.
        more: further entries of the field's metadata: ``doc`` goes on where the line ends, in the documentation alone;
            ``recorded`` False says that no program recorded for a GPU depends on it.
    """
    metadata = {"check": check, "help": help, "on": (), "recorded": True, **more}
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(options, owner: str = "") -> None:
    """Checks the fields of a dataclass of options as they are declared; ``owner`` begins the messages."""
    for field in dataclasses.fields(options):
        if check := field.metadata.get("check"):
            object.__setattr__(options, field.name, check(owner + field.name, getattr(options, field.name)))


def described(field: dataclasses.Field) -> str:
    """What an option is, in full."""
    return "; ".join(field.metadata[part] for part in ("help", "doc") if field.metadata.get(part))


def documented(options: type) -> type:
    """A dataclass of options with its fields in its docstring."""
    lines = [f"    {field.name}: {described(field)}" for field in dataclasses.fields(options)]
    options.__doc__ = "\n".join([inspect.cleandoc(options.__doc__ or ""), "", "Attributes:", *lines])
    return options


def integers(least: int, most: int | None = None) -> Callable:
    return partial(integer, least=least, most=most)


def numbers(**bounds: float) -> Callable:
    return partial(number, **bounds)


def one_of(*choices) -> Callable:
    return partial(choice, choices=choices)


def rule(words: str, holds: Callable) -> Callable:
    """A check by what a value must do, in words, and whether it does; NaN and values of another kind do nothing."""

    def check(name: str, value):
        with suppress(TypeError):
            if holds(value):
                return value
        raise OptionError(name, words, repr(value))

    return check


switch = rule("be true or false", lambda x: isinstance(x, bool))
weight = rule("be at least 0 and finite", lambda x: 0 <= x < math.inf)


def integer(name: str, value, least: int, most: int | None = None) -> int:
    """``value`` as an int: NumPy's integers are integers, True and False are not."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise OptionError(name, f"be an integer of at least {least}", repr(value))
    if most is not None and value > most:
        raise OptionError(name, f"be at most {most}", value)
    return int(value)


def number(name: str, value, *, above=-math.inf, least=-math.inf, most=math.inf) -> float:
    real = isinstance(value, Real) and not isinstance(value, bool)
    try:
        finite = real and math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        finite = False
    if not finite or not (above < value <= most and least <= value):
        begin = f"({above:g}" if least == -math.inf else f"[{least:g}"
        bounds = f" in {begin}, {most:g}]" if most < math.inf else f" above {above:g}" * (above > -math.inf)
        raise OptionError(name, f"be a finite number{bounds}", repr(value))
    return float(value)


def id_list(name: str, value):
    """A check: some ids, or None."""
    if value is None:
        return None
    return tuple(integer(name, token, 0, MOST_INTEGER) for token in list_of(name, value, "ids", "an id", Integral))


def id_lists(name: str, value):
    """A check: lists of ids."""
    return tuple(id_list(name, tokens) for tokens in list_of(name, value or (), "id lists", "a list of ids"))


def function_or_none(name: str, value):
    """A check: a function, or None."""
    if value is not None and not callable(value):
        raise OptionError(name, "be a function or None", repr(value))
    return value


def unwrap_numbers(instance) -> None:
    """Makes NumPy's numbers in the fields of a dataclass Python's; JSON and torch's generators take no others."""
    for field in dataclasses.fields(instance):
        if hasattr(value := getattr(instance, field.name), "tolist"):
            object.__setattr__(instance, field.name, value.tolist())


def choice(name: str, value, choices: Iterable):
    """The one of ``choices`` that ``value`` equals: True for NumPy's True."""
    choices = list(choices)
    if value not in choices:
        raise OptionError(name, *among(value, choices))
    return choices[choices.index(value)]


def listed(choices: Iterable) -> str:
    return ", ".join(map(repr, choices))


def meant(value, choices: Iterable) -> str:
    """What a slip of the pen was meant to be, as the end of a message."""
    close = get_close_matches(str(value), [name for name in choices if isinstance(name, str)], 1, ALIKE)
    return f"; did you mean {close[0]!r}?" if close else ""


def among(
    value, choices: Iterable, where: str = "", *, rule: str = "be one of", hint: str | None = None
) -> tuple[str, str]:
    """The rule that ``value`` breaks, which is none of the ``choices`` ``where`` it stands, and what a message says it
    got, with a ``hint``, by default what is ``meant``. Before a long list the hint comes first."""
    choices = list(choices)
    hint = meant(value, choices) if hint is None else hint
    if hint and len(choices) > FEW:
        return f"be known{where}", f"{value!r}{hint}{'' if hint.endswith('?') else '.'} Known are {listed(choices)}"
    return f"{rule} {listed(choices)}{where}", f"{value!r}{hint}"


def hinting(function: Callable) -> Callable:
    """``function``, which says what is meant where a keyword is none of its own; ``options`` it hands on."""
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name not in ("self", "options")]
    hands_on = "options" in signature.parameters

    @wraps(function)
    def call(*arguments, **options):
        try:
            signature.bind(*arguments, **options)
        except TypeError:
            what = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
            for name in (name for name in options if name not in names):
                hint = meant(name, (own for own in names if own not in options))
                if hint or not hands_on:
                    rule, got = among(name, names, rule="be among", hint=hint)
                    raise TypeError(f"{what}: arguments must {rule}, got {got}") from None
        return function(*arguments, **options)

    return call


def path(name: str, value) -> str | os.PathLike:
    """A check: what a file can be called."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, got {type(value).__name__}")
    text = os.fspath(value)
    if "\0" in text:
        raise ValueError(f"{name} must be a path, which holds no NUL, got {text!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a path that the system can spell, got {text!r}") from None
    return value


def check_input(name: str, file: str | Path, *, regular: bool = False) -> None:
    """Refuses a file that is not there or cannot be read, before it is read; a pipe is one unless ``regular``."""
    path(name, file)
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name} must be a file that exists, got {file}") from None
    except OSError as error:  # as of a folder that may not be searched
        raise type(error)(f"{name} must be a file that can be read, got {file}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{name} must be a file, got the folder {file}")
    if regular and not stat.S_ISREG(mode):
        raise OSError(f"{name} must be a regular file, which can be read again, got {file}")
    if not os.access(file, os.R_OK):
        raise PermissionError(f"{name} must be a file that can be read, got {file}")


def check_part(owner: str, file: str | Path) -> None:
    """The same for a file of a model or a run, which may be read again."""
    check_input(f"{owner}: {Path(file).name}", file, regular=True)


def check_output(name: str, file: str | Path, **read: str | Path) -> None:
    """Refuses a file that cannot be written, or is one of those that are ``read``, before it is written."""
    folder = Path(path(name, file)).parent
    if not folder.is_dir():
        raise ValueError(f"{name} must be in a folder that exists, got {file}: there is no folder {folder}")
    if Path(file).is_dir():
        raise ValueError(f"{name} must be a file, got the folder {file}")
    if not os.access(file if os.path.exists(file) else folder, os.W_OK):
        raise ValueError(f"{name} must be a file that can be written, got {file}")
    for other, source in read.items():
        if os.path.exists(source) and os.path.exists(file) and os.path.samefile(source, file):
            raise ValueError(f"{name} must be another file than {other}, got {file}")


def check_output_folder(name: str, folder: str | Path) -> None:
    """Refuses a folder that cannot be made or written to, before it is."""
    there = Path(path(name, folder))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{name} must be a directory, got {folder}: {there} is a file")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{name} must be a directory that can be written to, got {folder}: {there} is write-protected")


def batch_limit(max_batch_size: int, batch_type: str, default: int) -> int:
    """How much is decoded at once, counted as ``batch_type`` says; 0 is ``default``, in examples."""
    choice("batch_type", batch_type, BATCH_TYPES)
    size = integer("max_batch_size", max_batch_size, 0)
    if batch_type == "tokens" and not size:
        raise OptionError("max_batch_size", "be at least 1 with batch_type 'tokens'", 0)
    return size or default


def list_of(name: str, value, what: str, item: str, kinds: type | tuple = (list, tuple), *, gaps=False) -> list:
    """The items of a sequence, each of ``kinds``, or None where it may have ``gaps``; arrays become lists.

    ``what`` are all of them in an error, ``item`` is one.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {what}, got {type(value).__name__}")
    value = [own.tolist() if hasattr(own, "tolist") else own for own in value]
    for place, own in enumerate(value):
        if not isinstance(own, kinds) and not (gaps and own is None):
            raise TypeError(f"{name} {place} must be {item}, got {type(own).__name__}")
    return value


def texts(name: str, value, *, gaps: bool = False) -> list[str]:
    """A list of sentences; a gap is an empty one."""
    sentences = list_of(name, value, "sentences", SENTENCE, str, gaps=gaps)
    return [text(f"{name} {place}", item or "") for place, item in enumerate(sentences)]


def text(name: str, value) -> str:
    """A sentence, which can be written as UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {SENTENCE}, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{value[error.start]!r} at character {error.start}"
        raise ValueError(f"{name} must be text without lone surrogates, got {what}") from None
    return value


def token_lists(name: str, value, *, gaps: bool = False) -> list[list[str]]:
    """A list of lists of tokens; a gap is an empty one."""
    lists = [tokens or [] for tokens in list_of(name, value, "token lists", "a list of tokens", gaps=gaps)]
    for place, tokens in enumerate(lists):
        for token in tokens:
            if not isinstance(token, str):
                raise TypeError(f"{name} {place} must hold tokens, which are text, got {token!r}")
    return lists


def ids(name: str, number: int, value, vocabulary_size: int, limit: int) -> None:
    """Refuses ids that are too many, or no tokens of the vocabulary."""
    if len(value) > limit:
        raise ValueError(too_long(f"{name} {number}", len(value), limit))
    for token in value:
        if not isinstance(token, Integral) or isinstance(token, bool) or not 0 <= token < vocabulary_size:
            raise ValueError(f"{name} {number} must hold ids in [0, {vocabulary_size}), got {token!r}")


def too_long(name: str, length: int, limit: int) -> str:
    return f"{name} must have at most {limit} tokens, bos and eos included, got {length}"


def outputs(name: str, value, count: int, limit: int, config, ends: Collection[int]) -> list[list[int]] | None:
    """Words of each of ``count`` outputs, which end by ``ends``; a gap is none."""
    if value is None:
        return None
    value = [own or [] for own in list_of(name, value, "id lists", "a list of ids", gaps=True)]
    if len(value) != count:
        raise ValueError(f"{name} must have one entry a source = {count}, got {len(value)}")
    for number, own in enumerate(value):
        if len(own) > limit:
            raise ValueError(f"{name} {number} must have at most {limit} tokens, got {len(own)}")
        ids(name, number, own, config.target_vocab_size, limit)
        never = {config.bos_token_id, config.pad_token_id} & {*config.suppressed} | {config.eos_token_id} & {*ends}
        never.discard(config.forced_bos_token_id)
        for token in own:
            if token in never:
                raise ValueError(f"{name} {number} must not hold bos, pad or eos, got {token}")
    return value
