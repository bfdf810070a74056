"""What ``train`` begins with: text, the run that goes on, the model of ``--init``, the vocabulary."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import janus_fast

from .. import models
from ..config import JanusConfig
from ..directory import FILES, VOCABULARIES, WEIGHTS, read_config, read_vocabularies, write_vocabularies
from ..inputs import check_input, check_output_folder, flag
from ..reading import read_bytes, read_text
from ..replacing import replacing
from ..text.lines import lines_of
from ..text.vocabulary import DEFAULT_SIZE, NORMALIZATIONS, SPECIAL_TOKENS, Vocabulary
from ..training.metrics import METRICS
from ._progress import say
from ._settings import MODEL, TRAINING

SETTINGS, CURVES = "train.json", "loss.png"


@dataclass
class Init:
    """The model that a run begins with."""

    config: JanusConfig
    vocabularies: tuple[Vocabulary, Vocabulary]
    weights: Path


def text_files(arguments) -> dict[str, Path | None]:
    """Where the text is, by role; every file is there. Monolingual text is source and target."""
    given = {name: getattr(arguments, name) for name in ("source", "target", "valid_source", "valid_target")}
    if arguments.monolingual:
        others = {"data": arguments.data, **given}
        if clash := [name for name, file in others.items() if file]:
            raise ValueError(f"{flag(clash[0])} must be left out with --monolingual, got {others[clash[0]]}")
        given = dict(zip(given, [arguments.monolingual] * 2 + [arguments.valid_monolingual] * 2, strict=True))
    elif arguments.valid_monolingual:
        raise ValueError(f"--valid-monolingual must go with --monolingual, got {arguments.valid_monolingual}")
    if arguments.data:
        if clash := [name for name, file in given.items() if file]:
            raise ValueError(f"{flag(clash[0])} must be left out with --data, got {given[clash[0]]}")
        languages = (arguments.pair or "en-de").split("-")
        if len(languages) != 2:
            raise ValueError(f"--pair must be two languages such as en-de, got {arguments.pair}")
        splits = ("train", languages[0]), ("train", languages[1]), ("valid", languages[0]), ("valid", languages[1])
        paths = [Path(arguments.data) / f"{split}.{language}" for split, language in splits]
        given = dict(zip(given, paths, strict=True))
        if not given["valid_source"].exists() and not given["valid_target"].exists():
            given["valid_source"] = given["valid_target"] = None
    elif arguments.pair:
        raise ValueError(f"--pair must go with --data, got {arguments.pair}")
    if not given["source"] or not given["target"]:
        given = next((f"--{name} alone" for name in ("source", "target") if given[name]), "none")
        raise ValueError(
            f"--data, or --source and --target, or --monolingual, must name the text to train on, got {given}"
        )
    if bool(given["valid_source"]) != bool(given["valid_target"]):
        raise ValueError("--valid-source and --valid-target must be given together, got one of them")
    for name, file in given.items():
        if file and arguments.data:
            if not file.exists():
                raise ValueError(f"--data must be a folder with {file.name}, got {arguments.data}, which has none")
            check_input("the text of --data", file, regular=True)
        elif file:
            name = name.replace("source", "monolingual") if arguments.monolingual else name
            check_input(flag(name), file, regular=True)
    return {name: Path(file) if file else None for name, file in given.items()}


def run_before(out: Path, text: dict, files: Iterable[Path]) -> dict | None:
    """The settings of the run in ``out`` that goes on, on the same text; None where there is none.

    ``files`` are those of its text, and of that which validates it.
    """
    from ..training.checkpoints import latest_checkpoint

    check_output_folder("--out", out)
    if not latest_checkpoint(out):
        begun = (out / SETTINGS).exists()  # and ended before its first checkpoint
        _check_nothing_is_lost(out, begun, files)
        others = sorted(file.name for file in out.iterdir()) if out.exists() and not begun else []
        if others:
            say(f"warning: {out} holds other files, such as {others[0]}; those of this run are written beside them")
        return None
    path = out / SETTINGS
    if not path.exists():
        raise ValueError(f"--out must be a directory of this command, got {out}, which has checkpoints of another")
    before = _read_settings(path)
    if before["text"] != text:
        names = " and ".join(f"--{name}" for name in text)
        raise ValueError(f"{names} must hold the text that the run in {out} began with; it has changed")
    return before


def _check_nothing_is_lost(out: Path, begun: bool, files: Iterable[Path]) -> None:
    """Refuses a directory in which a new run would replace somebody's files, or mix its own with the text."""
    rule = "--out must be a new directory or one with a run to go on with"
    if (out / WEIGHTS).exists():
        raise ValueError(f"{rule}, got {out}, which holds a finished model")
    if not begun and (held := [name for name in (*FILES, METRICS, CURVES) if (out / name).exists()]):
        raise ValueError(f"{rule}, got {out}, whose {held[0]} the run would replace")
    if text := [file.name for file in files if file.resolve().parent == out.resolve()]:
        raise ValueError(f"{rule}, got {out}, which holds the text {text[0]}: who removes the run would remove that")


