"""Options that `translate` and `evaluate` share: which model, on what, and how it decodes."""

import argparse

from ..decoding.modes import MODES, refuse_idle
from ..inputs import OptionError, flag, in_flags

TITLES = "; ".join(f"{name}: {mode.title}" for name, mode in MODES.items())
MOST = 1_000_000  # sentences of a batch, threads, ...
# Options of decoding by name: the declaration, and the modes that have one of that name. Only what the user names is
# passed on, so that the defaults live in one place.
OPTIONS: dict[str, tuple] = {}
for _mode in MODES:
    for _field in MODES[_mode].fields.values():
        if _field.metadata.get("flag", True):
            OPTIONS.setdefault(_field.name, (_field, []))[1].append(_mode)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name of a shipped model, or a model directory")
    parser.add_argument("--mode", choices=MODES, default="ar", help=f"{TITLES} (default: ar)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="sentences (default: 32)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--backend", choices=("auto", "engine", "cuda", "torch"), default="auto",
        help="the native engine, CUDA graphs, or torch step by step",
    )  # fmt: skip
    parser.add_argument(
        "--compute-type", default="default", metavar="TYPE",
        help="float32, bfloat16, int8, int8_bfloat16, or auto: the fastest here (default: float32; int8 if stored so)",
    )  # fmt: skip
    add_threads_argument(parser)
    parser.add_argument(
        "--inter-threads", type=batches_at_once, default=1, metavar="N",
        help="batches at once; auto: one by each thread, while there are so many (default: 1)",
    )  # fmt: skip


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", "--intra-threads", type=count, default=0, metavar="N",
        help="threads of a batch (default: 0, OMP_NUM_THREADS, or as many as there are cores, 4 at most)",
    )  # fmt: skip


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    common, groups = parser.add_argument_group("decoding"), {}
    for modes in dict.fromkeys(tuple(modes) for _, modes in OPTIONS.values()):
        title = f"decoding, --mode {' or '.join(modes)}"
        title += f" ({MODES[modes[0]].title})" if len(modes) == 1 else ""
        groups[modes] = parser.add_argument_group(title)
    for name, (field, modes) in OPTIONS.items():
        default, choices = field.default, getattr(field.metadata["check"], "keywords", {}).get("choices")
        if field.type in (bool, bool | None):
            kind, default = {"action": argparse.BooleanOptionalAction}, flag(name if default else f"no_{name}")
        elif choices:
            kind = {"choices": choices}
        else:
            kind = {"type": field.type, "metavar": field.metadata.get("metavar", "N" if field.type is int else "X")}
        text = in_flags(field.metadata["help"], OPTIONS)
        text += "" if "(default: " in text else f" (default: {default})"
        groups[tuple(modes)].add_argument(flag(name), default=None, help=text, **kind)
    common.add_argument(
        "--max-input-length", type=int, metavar="N",
        help="cut sentences behind N tokens (default: one too long is an error)",
    )  # fmt: skip


def decoding_options(arguments: argparse.Namespace) -> dict:
    """The decoding options that were named, ``mode`` included; an option of another mode is a mistake."""
    names = (*OPTIONS, "max_input_length")
    named = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    for name in named:
        if name in OPTIONS and arguments.mode not in (modes := OPTIONS[name][1]):
            raise ValueError(f"{flag(name)} must go with --mode {' or '.join(modes)}, got --mode {arguments.mode}")
    own = {name: value for name, value in named.items() if name in OPTIONS}
    refuse_idle(MODES[arguments.mode].options(**own), own)  # also where it is the default: somebody typed it
    return {"mode": arguments.mode, **named}


def translator(arguments: argparse.Namespace):
    from janus_fast import Translator

    return Translator(**made_by(arguments))


def made_by(arguments: argparse.Namespace) -> dict:
    """What a ``Translator`` is asked for."""
    return {
        "model": arguments.model, "device": arguments.device, "compute_type": arguments.compute_type,
        "intra_threads": arguments.threads, "inter_threads": arguments.inter_threads, "backend": arguments.backend,
    }  # fmt: skip


def batches_at_once(text: str) -> int | str:
    from ..engine import check_inter_threads

    try:
        return check_inter_threads("--inter-threads", int(text) if text.isdecimal() else text)
    except OptionError as error:
        _, rule, got = error.args
        raise argparse.ArgumentTypeError(f"must {rule}, got {got}") from None


def positive(text: str) -> int:
    return count(text, least=1)


def count(text: str, least: int = 0) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    if value > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST}, got {value}")
    return value
