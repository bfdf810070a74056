"""The whole way from package names to a corpus folder."""

import os
import struct
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from janus_fast.data import test_set, test_set_pairs
from janus_fast.inputs import among, choice

from .clean import clean_text, has_placeholder, is_sentence_like, refusal, sentence_pairs
from .packages import PackageStore
from .readers import READERS
from .sources import PAIRS, SOURCES, Source
from .split import (
    Pair,
    check_no_leak,
    deduplicated,
    normalized,
    out_of_domain,
    split_pairs,
    tiers_of,
    without_sentences,
)
from .write import replacing_contents, statistics, writable_folder, write_report, write_split


def default_cache() -> Path:
    """Where packages are kept when no cache is named."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "janus-fast" / "packages"


def prepare(
    out: str | os.PathLike,
    pair: str = "en-de",
    cache: str | os.PathLike | None = None,
    permissive_only: bool = False,
    *,
    only: Iterable[str] | None = None,
    max_words: int = 60,
    small_max_words: int = 20,
    small_max_pairs: int = 60_000,
    validation_pairs: int = 1_000,
    test_pairs: int = 1_000,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Builds English-German, English-French or English-Spanish sentence pairs from Debian packages.

    Writes ``out/TIER/{train,valid,test}.{en,LANGUAGE,meta.tsv}`` for the tiers ``full`` (everything), ``small``
    (sentences of 4 to ``small_max_words`` words) and ``permissive`` (training text that may be redistributed too),
    ``out/ood_SOURCE/test.*`` for each source held out as another domain, and ``out/corpus.json``, which names every
    package file with its checksum and counts what was kept and refused. Held-out pairs come from permissive sources
    only and have no near-duplicate in any training set; sentences of the test set that ships with the package
    (``janus_fast.data``) are never trained on. The same packages give the same files.

    Args:
        out: a folder; made if need be. Splits of an earlier run are replaced when this one has everything.
        pair: "en-de", "en-fr" or "en-es".
        cache: where packages are kept between runs, 450 MB (30 MB if ``permissive_only``); default
            ``~/.cache/janus-fast/packages``.
        permissive_only: only sources whose text may be redistributed with notices (MPL-2.0, PostgreSQL, Apache-2.0).
        only: names of sources; default all.
        max_words: longest sentence on either side, in words.
        small_max_words, small_max_pairs: longest sentence and largest training set of tier ``small``.
        validation_pairs, test_pairs: size of the held-out sets of tier ``small``; the other tiers have twice as many.
        progress: called with one line of text for each thing worth telling.
    Returns:
        The content of ``corpus.json``.
    Raises:
        ValueError: an argument breaks its rule, or ``out`` or ``cache`` cannot be written to.
        OSError: apt, the network or a package is missing or broken, or nothing was found.
    """
    started = time.monotonic()
    tell = progress or (lambda line: None)
    sources = _chosen_sources(pair, permissive_only, only)
    check_counts(
        max_words=max_words,
        small_max_words=small_max_words,
        small_max_pairs=small_max_pairs,
        validation_pairs=validation_pairs,
        test_pairs=test_pairs,
    )
    language = pair.split("-")[1]
    out = writable_folder("out", out)
    packages = PackageStore(writable_folder("cache", cache or default_cache()), language, tell)
    packages.update()

    collected: list[Pair] = []
    source_reports = []
    for source in sources:
        pairs, report = collect(source, packages, language, max_words)
        collected += pairs
        source_reports.append(report)
        tell(f"{source.name}: {report['segments']:,} segments, {report['kept']:,} pairs")
    if not collected:
        raise OSError(
            f"corpus: the packages must hold translated text, got none from {', '.join(s.name for s in sources)}"
            + (f" (not in this release: {', '.join(packages.missing)})" if packages.missing else "")
        )

    unique = deduplicated(collected)
    pool = [pair for pair in unique if not pair.held_out]
    splits = split_pairs(pool, 2 * validation_pairs, 2 * test_pairs)
    committed = committed_sentences(pair)
    splits.update({name: without_sentences(splits[name], committed) for name in ("train", "valid")})
    check_no_leak(splits)
    tiers = tiers_of(splits, small_max_words, small_max_pairs, validation_pairs, test_pairs)
    foreign = out_of_domain([pair for pair in unique if pair.held_out], splits["train"], test_pairs)
    result = {
        "pair": pair,
        "release": packages.release,
        "sources": source_reports,
        "missing": packages.missing,
        "tiers": {tier: {name: statistics(pairs) for name, pairs in sets.items()} for tier, sets in tiers.items()},
        "ood": {name: statistics(pairs) for name, pairs in foreign.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    with replacing_contents(out) as folder:
        for tier, sets in tiers.items():
            for name, pairs in sets.items():
                write_split(folder / tier, name, pairs, language)
        for name, pairs in foreign.items():
            write_split(folder / f"ood_{name}", "test", pairs, language)
        write_report(folder, result)
    for tier, sets in result["tiers"].items():
        tell(f"{tier}: " + ", ".join(f"{name} {counts['pairs']:,}" for name, counts in sets.items()))
    for name, counts in result["ood"].items():
        tell(f"ood_{name}: test {counts['pairs']:,}")
    return result


def collect(source: Source, packages: PackageStore, language: str, max_words: int) -> tuple[list[Pair], dict]:
    """Clean sentence pairs of one source, and the report about them: counts, reasons of refusal, files."""
    try:
        segments = list(READERS[source.format](source, packages, language))
    except (OSError, EOFError, tarfile.TarError, struct.error) as error:
        raise OSError(f"corpus: the packages of {source.name} must be readable, got {error!r}") from error
    pairs: list[Pair] = []
    refused: Counter[str] = Counter()
    for segment, translated_segment in segments:
        if has_placeholder(segment) or has_placeholder(translated_segment):
            refused["placeholder"] += 1
            continue
        cleaned = clean_text(segment, source.format), clean_text(translated_segment, source.format)
        for text, translation in sentence_pairs(*cleaned):
            reason = refusal(text, translation, language, max_words)
            if reason:
                refused[reason] += 1
                continue
            pairs.append(
                Pair(
                    text,
                    translation,
                    source=source.name,
                    license=source.license,
                    permissive=source.permissive,
                    held_out=source.held_out,
                    sentence_like=is_sentence_like(text, translation),
                )
            )
    report = {
        "name": source.name,
        "kind": source.format,
        "license": source.license,
        "permissive": source.permissive,
        "segments": len(segments),
        "kept": len(pairs),
        "dropped": dict(refused.most_common()),
        "files": packages.files_of(source, language),
    }
    return pairs, report


def _chosen_sources(pair: str, permissive_only: bool, only: Iterable[str] | None) -> list[Source]:
    choice("corpus: pair", pair, PAIRS)
    sources = [source for source in SOURCES if source.permissive or not permissive_only]
    if only is None:
        return sources
    known = [source.name for source in sources]
    chosen = list(only)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        rule, got = among(unknown[0], known, rule="name sources among")
        raise ValueError(f"corpus: only must {rule}, got {got}")
    return [source for source in sources if source.name in chosen]


def committed_sentences(pair: str) -> set[str]:
    """Both sides, normalised, of the test set that ships with the package; newer packages may split differently."""
    if pair not in test_set_pairs():
        return set()
    return {normalized(sentence) for side in test_set(pair) for sentence in side}


def check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"corpus: {name} must be at least 1, got {value}")
