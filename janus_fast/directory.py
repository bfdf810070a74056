"""The directory of a model: ``config.json``, ``model.safetensors``, the vocabularies, and a map between them."""

from pathlib import Path

from . import foreign
from .config import JanusConfig
from .reading import read_text
from .text import Vocabulary, VocabularyMap
from .text.vocabulary import SUFFIXES

WEIGHTS, CONFIG, MAP = "model.safetensors", "config.json", "vmap.txt"
_VOCABULARIES = ("sentencepiece", "vocabulary", "source", "target")
VOCABULARIES = tuple(name + suffix for name in _VOCABULARIES for suffix in SUFFIXES)
OF_VOCABULARIES = (*VOCABULARIES, MAP)  # what goes when they do
FILES = (CONFIG, WEIGHTS, *OF_VOCABULARIES)


def read_config(directory: Path) -> JanusConfig:
    if not (directory / CONFIG).exists():
        hint = foreign.described(directory) or ""
        raise FileNotFoundError(
            f"checkpoint: {directory} must be a model directory with {CONFIG}, which is not there{hint}"
        )
    return JanusConfig.from_json(read_text("checkpoint", directory / CONFIG), directory / CONFIG)


def read_vocabularies(directory: Path) -> tuple[Vocabulary, Vocabulary] | None:
    for name in ("sentencepiece", "vocabulary"):
        if shared := Vocabulary.read(directory, name):
            return shared, shared
    sides = {name: Vocabulary.read(directory, name) for name in ("source", "target")}
    if None not in sides.values():
        return sides["source"], sides["target"]
    for name, vocabulary in sides.items():
        if vocabulary is not None:
            raise ValueError(f"checkpoint: {directory} must hold a source and a target vocabulary, got {name}'s alone")
    return None


def write_vocabularies(directory: Path, source: Vocabulary, target: Vocabulary) -> None:
    if source is target:
        source.save(directory, "sentencepiece" if source.processor is not None else "vocabulary")
    else:
        source.save(directory, "source")
        target.save(directory, "target")


def read_vocabulary_map(directory: Path, source: Vocabulary, target: Vocabulary) -> VocabularyMap:
    if not (directory / MAP).exists():
        raise FileNotFoundError(
            f"Translator: {directory} must hold {MAP} for use_vmap, which is not there; `janus-fast shortlist` makes it"
        )
    return VocabularyMap.read(directory / MAP, source, target)