def _read_settings(path: Path) -> dict:
    """What ``begin`` wrote, of this version or an older one."""
    text = read_text("train", path)
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"train: {path} must be whole, got {error}") from None
    for part, known in (("text", None), ("start", None), ("model", MODEL), ("training", TRAINING)):
        own = settings.get(part) if isinstance(settings, dict) else None
        if not isinstance(own, dict):
            raise ValueError(f"train: {path} must have settings of {part}, got {own}")
        if unknown := [name for name in own if known and name not in known]:
            raise ValueError(f"train: {path} must be of this version or an older one, got the option {unknown[0]}")
    return settings


def init_model(arguments) -> Init:
    """The model of --init, with its own vocabularies, or with that of --vocabulary where it has none."""
    try:
        directory = models.locate(arguments.init)
    except FileNotFoundError as error:
        raise ValueError(f"--init: {error}") from None
    config = read_config(directory)
    if config.output_bias:
        raise ValueError(f"--init must be a model that can be trained, which Marian's cannot be, got {arguments.init}")
    run = directory.resolve().parent.parent  # of a checkpoint
    own = read_vocabularies(directory) or (read_vocabularies(run) if (run / SETTINGS).is_file() else None)
    if arguments.vocabulary:
        given = _vocabulary_in(arguments.vocabulary)
        if own and any(not given.same_as(vocabulary) for vocabulary in own):
            raise ValueError(f"--vocabulary must be left out, or that of --init, got {arguments.vocabulary}, another")
        own = own or (given, given)
    if not own:
        raise ValueError(f"--init must have its vocabulary beside it or go with --vocabulary, got {arguments.init}")
    sizes = config.source_vocab_size, config.target_vocab_size
    if (found := tuple(map(len, own))) != sizes:
        raise ValueError(f"the vocabulary of --init must have {sizes} tokens, source and target, got {found}")
    if arguments.vocabulary_size not in (None, config.target_vocab_size):
        raise ValueError(
            f"--vocabulary-size must be {config.target_vocab_size}, as in the model of --init, "
            f"got {arguments.vocabulary_size}"
        )
    if arguments.monolingual and not own[0].same_as(own[1]):
        raise ValueError(f"--init must have one vocabulary for both sides with --monolingual, got {arguments.init}")
    _refuse_normalization(arguments, "--init")
    return Init(config, own, directory / WEIGHTS)


def vocabulary_of_run(arguments, files) -> Vocabulary:
    """The vocabulary of a new run: --vocabulary, or one of the text."""
    if arguments.vocabulary:
        vocabulary = _vocabulary_in(arguments.vocabulary)
        first = tuple(vocabulary.tokens[: len(SPECIAL_TOKENS)])
        if first != SPECIAL_TOKENS:
            raise ValueError(f"--vocabulary must begin with {' '.join(SPECIAL_TOKENS)}, got {' '.join(first)}")
        if arguments.vocabulary_size not in (None, len(vocabulary)):
            raise ValueError(
                f"--vocabulary-size must be {len(vocabulary)}, that of --vocabulary, got {arguments.vocabulary_size}"
            )
        _refuse_normalization(arguments, "--vocabulary")
        return vocabulary
    size, normalization = arguments.vocabulary_size, arguments.normalization or NORMALIZATIONS[0]
    say(f"training a vocabulary of {size or DEFAULT_SIZE:,} tokens")
    text = dict.fromkeys((files["source"], files["target"]))
    vocabulary = Vocabulary.train([*text], size, normalization=normalization)
    if not size and len(vocabulary) < DEFAULT_SIZE:
        say(f"this text has pieces for {len(vocabulary):,} tokens, and its vocabulary is of that size")
    if lost := _lost_characters(vocabulary, lines_of(files["target"])):
        shown = f"{' '.join(lost[:10])}{f' and {len(lost) - 10:,} more' if len(lost) > 10 else ''}"
        say(f"normalization {normalization} replaces {shown} in the target text; --normalization identity keeps them")
    return vocabulary


def _vocabulary_in(file: str) -> Vocabulary:
    check_input("--vocabulary", file)
    try:
        return Vocabulary.from_sentencepiece(file)
    except ValueError:
        raise ValueError(f"--vocabulary must be a sentencepiece model, got another file, {file}") from None


def _lost_characters(vocabulary: Vocabulary, lines: list[str]) -> list[str]:
    """Those of ``lines`` that no translation will have, because the vocabulary's normalization replaces them."""
    kept = set().union(*(vocabulary.decode(vocabulary.encode(line)) for line in lines))
    return [lost if lost.isprintable() else f"U+{ord(lost):04X}" for lost in sorted(set().union(*lines) - kept)]


def _refuse_normalization(arguments, other: str) -> None:
    if arguments.normalization:
        raise ValueError(f"--normalization must be left out with {other}, got {arguments.normalization}")


def begin(out: Path, settings: dict, vocabularies) -> None:
    """Writes what a run begins or goes on with, once nothing but training can fail."""
    with replacing(out, VOCABULARIES if vocabularies else (), last=SETTINGS) as folder:
        if vocabularies:
            write_vocabularies(folder, *vocabularies)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of what a run depends on; the same text and options may make another vocabulary, or other sums, with others."""
    import torch

    return {
        "janus_fast": janus_fast.__version__, "torch": str(torch.__version__), "sentencepiece": version("sentencepiece")
    }  # fmt: skip


def checksum(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
