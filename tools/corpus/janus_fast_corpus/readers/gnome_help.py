"""GNOME user help: Mallard or DocBook pages, aligned where both languages have the same structure of elements."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from ..packages import PackageStore, package_members
from ..sources import Source

TEXT_BLOCKS = {"p", "title", "para", "simpara", "desc", "item", "td", "term", "subtitle"}
NOT_TRANSLATED_ALIKE = {"info", "credit", "legalese", "articleinfo", "bookinfo"}  # they name the translators


def read(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Blocks of text of the pages that both languages have."""
    folders = ("/help/C/", f"/help/{language}/")
    for package in source.packages:
        path = packages.binary_package(package)
        if not path:
            continue
        english, translated = {}, {}
        for name, content in package_members(
            path, lambda name: name.endswith((".page", ".docbook")) and any(folder in name for folder in folders)
        ):
            page = name.split("/help/", 1)[1].split("/", 1)[1]
            (english if folders[0] in name else translated)[page] = content
        for page in sorted(english.keys() & translated.keys()):
            yield from align_pages(english[page], translated[page])


def align_pages(english: bytes, translated: bytes) -> Iterator[tuple[str, str]]:
    """Pairs the text blocks of two XML pages; nothing where their elements differ or one cannot be parsed."""
    first, second = _structure(english), _structure(translated)
    if first and second and first[0] == second[0] and len(first[1]) == len(second[1]):
        yield from zip(first[1], second[1], strict=True)


def _structure(content: bytes) -> tuple[list[str], list[str]] | None:
    """(names of the elements in order, texts of the innermost blocks)."""
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return None
    names: list[str] = []
    texts: list[str] = []

    def walk(element: ElementTree.Element) -> None:
        name = _local_name(element)
        if name in NOT_TRANSLATED_ALIKE:
            return
        names.append(name)
        if name in TEXT_BLOCKS and not any(_local_name(e) in TEXT_BLOCKS for e in element.iter() if e is not element):
            texts.append("".join(element.itertext()))
            return
        for child in element:
            walk(child)

    walk(root)
    return names, texts


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""
