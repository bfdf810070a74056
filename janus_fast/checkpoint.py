"""Models on disk: ``config.json``, ``model.safetensors`` and the vocabularies, in one directory."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .config import JanusConfig
from .model import JanusModel
from .text import Vocabulary

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_atomically(path: str | Path, write) -> None:
    """Calls ``write(temporary path)`` and renames the result to ``path``: a failure leaves the old file as it was."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """``tensors`` as a safetensors file; a tensor that shares another's memory must be left out by the caller."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata={"format": "pt"}))


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
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint: {origin}: {name} must hold finite numbers alone, got NaN or infinity")
        with torch.no_grad():
            expected[name].copy_(tensor)


def save(model: JanusModel, directory: str | Path, vocabularies=None, *, dtype: torch.dtype | None = None) -> None:
    """Writes a model (weights last, each file atomically) and its ``(source, target)`` vocabularies.

    ``dtype`` converts the weights on disk, e.g. ``torch.bfloat16`` for a file of half the size.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if vocabularies is not None:
        source, target = vocabularies
        if source is target:
            source.save(directory, "sentencepiece" if source.processor is not None else "vocabulary")
        else:
            source.save(directory, "source")
            target.save(directory, "target")
    text = model.config.to_json()
    write_atomically(directory / CONFIG, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    state = unique_state(model)
    write_tensors({k: v if dtype is None else v.to(dtype) for k, v in state.items()}, directory / WEIGHTS)


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
