"""Gettext message catalogs: compiled (.mo) inside binary packages, as text (.po) inside source packages."""

import re
import struct
from collections import defaultdict
from collections.abc import Iterator

from ..packages import PackageStore, package_members, tarball_members
from ..sources import Source
from .man_pages import without_escapes

LITTLE_ENDIAN_MAGIC = 0x950412DE
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
POD_MARKUP = re.compile(r"\b[BIRCFSL]<([^<>]*)>")


def read_compiled(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Messages of every catalog of the language in the packages of a source."""
    catalog = re.compile(rf"/{language}(_{language.upper()})?/LC_MESSAGES/[^/]+\.mo$")
    for name in source.packages:
        path = packages.binary_package(name.format(language=language))
        if path:
            for _, content in package_members(path, catalog.search):
                yield from parse_mo(content)


def read_source(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Messages of every .po file of the language in the source packages, without their markup."""
    catalog = re.compile(rf"(?:^|[/_.-]){language}\.po$|/po/{language}/[^/]+\.po$")
    for name in source.source_packages:
        for path in packages.source_tarballs(name):
            for _, content in tarball_members(path, catalog.search):
                for english, translation in parse_po(content.decode("utf8", "replace")):
                    yield without_markup(english), without_markup(translation)


def parse_mo(content: bytes) -> Iterator[tuple[str, str]]:
    """Messages of a compiled catalog: the singular, and the plural where there are exactly two forms.

    Contexts are cut off; a message that its declared character set cannot decode is left out.
    """
    order = "<" if struct.unpack("<I", content[:4])[0] == LITTLE_ENDIAN_MAGIC else ">"
    _, _, count, english_table, translation_table = struct.unpack(order + "5I", content[:20])
    charset = "utf-8"

    def entry(table: int, index: int) -> bytes:
        length, start = struct.unpack_from(order + "2I", content, table + 8 * index)
        return content[start : start + length]

    for index in range(count):
        message, translation = entry(english_table, index), entry(translation_table, index)
        if not message:  # the header
            declared = re.search(rb"charset=([\w-]+)", translation)
            charset = declared.group(1).decode() if declared else charset
            continue
        try:
            english_forms = message.decode(charset).split("\x04", 1)[-1].split("\0")
            translated_forms = translation.decode(charset).split("\0")
        except (UnicodeDecodeError, LookupError):
            continue
        yield english_forms[0], translated_forms[0]
        if len(english_forms) == 2 and len(translated_forms) == 2:
            yield english_forms[1], translated_forms[1]


def parse_po(text: str) -> Iterator[tuple[str, str]]:
    """Translated messages of a .po file, fuzzy ones left out; of plurals the singular."""
    for block in re.split(r"\n\s*\n", text):
        if re.search(r"^#,.*fuzzy", block, re.M):
            continue
        field, fields = None, defaultdict(str)
        for line in block.split("\n"):
            start = re.match(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[\d\])?)\s+"(.*)"\s*$', line)
            if start:
                field = start.group(1)
                fields[field] = _unescape(start.group(2))
            elif line.startswith('"') and field:
                fields[field] += _unescape(line.strip()[1:-1])
        english = fields.get("msgid")
        translation = fields.get("msgstr") or fields.get("msgstr[0]")
        if english and translation:
            yield english, translation


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found.group(1), found.group(1)), text)


def without_markup(text: str) -> str:
    """Text of a documentation message without its POD and roff markup, to three levels of nesting."""
    text = re.sub(r"E<lt>", "\u2039", re.sub(r"E<gt>", "\u203a", text))
    text = re.sub(r"E<[^>]*>", "", text)
    for _ in range(3):
        text = POD_MARKUP.sub(r"\1", text)
    return without_escapes(text).replace("\u2039", "<").replace("\u203a", ">")
