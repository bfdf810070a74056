"""Models on disk: ``config.json``, ``model.safetensors`` and the vocabularies, in one directory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .config import JanusConfig
from .model import JanusModel
from .text import Vocabulary

WEIGHTS, CONFIG = "model.safetensors", "config.json"
VOCABULARIES = ("sentencepiece", "vocabulary", "source", "target")


@contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """A temporary directory whose files take the places of their namesakes in ``directory``, weights last.

    They do so once all of them are safely on disk: a failure before leaves everything as it was.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=directory))
    try:
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda file: file.name == WEIGHTS)
        for path in files:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        for path in files:
            os.replace(path, directory / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """The state dict with every shared tensor once."""
    seen, state = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[name] = tensor
    return state


def load_unique_state(model: JanusModel, state: dict[str, torch.Tensor], origin) -> None:
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
        if not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint: {origin}: {name} must hold finite numbers alone, got NaN or infinity")
        with torch.no_grad():
            expected[name].copy_(tensor)


def save(model: JanusModel, directory: str | Path, vocabularies=None, *, dtype: torch.dtype | None = None) -> None:
    """Writes a model and its ``(source, target)`` vocabularies; all of it, or nothing if anything fails.

    ``dtype`` converts the weights on disk, e.g. ``torch.bfloat16`` for a file of half the size.

    Raises:
        OSError: something cannot be written; a model that ``directory`` held before is still there.
    """
    directory = Path(directory)
    with replacing(directory) as temporary:
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
        written = {file.name for file in temporary.iterdir()}
    if vocabularies is not None:  # those of a model that was here before
        for name in VOCABULARIES:
            for file in (directory / f"{name}.model", directory / f"{name}.json"):
                if file.name not in written:
                    file.unlink(missing_ok=True)


def load(directory: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary] | None]:
    """Reads what :func:`save` wrote: the model in float32 evaluation mode, and its vocabularies (None without)."""
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"checkpoint: {directory} must be a model directory with {CONFIG}, which is not there")
    config = JanusConfig.from_json((directory / CONFIG).read_text(encoding="utf-8"), directory / CONFIG)
    model = JanusModel(config)
    load_unique_state(model, read_tensors(directory / WEIGHTS), directory / WEIGHTS)
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
    source, target = read("source"), read("target")
    return (source, target) if source and target else None
