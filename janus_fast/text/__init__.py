"""Vocabularies, batches by token count, parallel text."""

from .vocabulary import Vocabulary
from .vocabulary_map import VocabularyMap

__all__ = ["Vocabulary", "VocabularyMap"]
