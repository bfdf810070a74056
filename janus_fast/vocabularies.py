"""The vocabularies of a model that decodes, and what sources can become by the map between them."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from . import directory, inputs, models
from .config import JanusConfig
from .text import Vocabulary, VocabularyMap


class Vocabularies:
    """Those of a model, which may have none: only ids are decoded then.

    Args:
        pair: of sources and of targets, or None.
        config: of the model.
        model: its name or its directory, which may hold a map; None for a model that was given as an object.

    Raises:
        TypeError: ``pair`` is something else.
        ValueError: the sizes are not the model's.
    """

    def __init__(self, pair: tuple[Vocabulary, Vocabulary] | None, config: JanusConfig, model: str | None):
        if pair is not None:
            pair = inputs.list_of("Translator: vocabularies", pair, "vocabularies", "a Vocabulary", Vocabulary)
            sizes = (config.source_vocab_size, config.target_vocab_size)
            if tuple(map(len, pair)) != sizes:
                raise ValueError(
                    f"Translator: vocabularies must have the model's sizes {sizes}, got {tuple(map(len, pair))}"
                )
        self._pair, self._config, self._model = pair, config, model

    @property
    def source(self) -> Vocabulary:
        return self._side(0)

    @property
    def target(self) -> Vocabulary:
        return self._side(1)

    def _side(self, number: int) -> Vocabulary:
        if self._pair is None:
            if self._model is not None:
                raise ValueError(
                    f"Translator: {self._model} must hold a vocabulary for tokens and text, got neither "
                    "sentencepiece.model nor vocabulary.json nor source and target (.model or .json); "
                    "without it use generate()"
                )
            raise ValueError("Translator: vocabularies must be given for tokens and text; without them use generate()")
        return self._pair[number]

    def text(self, tokens: list[str]) -> str:
        """A hypothesis as text, without the tokens that are none."""
        config = self._config
        ids = {config.bos_token_id, config.pad_token_id, config.eos_token_id, config.forced_bos_token_id} - {None}
        specials = self.target.tokens_of(ids)
        return self.target.decode([token for token in tokens if token not in specials])

    @cached_property
    def map(self) -> VocabularyMap:
        """By ``vmap.txt`` of the model's directory; a FileNotFoundError without it."""
        if self._model is None:
            raise ValueError("Translator: model must be a directory with vmap.txt for use_vmap, got a JanusModel")
        return directory.read_vocabulary_map(self._directory, self.source, self.target)

    @property
    def has_map(self) -> bool:
        return self._model is not None and (self._directory / directory.MAP).exists()

    @property
    def _directory(self) -> Path:
        return models.locate(self._model)

    def candidates(
        self, source: list[list[int]], prefixes: list[list[int]] | None, ends: Iterable[int]
    ) -> list[np.ndarray]:
        """What each source can become by the map: ids in ascending order, int64. Among them are ``unk``, ``bos``, the
        ``ends`` of outputs, and the source's prefix."""
        always = {self._config.unk_token_id, self._config.bos_token_id, *ends}
        more = [always.union(prefix) for prefix in prefixes or [()] * len(source)]
        return [self.map.candidates(*own) for own in zip(source, more, strict=True)]
