"""Debian package descriptions and their translations, joined by the checksum of the English description."""

import re
from collections.abc import Iterator

from ..packages import PackageStore
from ..sources import Source


def read(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Summary and paragraphs of every description that is translated."""
    yield from align_descriptions(packages.descriptions("en"), packages.descriptions(language), language)


def align_descriptions(english_list: str, translated_list: str, language: str) -> Iterator[tuple[str, str]]:
    """Pairs the paragraphs of two description lists; descriptions with another number of them are left out."""
    english = _descriptions(english_list, "Description-en")
    translated = _descriptions(translated_list, f"Description-{language}")
    for checksum in sorted(english.keys() & translated.keys()):
        texts, translations = _paragraphs(english[checksum]), _paragraphs(translated[checksum])
        if len(texts) == len(translations):
            for text, translation in zip(texts, translations, strict=True):
                if text and translation:
                    yield text, translation


def described(english_list: str) -> Iterator[tuple[str, list[str], str]]:
    """(package, paragraphs of running text, synopsis) of each description in a list."""
    for stanza in english_list.split("\n\n"):
        package = re.search(r"^Package: (\S+)$", stanza, re.M)
        for lines in _descriptions(stanza, "Description-en").values():
            synopsis, *paragraphs = _paragraphs(lines)
            if package:
                yield package.group(1), [text for text in paragraphs if text], synopsis


def _descriptions(text: str, field: str) -> dict[str, list[str]]:
    """``{checksum: lines}``."""
    descriptions = {}
    for stanza in text.split("\n\n"):
        checksum = re.search(r"^Description-md5: (\w+)$", stanza, re.M)
        description = re.search(rf"^{field}: (.*(?:\n[ ].*)*)", stanza, re.M)
        if checksum and description:
            descriptions[checksum.group(1)] = description.group(1).split("\n")
    return descriptions


def _paragraphs(lines: list[str]) -> list[str | None]:
    """The summary, then each paragraph joined to one line; None stands for a verbatim line or an item of a list."""
    paragraphs: list[str | None] = [lines[0]]
    running: list[str] = []
    for line in [*lines[1:], " ."]:
        blank = line.strip() == "."
        if blank or line.startswith("  ") or re.match(r" [*+-] ", line):
            if running:
                paragraphs.append(" ".join(running))
            running = []
            if not blank:
                paragraphs.append(None)
        else:
            running.append(line.strip())
    return paragraphs
