"""Manual pages in roff: aligned section by section where both languages have the same sequence of block macros."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from ..packages import PackageStore, package_members
from ..sources import Source

BLOCK_MACROS = {
    *("SH", "SS", "TP", "PP", "P", "LP", "IP", "RS", "RE", "nf", "fi", "EX", "EE", "TQ", "HP", "TS", "TE", "in", "sp"),
}
SPACING_MACROS = {"sp", "in"}  # translations may have more or fewer of them
VERBATIM_BEGINS, VERBATIM_ENDS = {"nf", "EX", "TS"}, {"fi", "EE", "TE"}
ONE_FONT_MACROS = {"B", "I", "SM", "SB"}
TWO_FONT_MACROS = {"BR", "IR", "RB", "RI", "BI", "IB"}
SPACING, TAG = "~", "TAG"
ABOUT_THE_PAGE = {"AUTHOR", "AUTHORS", "COPYRIGHT", "COLOPHON", "SEE ALSO", "REPORTING BUGS", "LICENSE"}
TAGGED = {"TP", "TQ"}  # macros whose next line is a tag, not running text
ENGLISH_PAGE = re.compile(r"/share/man/(man\d/[^/]+\.gz)$")

ESCAPES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\(aq|\\\[aq\]", "'"),
        (r"\\\(dq|\\\[dq\]", '"'),
        (r"\\\((?:lq|rq)|\\\[[lr]q\]|\\\(Bq", '"'),
        (r"\\\((?:oq|cq)|\\\[[oc]q\]", "'"),
        (r"\\\(em|\\\[em\]", "\u2014"),
        (r"\\\(en|\\\[en\]", "\u2013"),
        (r"\\\(bu|\\\[bu\]", ""),
        (r"\\-", "-"),
        (r"\\(?:f\[[^\]]*\]|f\([A-Z]{2}|f.)", ""),  # fonts
        (r"\\s[-+]?\d", ""),  # sizes
        (r"\\[&/,|^%:]", ""),  # spacing
        (r"\\ |\\~|\\0", " "),
        (r"\\\(ha|\\\[ha\]", "^"),
        (r"\\\(ti|\\\[ti\]", "~"),
        (r"\\e|\\\(rs|\\\[rs\]", "\\\\"),
        (r"\\c$", ""),
    )
]


def read(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Texts of the manual pages that both languages have; English from one package, its translation from another."""
    english: dict[str, str] = {}
    translated: dict[str, str] = {}
    for package in source.packages:
        path = packages.binary_package(package.format(language=language))
        if not path:
            continue
        is_translation = "{language}" in package
        page = re.compile(rf"/man/{language}/(man\d/[^/]+\.gz)$") if is_translation else ENGLISH_PAGE
        (translated if is_translation else english).update(pages(path, page))
    for page in sorted(english.keys() & translated.keys()):
        yield from align_pages(english[page], translated[page])


def pages(path: Path, name: re.Pattern) -> Iterator[tuple[str, str]]:
    """(group 1 of its ``name``, text) of the pages in a package."""
    for member, content in package_members(path, name.search):
        try:
            yield name.search(member).group(1), gzip.decompress(content).decode("utf8", "replace")
        except OSError:  # not compressed after all
            continue


def align_pages(english: str, translated: str) -> Iterator[tuple[str, str]]:
    """Pairs the texts of two pages, leaving out sections whose macros differ.

    A translation ends with a section about its translators; the sections before it keep their order.
    """
    for (macros, texts), (other_macros, translations) in zip(_sections(english), _sections(translated), strict=False):
        if macros == other_macros:
            for text, translation in zip(texts, translations, strict=True):
                if text and translation:
                    yield without_escapes(text), without_escapes(translation)


def described(page: str) -> tuple[list[str], str] | None:
    """(paragraphs of running text from DESCRIPTION on, what NAME says of the page); None for a page without these, such
    as one in mdoc."""
    _, *parts = re.split(r'^\.SH[ \t]+"?(.*?)"?[ \t]*$', page, flags=re.M)
    sections = list(zip(map(str.upper, parts[::2]), parts[1::2], strict=True))
    sections = [(name, body) for name, body in sections if name not in ABOUT_THE_PAGE]
    names = [name for name, _ in sections]
    if "NAME" not in names or "DESCRIPTION" not in names:
        return None
    paragraphs, about = (
        [without_escapes(text) for _, body in chosen for macro, text in _blocks(body) if text and macro not in TAGGED]
        for chosen in (sections[names.index("DESCRIPTION") :], [sections[names.index("NAME")]])
    )
    return paragraphs, " ".join(about).partition(" - ")[2]


def without_escapes(text: str) -> str:
    """Text without roff's escape sequences."""
    for pattern, replacement in ESCAPES:
        text = pattern.sub(replacement, text)
    return text


def _sections(page: str) -> list[tuple[list[str], list[str | None]]]:
    """(macros, texts) of each section; a spacing macro counts only where text follows it."""
    sections: list[tuple[list[str], list[str | None]]] = [([], [])]
    for macro, text in _blocks(page):
        if macro == "SH":
            sections.append(([], []))
        if macro != SPACING or text:
            sections[-1][0].append(macro)
            sections[-1][1].append(text)
    return sections


def _blocks(page: str) -> list[tuple[str, str | None]]:
    """(macro, running text after it) in order; the text is None within verbatim parts, the first macro is ""."""
    macros, texts = [""], []
    verbatim, tag_follows = False, False
    running: list[str] = []

    def finish_text() -> None:
        texts.append(None if verbatim else " ".join(running))
        running.clear()

    def add(text: str) -> None:
        nonlocal tag_follows
        running.append(text)
        if tag_follows and text.strip():  # the line after .TP is a tag, not running text
            tag_follows = False
            finish_text()
            macros.append(TAG)

    for line in page.split("\n"):
        if line.startswith((".\\", "'\\")):  # a comment
            continue
        request = re.match(r"[.'][ \t]*([A-Za-z]+)[ \t]*(.*)$", line)
        if not request:
            if line.strip():
                add(line)
            continue
        macro, argument = request.groups()
        if macro in SPACING_MACROS:
            finish_text()
            macros.append(SPACING)
        elif macro in BLOCK_MACROS:
            finish_text()
            macros.append({"LP": "PP", "P": "PP"}.get(macro, macro))
            tag_follows = macro in TAGGED
            if macro in VERBATIM_BEGINS:
                verbatim = True
            elif macro in VERBATIM_ENDS:
                verbatim = False
        elif macro in ONE_FONT_MACROS:
            add(argument.replace('"', ""))
        elif macro in TWO_FONT_MACROS:
            add("".join(quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', argument)))
    finish_text()
    return list(zip(macros, texts, strict=True))
