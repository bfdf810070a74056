"""Vocabularies, batches by token count, parallel text."""

from .vocabulary import Vocabulary

__all__ = ["Vocabulary"]
