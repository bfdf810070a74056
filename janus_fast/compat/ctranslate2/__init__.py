"""CTranslate2's interface over our own decoding: ``from janus_fast.compat import ctranslate2``.

Names, types and defaults are those of CTranslate2 4.8: tokens in and out, a beam of two, sources cut at 1,024 tokens,
scores on request. ``docs/drop-in.md`` lists every argument, and what is refused. Models are model directories of ours.
"""

from pathlib import Path

from ... import directory, inputs, models
from .options import random_numbers
from .results import (
    AsyncScoringResult,
    AsyncTranslationResult,
    ExecutionStats,
    GenerationStepResult,
    ScoringResult,
    TranslationResult,
)
from .translator import LOG, Translator, get_cuda_device_count, get_supported_compute_types

__all__ = [
    "AsyncScoringResult", "AsyncTranslationResult", "ExecutionStats", "GenerationStepResult", "ScoringResult",
    "TranslationResult", "Translator", "contains_model", "get_cuda_device_count", "get_log_level",
    "get_supported_compute_types", "set_log_level", "set_random_seed",
]  # fmt: skip

__version__ = "4.8.5"  # whose interface it is


def __getattr__(name: str):
    rule = "be a name that this interface has; docs/drop-in.md lists what it has not"
    raise AttributeError(f"janus_fast.compat.ctranslate2: attribute must {rule}, got {name!r}")


def contains_model(path: str) -> bool:
    """Whether ``path`` is a directory that seems to hold a model, or the name of a shipped one."""
    return models.is_shipped(path) or all(
        (Path(path) / name).is_file() for name in (directory.CONFIG, directory.WEIGHTS)
    )


def set_random_seed(seed: int) -> None:
    """Sets what sampling draws by, from here on."""
    random_numbers.seed(inputs.integer("seed", seed, 0))


def set_log_level(level: int) -> None:
    """Sets the level of the logger ``janus_fast``, in Python's numbers."""
    LOG.setLevel(level)


def get_log_level() -> int:
    """The level of the logger ``janus_fast``."""
    return LOG.getEffectiveLevel()
