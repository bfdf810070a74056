"""Models on disk: ``config.json``, ``model.safetensors`` and the vocabularies, in one directory."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .config import JanusConfig
from .model import JanusModel, Positions
from .text import Vocabulary

WEIGHTS, CONFIG = "model.safetensors", "config.json"
VOCABULARIES, SUFFIXES = ("sentencepiece", "vocabulary", "source", "target"), (".model", ".json")


@contextmanager
def replacing(directory: str | Path, removed: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary directory whose files take the places of their namesakes in ``directory``, weights last.

    They do so once all of them are safely on disk: a failure before leaves everything as it was. Then the names in
    ``removed`` go, and the files are renamed one by one. An interruption from the keyboard waits until that is done;
    if the machine stops in between, what is half replaced lacks the files that were removed and not yet renamed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=directory))
    try:
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda file: file.name == WEIGHTS)
        for path in files:
            _sync(path)
        with _uninterrupted():
            for name in removed:
                (directory / name).unlink(missing_ok=True)
            for path in files:
                os.replace(path, directory / path.name)
            _sync(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done. Python interrupts the main thread alone."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []
    signal.signal(signal.SIGINT, lambda *event: held.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])


def write_tensors(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """``tensors`` as a safetensors file; a tensor that shares another's memory must be left out by the caller.

    Raises:
        OSError: the file cannot be written, for instance to a full disk; what ``path`` held before is still there.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(Path(path).parent) as temporary:
        try:
            file = temporary / Path(path).name
            file.touch()
            mode = file.stat().st_mode  # save_file makes a file that its owner alone can read
            save_file(contiguous, file, metadata={"format": "pt"})
            file.chmod(mode)
        except (SafetensorError, OSError) as error:
            raise OSError(f"checkpoint: {path} must be on a disk that takes it, got {error}") from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint: {path} does not exist")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint: {path} must be a whole safetensors file, got {error}") from None


def unique_state(model: JanusModel) -> dict[str, torch.Tensor]:
    """Every parameter by name, a shared one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def check_state(model: JanusModel, state: dict[str, torch.Tensor], origin) -> None:
    """Raises ValueError unless ``state``, read from ``origin``, is one that ``model`` can have."""
    expected = unique_state(model)
    if missing := sorted(set(expected) - set(state)):
        raise ValueError(f"checkpoint: {origin} must hold every parameter of the model, got no {missing[0]!r}")
    if unknown := sorted(set(state) - set(expected)):
        raise ValueError(f"checkpoint: {origin} must hold the parameters of the model alone, got {unknown[0]!r}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"checkpoint: {origin}: {name} must have shape {list(expected[name].shape)}, got {list(tensor.shape)}"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"checkpoint: {origin}: {name} must hold floating-point numbers, got {tensor.dtype}")
        if not torch.isfinite(tensor.float()).all():
            raise ValueError(f"checkpoint: {origin}: {name} must hold finite numbers alone, got NaN or infinity")


def load_unique_state(model: JanusModel, state: dict[str, torch.Tensor], origin) -> None:
    check_state(model, state, origin)
    for name, parameter in unique_state(model).items():
        parameter.copy_(state[name])


def model_of(config: JanusConfig, state: dict[str, torch.Tensor], origin) -> JanusModel:
    """The model with these parameters: checked before any memory is taken for them, none of them drawn at random."""
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        if (last := f"{side}.layers.{layers - 1}.fc1.weight") not in state:  # before as many layers are made
            raise ValueError(f"checkpoint: {origin} must hold every parameter of the model, got no {last!r}")
    try:
        with torch.device("meta"):
            model = JanusModel(config)
        if config.positions == "sinusoidal":  # tables that no file holds
            for stack in (model.encoder, model.decoder):
                stack.embed_positions = Positions(config, stack.embed_positions.size)
    except (RuntimeError, OverflowError, TypeError) as error:  # more numbers than memory or an int64 can count
        raise ValueError(f"checkpoint: {origin} must be of a size that a model can have, got {error}") from None
    check_state(model, state, origin)
    loaded = {p: nn.Parameter(state[name].to(p.dtype, copy=True)) for name, p in model.named_parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, loaded[parameter])
    return model


def save(model: JanusModel, directory: str | Path, vocabularies=None, *, dtype: torch.dtype | None = None) -> None:
    """Writes a model and its ``(source, target)`` vocabularies over whatever model ``directory`` holds.

    A failure before everything is on disk, such as a full disk, leaves the old model as it was. If the machine stops
    during the renames that follow, ``directory`` has no weights, which :func:`load` reports: two models never mix.

    ``dtype`` converts the weights on disk, e.g. ``torch.bfloat16`` for a file of half the size.

    Raises:
        OSError: something cannot be written.
    """
    removed = [WEIGHTS] if vocabularies is None else [WEIGHTS, *(f"{n}{s}" for n in VOCABULARIES for s in SUFFIXES)]
    with replacing(directory, removed) as temporary:
        if vocabularies is not None:
            source, target = vocabularies
            if source is target:
                source.save(temporary, "sentencepiece" if source.processor is not None else "vocabulary")
            else:
                source.save(temporary, "source")
                target.save(temporary, "target")
        (temporary / CONFIG).write_text(model.config.to_json(), encoding="utf-8")
        state = unique_state(model)
        write_tensors({k: v if dtype is None else v.to(dtype) for k, v in state.items()}, temporary / WEIGHTS)


def load(directory: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary] | None]:
    """Reads what :func:`save` wrote: the model in float32 evaluation mode, and its vocabularies (None without)."""
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"checkpoint: {directory} must be a model directory with {CONFIG}, which is not there")
    try:
        text = (directory / CONFIG).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"checkpoint: {directory / CONFIG} must be UTF-8 text, got {error}") from None
    config = JanusConfig.from_json(text, directory / CONFIG)
    model = model_of(config, read_tensors(directory / WEIGHTS), directory / WEIGHTS)
    return model.eval(), load_vocabularies(directory)


def load_vocabularies(directory: Path) -> tuple[Vocabulary, Vocabulary] | None:
    def read(name):
        if (path := directory / f"{name}.model").is_file():
            return Vocabulary.from_sentencepiece(path)
        if (path := directory / f"{name}.json").is_file():
            return Vocabulary.from_json(path)
        return None

    if shared := read("sentencepiece") or read("vocabulary"):
        return shared, shared
    sides = {name: read(name) for name in ("source", "target")}
    if None not in sides.values():
        return sides["source"], sides["target"]
    for name, vocabulary in sides.items():
        if vocabulary is not None:
            raise ValueError(f"checkpoint: {directory} must hold a source and a target vocabulary, got {name}'s alone")
    return None
