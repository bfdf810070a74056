"""Vocabularies, batches by token count, parallel text."""

from .vocabulary import Vocabulary

__all__ = ["Vocabulary"]


def __getattr__(name):
    if name != "corpus":
        raise AttributeError(f"module 'janus_fast.text' has no attribute {name!r}")
    from importlib import import_module

    return import_module(".corpus", __name__)
