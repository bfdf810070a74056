"""Text of tasks beside translation: what sums another text up, and monolingual text."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from janus_fast.inputs import choice

from .build import check_counts, committed_sentences, default_cache
from .clean import running_text
from .packages import PackageStore
from .readers import debian_descriptions, man_pages
from .sources import DOCUMENTS, Source
from .split import groups_by_keys, normalized, stable_hash
from .write import replacing_contents, writable_folder, write_columns, write_report

TASKS = "summary", "monolingual"
TIERS = {"debian-descriptions": "descriptions", "man-pages": "manuals"}
SHORTEST_TEXT, SHORTEST_SUMMARY, LONGEST_SUMMARY = 10, 2, 20  # words
NOT_ABOUT_IT = re.compile(r"transitional|dummy|debug(ging)? symbols|meta-?package", re.IGNORECASE)
TELLING = 6  # words of a sentence by which documents belong together
HELD_OUT_SHARE = 10  # of a source at most one in so many documents is in each held-out set,
LARGEST_SHARE = 4  # and of these at most one in so many is of one group


@dataclass(frozen=True)
class Document:
    """A description or a manual page: clean sentences by paragraph, and what sums them up."""

    package: str  # the source package, or the binary one where it has the same name
    paragraphs: tuple[tuple[str, ...], ...]
    summary: str
    source: Source

    @property
    def label(self) -> str:
        return f"{self.source.name}\t{self.source.license}\t{self.package}"

    def sentences(self, max_words: int) -> list[str]:
        """The first ones, of as many words at most."""
        taken, words = [], 0
        for sentence in (sentence for paragraph in self.paragraphs for sentence in paragraph):
            words += len(sentence.split())
            if words > max_words:
                break
            taken.append(sentence)
        return taken

    def text(self, max_words: int) -> str:
        return " ".join(self.sentences(max_words))

    def refusal(self, max_words: int) -> str:
        """Why its text and summary are no pair, in a word; "" for a good one."""
        text = self.text(max_words)
        if len(text.split()) < SHORTEST_TEXT or not SHORTEST_SUMMARY <= len(self.summary.split()) <= LONGEST_SUMMARY:
            return "length"
        if NOT_ABOUT_IT.search(self.summary):
            return "not-about-it"
        return "same" if normalized(self.summary) in normalized(text) else ""


def prepare_task(
    out: str | os.PathLike,
    task: str,
    cache: str | os.PathLike | None = None,
    *,
    max_words: int = 80,
    validation_pairs: int = 1_000,
    test_pairs: int = 1_000,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Builds text of another task than translation from Debian packages, in English.

    ``summary`` writes ``out/TIER/{train,valid,test}.{text,summary,meta.tsv}``: for tier ``descriptions`` the long
    description of a package and its synopsis, for ``manuals`` the text of a manual page and what its section NAME says
    of it. ``monolingual`` writes ``out/{train,valid}.{en,meta.tsv}``, the sentences of the same documents. Both write
    ``out/corpus.json``.

    Which packages are held out is the same for both tasks: what is built from one source package, has the same summary
    or shares a sentence of six words among the first ``max_words`` words is on one side. No sentence of the test set
    that ships with the package is in monolingual text. The same packages give the same files.

    Args:
        out, cache, progress: as for ``prepare``; packages of 111 MB.
        task: "summary" or "monolingual".
        max_words: of a text, which ends behind a sentence, or of a sentence.
        validation_pairs, test_pairs: documents of each tier that are held out, at most a tenth of all.
    Returns:
        The content of ``corpus.json``.
    Raises:
        ValueError: an argument breaks its rule, or ``out`` or ``cache`` cannot be written to.
        OSError: apt, the network or a package is missing or broken, or nothing was found.
    """
    started, tell = time.monotonic(), progress or (lambda line: None)
    choice("corpus: task", task, TASKS)
    check_counts(max_words=max_words, validation_pairs=validation_pairs, test_pairs=test_pairs)
    out = writable_folder("out", out)
    packages = PackageStore(writable_folder("cache", cache or default_cache()), "en", tell)
    packages.update()
    documents, reports = [], []
    for source in DOCUMENTS:
        own = list(_documents(source, packages))
        documents += own
        reports.append({"name": source.name, "license": source.license, "documents": len(own)})
        reports[-1]["files"] = packages.files_of(source, "en")
        tell(f"{source.name}: {len(own):,} documents")
    if not documents:
        raise OSError("corpus: the packages must hold descriptions or manual pages, got none")
    splits = split_documents(documents, max_words, validation_pairs, test_pairs)
    endings, sets_of = {"summary": (("text", "summary"), _summaries), "monolingual": (("en",), _sentences)}[task]
    sets = sets_of(splits, max_words)
    result = {
        "task": task, "release": packages.release, "sources": reports, "missing": packages.missing,
        "sets": {name: len(rows) for name, rows in sets.items()}, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    with replacing_contents(out) as folder:
        for name, rows in sets.items():
            write_columns(folder / name, (*endings, "meta.tsv"), rows)
        write_report(folder, result)
    tell(", ".join(f"{name} {count:,}" for name, count in result["sets"].items()))
    return result


def _documents(source: Source, packages: PackageStore) -> Iterator[Document]:
    """Those of a source; of equal ones the first."""
    names, seen = packages.source_names(), set()
    for package, paragraphs, summary in _read(source, packages):
        clean = [tuple(running_text(text, source.format)) for text in paragraphs]
        summaries = running_text(summary, source.format)
        document = Document(names.get(package, package), tuple(filter(None, clean)), "".join(summaries[:1]), source)
        if document.paragraphs and (same := (document.paragraphs, document.summary)) not in seen:
            seen.add(same)
            yield document


def _read(source: Source, packages: PackageStore) -> Iterator[tuple[str, list[str], str]]:
    """(package, paragraphs, summary) of each description, or of each manual page."""
    if source.format == "ddtp":
        yield from debian_descriptions.described(packages.descriptions("en"))
    for package in source.packages:
        if path := packages.binary_package(package):
            for _, page in man_pages.pages(path, man_pages.ENGLISH_PAGE):
                if found := man_pages.described(page):
                    yield package, *found


def split_documents(
    documents: list[Document], max_words: int, validation_pairs: int, test_pairs: int
) -> dict[str, list[Document]]:
    """``{"train", "valid", "test"}``: groups of documents that belong together, whole, in the order of a hash, each
    held out where there is more room.

    Those with manual pages come first, since they are few and large, and fit only into sets that are empty.
    """

    def keys(document: Document) -> Iterator[str]:
        yield "package:" + document.package
        if document.summary:
            yield "summary:" + normalized(document.summary)
        for sentence in document.sentences(max_words):
            if len(sentence.split()) >= TELLING:
                yield "sentence:" + normalized(sentence)

    def counts(group: list[Document]) -> Counter:
        return Counter(document.source.name for document in group)

    def order(group: list[Document]) -> tuple:
        return "man-pages" not in counts(group), stable_hash("split:" + min(each.package for each in group))

    groups = [[documents[index] for index in group] for group in groups_by_keys(map(keys, documents))]
    splits: dict[str, list[Document]] = {"train": [], "valid": [], "test": []}
    most = {source: count // HELD_OUT_SHARE for source, count in counts(documents).items()}
    room = {
        name: {source: min(count, share) for source, share in most.items()}
        for name, count in (("test", test_pairs), ("valid", validation_pairs))
    }
    for group in sorted(groups, key=order):
        own = counts(group)
        small = all(own[source] <= max(1, most[source] // LARGEST_SHARE) for source in own)
        fits = [name for name, left in room.items() if small and all(left[source] >= own[source] for source in own)]
        name = max(fits, key=lambda name: sum(room[name][source] for source in own), default="train")
        splits[name] += group
        for source in own if name in room else ():
            room[name][source] -= own[source]
    key = "order:{0.package} {0.summary}".format
    return {name: sorted(own, key=lambda each: stable_hash(key(each))) for name, own in splits.items()}


def _summaries(splits: dict[str, list[Document]], max_words: int) -> dict[str, list[tuple]]:
    """By file name (text, summary, and source, licence and package) of the documents that make a good pair."""
    return {
        f"{tier}/{name}": [
            (each.text(max_words), each.summary, each.label)
            for each in documents
            if each.source.name == source and not each.refusal(max_words)
        ]
        for source, tier in TIERS.items()
        for name, documents in splits.items()
    }


def _sentences(splits: dict[str, list[Document]], max_words: int) -> dict[str, list[tuple]]:
    """By file name (sentence, and source, licence and package), each sentence once."""
    seen = committed_sentences("en-de")
    sets = {}
    for name in ("valid", "train"):
        rows = []
        for document in splits[name]:
            for sentence in (sentence for paragraph in document.paragraphs for sentence in paragraph):
                key = normalized(sentence)
                if key not in seen and 3 <= len(sentence.split()) <= max_words:
                    seen.add(key)
                    rows.append((sentence, document.label))
        sets[name] = rows
    return sets
