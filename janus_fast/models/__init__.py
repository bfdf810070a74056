"""Models by name, directory or object; here are those that ship with the package, each a directory."""

import os
from pathlib import Path

from .. import directory, foreign, inputs, weights
from ..config import JanusConfig
from ..inputs import listed, meant
from ..text import Vocabulary

_HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def is_shipped(name_or_path: str | Path) -> bool:
    """Whether this names a shipped model, and no directory on disk."""
    return not Path(name_or_path).is_dir() and str(name_or_path) in names()


def locate(name_or_path: str | Path) -> Path:
    """The directory of a shipped model, or of one on disk. A directory on disk wins over a shipped name."""
    path = Path(inputs.path("model", name_or_path))
    if path.is_dir():
        return path
    if is_shipped(name_or_path):
        return _HERE / str(name_or_path)
    hint = meant(name_or_path, names()) or foreign.described(path) or ""
    rule = f"be a model directory or one of {listed(names())}"
    raise FileNotFoundError(f"model must {rule}, got {str(name_or_path)!r}{hint}")


def read(model) -> tuple[JanusConfig, dict, tuple[Vocabulary, Vocabulary] | None]:
    """The configuration of a model, its parameters, which nobody else can change, and its vocabularies."""
    if isinstance(model, (str, os.PathLike)):
        folder = locate(model)
        config = directory.read_config(folder)
        return config, weights.read(folder / directory.WEIGHTS, config), directory.read_vocabularies(folder)
    from ..model import JanusModel

    if not isinstance(model, JanusModel):
        raise TypeError(f"Translator: model must be a name, a directory or a JanusModel, got {type(model).__name__}")
    arrays = {name: parameter.detach().float().cpu().numpy().copy() for name, parameter in model.named_parameters()}
    if name := weights.nonfinite(arrays):
        raise ValueError(f"Translator: model must hold finite weights alone, got NaN or infinity in {name}")
    return model.config, arrays, None
