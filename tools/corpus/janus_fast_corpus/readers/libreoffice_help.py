"""LibreOffice help: HTML pages whose paragraphs carry the same id in every language."""

import html
import re
from collections.abc import Iterator

from ..packages import PackageStore, package_members
from ..sources import Source

PARAGRAPH = re.compile(r'<(p|h\d)\s+id="((?:par|hd)_[^"]+)"[^>]*>(.*?)</\1>', re.S)
# What is shown instead on one platform or in one application; the default variant has an id of its own.
HIDDEN_VARIANT = re.compile(
    r'<span hidden="true" id="(?!default)[^"]*"[^>]*>(?:[^<]|<span[^>]*>[^<]*</span>|<a[^>]*>[^<]*</a>)*</span>'
)


def read(source: Source, packages: PackageStore, language: str) -> Iterator[tuple[str, str]]:
    """Paragraphs that both languages have, page by page, in the order of the English page."""
    english_package, translated_package = (name.format(language=language) for name in source.packages)
    english, translated = _pages(packages, english_package), _pages(packages, translated_package)
    for page in sorted(english.keys() & translated.keys()):
        for identity, text in english[page].items():
            if identity in translated[page]:
                yield text, translated[page][identity]


def _pages(packages: PackageStore, package: str) -> dict[str, dict[str, str]]:
    path = packages.binary_package(package)
    if not path:
        return {}
    members = package_members(path, lambda name: name.endswith(".html") and "/text/" in name)
    return {name.split("/text/", 1)[1]: parse_page(content.decode("utf8", "replace")) for name, content in members}


def parse_page(page: str) -> dict[str, str]:
    """``{paragraph id: text}`` of a help page; tables of code, broken lines and pure variants are left out."""
    paragraphs: dict[str, str] = {}
    for found in PARAGRAPH.finditer(page):
        _, identity, body = found.groups()
        if 'class="switchinline"' in body:
            body = HIDDEN_VARIANT.sub("", body)
            if 'hidden="true"' in body and 'id="default' not in body:
                continue
        if "<br" in body or ('class="literal"' in body and body.count("<") < 4):
            continue
        paragraphs.setdefault(identity, html.unescape(re.sub(r"<[^>]+>", "", body)))
    return paragraphs
