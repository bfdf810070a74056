"""HTML manuals: aligned section by section where both languages have the same sequence of block elements."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from ..packages import PackageStore, package_members
from ..sources import LOCALES, Source

BLOCKS = {
    *("p", "li", "h1", "h2", "h3", "h4", "h5", "h6", "dt", "dd", "td", "th", "div", "ul", "ol", "dl", "table", "tr"),
    *("body", "blockquote", "section", "title", "br", "hr", "caption", "center"),
}
EMPTY_BLOCKS = {"br", "hr"}
SKIPPED = {"pre", "script", "style", "head", "nav", "footer"}


def read(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Blocks of text of the pages that both languages have."""
    patterns = [re.compile(page.format(language=language, locale=LOCALES[language])) for page in source.pages]
    english: dict[str, bytes] = {}
    translated: dict[str, bytes] = {}
    for package in source.packages:
        path = packages.binary_package(package.format(language=language))
        if not path:
            continue
        for name, content in package_members(path, lambda name: any(pattern.search(name) for pattern in patterns)):
            in_english = patterns[0].search(name)
            if in_english:
                english[in_english.group(1)] = content
            else:
                translated[patterns[1].search(name).group(1)] = content
    for page in sorted(english.keys() & translated.keys()):
        yield from align_pages(english[page], translated[page])


def align_pages(english: bytes, translated: bytes) -> Iterator[tuple[str, str]]:
    """Pairs the blocks of two pages, leaving out sections whose elements differ."""
    english_sections, translated_sections = _sections(english), _sections(translated)
    if len(english_sections) != len(translated_sections):
        return
    for section, other in zip(english_sections, translated_sections, strict=True):
        if [tag for tag, _ in section] == [tag for tag, _ in other]:
            for (_, text), (_, translation) in zip(section, other, strict=True):
                yield text, translation


def _sections(content: bytes) -> list[list[tuple[str, str]]]:
    declared = re.search(rb"(?:charset|encoding)=[\"']?([\w-]+)", content[:2000])
    collector = _BlockCollector()
    collector.feed(content.decode(declared.group(1).decode() if declared else "utf8", "replace"))
    collector.finish_block()
    sections: list[list[tuple[str, str]]] = [[]]
    for tag, text in collector.blocks:
        if re.match(r"h\d$", tag):
            sections.append([])
        sections[-1].append((tag, text))
    return sections


class _BlockCollector(HTMLParser):
    """Collects (block element, text) in the order of the document; every block element begins or ends a text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[str, str]] = []
        self.open_blocks = ["body"]
        self.pieces: list[str] = []
        self.skipped_depth = 0

    def finish_block(self) -> None:
        text = re.sub(r"\s+", " ", "".join(self.pieces)).strip()
        if text:
            self.blocks.append((self.open_blocks[-1], text))
        self.pieces = []

    def handle_starttag(self, tag, attrs):
        if tag in SKIPPED:
            self.skipped_depth += 1
        elif tag in BLOCKS:
            self.finish_block()
            if tag not in EMPTY_BLOCKS:
                self.open_blocks.append(tag)

    def handle_endtag(self, tag):
        if tag in SKIPPED:
            self.skipped_depth = max(0, self.skipped_depth - 1)
        elif tag in BLOCKS:
            self.finish_block()
            if tag in self.open_blocks[1:]:
                while self.open_blocks.pop() != tag:
                    pass

    def handle_data(self, data):
        if not self.skipped_depth:
            self.pieces.append(data)
