"""Data that ships with the package: for each language pair a test set, with licences of its own (``LICENSES.md``)."""

from __future__ import annotations

from importlib.resources import files

from ..inputs import choice


def test_set_pairs() -> list[str]:
    """Names of the language pairs that have a test set."""
    folders = (folder for folder in files(__name__).iterdir() if folder.is_dir())
    return sorted(folder.name for folder in folders if folder.joinpath("test.meta.tsv").is_file())


def test_set(pair: str = "en-de") -> tuple[list[str], list[str]]:
    """Sentences and a reference translation of each, held out of all that the corpus builder writes for training.

    Args:
        pair: source and target language, one of ``test_set_pairs()``.
    Returns:
        (sources, references), equally long lists of text, one sentence each.
    Raises:
        ValueError: there is no test set of that name.
    """
    pairs = test_set_pairs()
    choice("test_set: pair", pair, pairs)
    folder = files(__name__).joinpath(pair)
    sources, references = (
        folder.joinpath(f"test.{language}").read_text(encoding="utf8").removesuffix("\n").split("\n")
        for language in pair.split("-")
    )
    return sources, references


# The names begin with "test_", but neither function is a test.
test_set.__test__ = False
test_set_pairs.__test__ = False
