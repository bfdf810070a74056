"""Fast decoding and training of JANUS models: one Transformer, autoregressive and non-autoregressive."""

import os
import weakref

__version__ = "0.1.0"

_PUBLIC = {
    "JanusConfig": "config",
    "JanusModel": "model",
    "ScoringResult": "results",
    "TranslationResult": "results",
    "Translator": "translator",
    "Visibility": "visibility",
    "Vocabulary": "text",
    "backends": "ops",
    "explain": "ops",
    "save": "checkpoint",
    "translate_files": "files",
}
for _file in sorted(os.listdir(os.path.join(os.path.dirname(__file__), "ops"))):
    if _file.endswith(".py") and not _file.startswith("_"):
        _PUBLIC[_file.removesuffix(".py")] = "ops"
_ROOMS = (  # modules, imported when they are first named
    "checkpoint", "compat", "config", "convert", "data", "decoding", "evaluate", "files", "model", "models",
    "objectives", "ops", "reference", "text", "training", "translator", "visibility",
)  # fmt: skip
__all__ = ["load", *_PUBLIC]


def load(name_or_path):
    """Reads a model that is shipped, or that ``janus_fast.save`` or ``janus-fast train`` wrote.

    Args:
        name_or_path: the name of a shipped model, such as "en-de-small", or a model directory.
    Returns:
        The ``janus_fast.JanusModel``, in float32 and evaluation mode, on the CPU, and its (source, target)
        vocabularies, None where the directory holds none.
    Raises:
        FileNotFoundError: no such model, or a file of it is missing.
        ValueError: a file is damaged, or belongs to another model.
    """
    from . import models

    return _module("checkpoint", "load").load(models.locate(name_or_path))


# Finalizers, by which torch takes operations away when Python ends, run where the first one was made among the handlers
# of atexit: behind those that are registered from here on.
weakref.finalize(load, bool)


def __getattr__(name):
    if name in _ROOMS:
        return _module(name, name)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'janus_fast' has no attribute {name!r}")
    return getattr(_module(_PUBLIC[name], name), name)


def _module(room, wanted):
    """One that ``wanted`` lies in; where torch is missed, that is said in full."""
    from importlib import import_module

    try:
        return import_module(f".{room}", __name__)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from .installation import absence

        raise ModuleNotFoundError(f"janus_fast.{wanted} needs {absence('torch')}", name="torch") from None


def __dir__():
    return sorted({*globals(), *__all__, *_ROOMS})
