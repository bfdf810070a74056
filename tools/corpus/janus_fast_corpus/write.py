"""Files of a corpus: written whole beside their place, then moved there; a killed run leaves no half-written split."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .split import Pair

REPORT = "corpus.json"


def writable_folder(argument: str, folder: str | os.PathLike) -> Path:
    """Makes a folder if need be, and finds out now, before any download, whether it can be written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        rule = f"corpus: {argument} must be a folder that can be written to"
        raise ValueError(f"{rule}, got {str(folder)!r} ({error.strerror})") from error


def write_split(folder: Path, name: str, pairs: list[Pair], language: str) -> None:
    """Writes ``NAME.en``, ``NAME.LANGUAGE`` and ``NAME.meta.tsv`` (source and licence), line by line the same pairs."""
    rows = [(pair.text, pair.translation, f"{pair.source}\t{pair.license}") for pair in pairs]
    write_columns(folder / name, ("en", language, "meta.tsv"), rows)


def write_columns(place: Path, endings: Sequence[str], rows: list[tuple[str, ...]]) -> None:
    """Writes ``PLACE.ENDING`` for each of ``endings``, the column of that number, a line a row."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for column, ending in enumerate(endings):
        with open(place.with_name(f"{place.name}.{ending}"), "w", encoding="utf8", newline="\n") as file:
            file.writelines(row[column] + "\n" for row in rows)


def write_report(folder: Path, report: dict) -> None:
    """Writes ``corpus.json``."""
    (folder / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf8")


def statistics(pairs: list[Pair]) -> dict:
    """Counts of a split, for the report."""
    words = sum(pair.words for pair in pairs)
    translated_words = sum(len(pair.translation.split()) for pair in pairs)
    return {
        "pairs": len(pairs),
        "words_en": words,
        "words_tgt": translated_words,
        "mean_words_en": round(words / max(1, len(pairs)), 2),
        "mean_words_tgt": round(translated_words / max(1, len(pairs)), 2),
        "by_source": dict(Counter(pair.source for pair in pairs).most_common()),
    }


@contextmanager
def replacing_contents(out: Path) -> Iterator[Path]:
    """Gives a folder to fill; when the block ends well, each entry replaces its namesake in ``out``, the report last.

    ``out`` has a report exactly while everything in it belongs together: the old report goes first, the new one comes
    last. If the block fails, ``out`` is as it was. What killed runs left behind (``.partial-*``) is removed.
    """
    for leftover in out.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
    try:
        yield staging
        replaced = Path(tempfile.mkdtemp(prefix=".replaced-", dir=staging))
        (out / REPORT).unlink(missing_ok=True)
        entries = [path for path in sorted(staging.iterdir()) if path != replaced]
        for entry in sorted(entries, key=lambda path: path.name == REPORT):
            if (out / entry.name).exists():
                (out / entry.name).rename(replaced / entry.name)
            entry.rename(out / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
