"""The corpus builder, offline: splitting, building, writing, fetching, mistakes; and the committed test set."""

import argparse
import gzip
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import janus_fast_corpus as corpus
from janus_fast import data
from janus_fast.data import test_set as committed_test_set
from janus_fast_corpus import build, clean, packages, split, write
from janus_fast_corpus.sources import Source

DATA = Path(data.__file__).parent / "en-de"

# ---------------------------------------------------------------- splitting


def made_pairs(families=60, seed=0):
    """Families of sentences: a first one, and what is made of it by steps that near-duplicates may differ by."""
    numbers = random.Random(seed)

    def made_words(count):
        return ["".join(numbers.choices("abcdefghij", k=5)) for _ in range(count)]

    pairs = []
    for family in range(families):
        words, translation = made_words(numbers.randint(4, 9)), made_words(7)
        for _ in range(numbers.choice([1, 1, 2, 3, 8])):
            permissive = numbers.random() < 0.9
            text = " ".join(words).capitalize() + numbers.choice([".", "!", " 7.", " 12."])
            pairs.append(
                split.Pair(text, " ".join(translation) + ".", f"family-{family}", "MPL-2.0", permissive=permissive)
            )
            if numbers.random() < 0.5:
                words = made_words(len(words))  # the translation stays
            else:
                translation = made_words(7)
                words = [*words]
                words[numbers.randrange(len(words))] = made_words(1)[0]
    numbers.shuffle(pairs)
    return pairs


def near_duplicates(first, second):
    """The definition, pair by pair: the oracle of the grouping."""
    a, b = split.normalized(first.text).split(), split.normalized(second.text).split()
    if a == b or split.normalized(first.translation) == split.normalized(second.translation):
        return True
    return len(a) == len(b) >= 5 and sum(x != y for x, y in zip(a, b, strict=True)) <= 1


def test_groups_are_the_closure_of_near_duplication():
    pairs = made_pairs()
    group_of = {index: g for g, group in enumerate(split.near_duplicate_groups(pairs)) for index in group}
    assert sorted(group_of) == list(range(len(pairs)))
    components = []
    unseen = set(range(len(pairs)))
    while unseen:
        frontier = [unseen.pop()]
        reached = set(frontier)
        while frontier:
            index = frontier.pop()
            near = {other for other in unseen if near_duplicates(pairs[index], pairs[other])}
            unseen -= near
            reached |= near
            frontier += near
        components.append(reached)
    assert 1 < len(components) < len(pairs)
    assert {frozenset(c) for c in components} == {
        frozenset(i for i in group_of if group_of[i] == g) for g in set(group_of.values())
    }


def test_split_has_no_leak():
    pairs = split.deduplicated(made_pairs())
    splits = split.split_pairs(pairs, validation_pairs=10, test_pairs=15)
    assert len(splits["test"]) == 15 and len(splits["valid"]) == 10
    held_out = splits["test"] + splits["valid"]
    for pair in held_out:
        related = [other for other in pairs if near_duplicates(pair, other)]
        assert 1 <= len(related) <= split.LARGEST_HELD_OUT_GROUP
        assert all(other.may_be_held_out for other in related)
        assert not any(near_duplicates(pair, other) for other in splits["train"])
        assert sum(near_duplicates(pair, other) for other in held_out) == 1  # itself
    split.check_no_leak(splits)
    with pytest.raises(AssertionError, match="held-out sentences are in the training set"):
        split.check_no_leak({**splits, "train": splits["train"] + splits["test"][:1]})


def test_split_does_not_depend_on_the_order_of_input():
    pairs = made_pairs()
    first = split.split_pairs(split.deduplicated(pairs), 10, 15)
    second = split.split_pairs(split.deduplicated(pairs[::-1]), 10, 15)
    for name in first:
        assert [pair.text for pair in first[name]] == [pair.text for pair in second[name]]


def test_most_frequent_translation_wins():
    pairs = [split.Pair("Open it.", translation, "s", "l") for translation in ("A.", "B.", "B.", "C.")]
    assert [pair.translation for pair in split.deduplicated(pairs)] == ["B."]


def test_stable_hash_is_stable():
    assert split.stable_hash("order:Open it.") == 0x1B4E878C73A26666


# ---------------------------------------------------------------- building and writing


class NoPackages:
    """Stands in for the package store where readers do not ask it for anything."""

    release, missing = "made-up", []

    def __init__(self, folder, language, progress):
        pass

    def update(self):
        pass

    def files_of(self, source, language):
        return {}


def made_segments(source, store, language):
    for number in range(160):
        letters = random.Random(f"{source.name} {number}")
        first, second = ("".join(letters.choices("abcdefghij", k=6)) for _ in range(2))
        yield (
            f"The {first} is open and {second} was closed.",
            f"Ein offenes {second.title()} und {first.title()} ohne Ende.",
        )


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(build, "PackageStore", NoPackages)
    monkeypatch.setattr(build, "READERS", dict.fromkeys(build.READERS, made_segments))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "corpus.json"
    }


def test_prepare_writes_aligned_files_and_is_deterministic(offline, tmp_path):
    options = dict(only=["subversion", "git", "gnome-user-docs"], validation_pairs=3, test_pairs=4)
    lines = []
    report = corpus.prepare(tmp_path / "a", cache=tmp_path / "cache", progress=lines.append, **options)
    corpus.prepare(tmp_path / "b", cache=tmp_path / "cache", **options)
    files = contents(tmp_path / "a")
    assert files == contents(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "corpus.json").read_text()) == report
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".")]
    assert any("subversion" in line for line in lines)
    names = {f"{tier}/{name}" for tier in ("full", "small", "permissive") for name in ("train", "valid", "test")}
    names.add("ood_gnome-user-docs/test")
    assert set(files) == {f"{name}.{ending}" for name in names for ending in ("en", "de", "meta.tsv")}
    for name in names:
        counts = {files[f"{name}.{ending}"].count(b"\n") for ending in ("en", "de", "meta.tsv")}
        tier, part = name.split("/")
        expected = report["ood"]["gnome-user-docs"] if tier.startswith("ood") else report["tiers"][tier][part]
        assert counts == {expected["pairs"]}
    assert files["small/test.en"].count(b"\n") == 4 and files["full/test.en"].count(b"\n") == 8
    assert {line.split(b"\t")[1] for line in files["permissive/train.meta.tsv"].splitlines()} == {b"Apache-2.0"}
    assert b"GPL" in files["full/train.meta.tsv"] and b"GPL" not in files["full/test.meta.tsv"]


def test_committed_sentences_are_never_trained_on(offline, tmp_path, monkeypatch):
    texts, references = committed_test_set()

    def segments(source, store, language):
        yield from made_segments(source, store, language)
        yield from zip(texts[:50], references[:50], strict=True)

    monkeypatch.setattr(build, "READERS", dict.fromkeys(build.READERS, segments))
    corpus.prepare(tmp_path / "out", cache=tmp_path, only=["git"])  # nothing of git may be held out
    trained = (tmp_path / "out/full/train.en").read_text(encoding="utf8").splitlines()
    assert trained and not set(trained) & set(texts)


def test_a_failed_run_leaves_the_old_corpus(offline, tmp_path, monkeypatch):
    out = tmp_path / "out"
    corpus.prepare(out, cache=tmp_path, only=["subversion"])
    before, report = contents(out), (out / "corpus.json").read_text()
    calls = []

    def write_until_the_disk_is_full(folder, name, pairs, language):
        calls.append(name)
        if len(calls) == 5:
            (folder / f"{name}.en").write_text("half a spl")
            raise OSError(28, "No space left on device")
        write.write_split(folder, name, pairs, language)

    monkeypatch.setattr(build, "write_split", write_until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        corpus.prepare(out, cache=tmp_path, only=["subversion", "git"])
    assert contents(out) == before and (out / "corpus.json").read_text() == report
    assert sorted(path.name for path in out.iterdir()) == ["corpus.json", "full", "permissive", "small"]


def test_a_killed_run_leaves_no_half_written_split(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from janus_fast_corpus import write
with write.replacing_contents(Path(sys.argv[1])) as folder:
    write.write_split(folder / "full", "train", [], "de")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment())
    assert result.returncode == -signal.SIGKILL
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".partial-"]
    with write.replacing_contents(tmp_path) as folder:
        write.write_split(folder / "full", "train", [], "de")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def environment():
    roots = [str(Path(package.__file__).parents[1]) for package in (data, corpus)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])}


def test_import_is_light():
    code = "import sys, janus_fast_corpus, janus_fast.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


# ---------------------------------------------------------------- packages, with stand-ins for apt-get and dpkg-deb


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Write a stand-in for apt-get (given: its answers to update and download) and one for dpkg-deb, which is cat."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(packages, "_release_of_this_system", lambda: "bookworm")

    def write_tool(name, script):
        (folder / name).write_text("#!/bin/sh\n" + script)
        (folder / name).chmod(stat.S_IRWXU)

    def write_tools(update="exit 0", download="exit 0", repositories="http://mirror|bookworm|main"):
        write_tool("dpkg-deb", 'cat "$2"\n')
        write_tool(
            "apt-get",
            f"""case "$*" in
*indextargets*) echo "{repositories}" ;;
*update*) {update} ;;
*download*) {download} ;;
*source*) exit 100 ;;
esac
""",
        )
        return packages.PackageStore(tmp_path / "cache", "de", lambda line: None)

    return write_tools


def test_package_is_fetched_once_and_read(tools, tmp_path):
    archive = tmp_path / "made.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("./usr/share/a.txt", "./usr/share/b.gz"):
            content = gzip.compress(b"x") if name.endswith("gz") else b"hello"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    store = tools(download=f"echo x >> {tmp_path}/count; cp {archive} hello_1.deb")
    for _ in range(2):
        path = store.binary_package("hello")
        assert path.name == "hello_1.deb"
    assert (tmp_path / "count").read_text() == "x\n"
    members = dict(packages.package_members(path, lambda name: name.endswith(".txt")))
    assert members == {"./usr/share/a.txt": b"hello"}
    files = store.files_of(Source("s", "mo", "l", ("hello",)), "de")
    assert files["hello_1.deb"]["bytes"] == archive.stat().st_size


def test_missing_package_is_noted(tools):
    store = tools(download='echo "E: Unable to locate package $2" >&2; exit 100')
    assert store.binary_package("nothing") is None
    assert store.source_tarballs("nothing") == []
    assert store.missing == ["nothing", "nothing (source)"]


def test_interrupted_download_is_an_error_and_leaves_nothing(tools, tmp_path):
    store = tools(download='echo half > hello_1.deb; echo "E: Failed to fetch x  Connection refused" >&2; exit 100')
    with pytest.raises(OSError, match="package hello must be reachable, got: E: Failed to fetch x"):
        store.binary_package("hello")
    assert not list((tmp_path / "cache").rglob("*.deb"))


def test_no_network(tools, tmp_path):
    store = tools(update='echo "E: Failed to fetch y" >&2; exit 100')
    with pytest.raises(OSError, match="package lists must be reachable, got: E: Failed to fetch y"):
        store.update()
    (tmp_path / "cache/lists/mirror_main_Packages").write_text("")  # lists of an earlier run
    lines = []
    store.progress = lines.append
    store.update()
    assert "not refreshed" in lines[0]


def test_no_debian(tools, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="must name a Debian 'main' repository of bookworm"):
        tools(repositories="http://mirror|jammy|universe")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(OSError, match="apt-get must be installed"):
        corpus.prepare(tmp_path / "out", cache=tmp_path / "cache")


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(pair="en-xx"),
            "corpus: pair must be one of 'en-de', 'en-fr', 'en-es', got 'en-xx'",
        ),
        (dict(only=["nosuch"]), "corpus: only must name sources among .*, got 'nosuch'"),
        (dict(only=["git"], permissive_only=True), "corpus: only must name sources among .*, got 'git'"),
        (dict(test_pairs=0), "corpus: test_pairs must be at least 1, got 0"),
    ],
)
def test_wrong_argument(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        corpus.prepare(tmp_path, **arguments)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="corpus: out must be a folder that can be written to, got '.*file/out'"):
        corpus.prepare(tmp_path / "file" / "out")
    with pytest.raises(ValueError, match="corpus: cache must be a folder that can be written to"):
        corpus.prepare(tmp_path / "out", cache=tmp_path / "file")


def test_nothing_found(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "READERS", dict.fromkeys(build.READERS, lambda *arguments: []))
    with pytest.raises(OSError, match="must hold translated text, got none from git"):
        corpus.prepare(tmp_path / "out", cache=tmp_path, only=["git"])


def test_broken_package(offline, tmp_path, monkeypatch):
    def broken(*arguments):
        raise tarfile.ReadError("unexpected end of data")

    monkeypatch.setattr(build, "READERS", dict.fromkeys(build.READERS, broken))
    with pytest.raises(OSError, match="the packages of git must be readable.*unexpected end of data"):
        corpus.prepare(tmp_path / "out", cache=tmp_path, only=["git"])


def test_command_line(offline, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    corpus.add_arguments(parser)
    words = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path), "--only", "git,subversion"]
    assert corpus.run(parser.parse_args(words)) == 0
    assert "subversion: 160 segments" in capsys.readouterr().err
    assert (tmp_path / "out/small/train.de").exists()
    with pytest.raises(ValueError, match="corpus: only must name"):
        corpus.run(parser.parse_args([*words[:4], "--only", "nosuch"]))


# ---------------------------------------------------------------- the committed test set


def test_committed_set_is_aligned_and_clean():
    sources, references = committed_test_set("en-de")
    assert len(sources) == len(references) == 1000
    for text, translation in zip(sources, references, strict=True):
        assert clean.refusal(text, translation, "de", 40) == ""
        assert clean.is_sentence_like(text, translation)
    assert len({split.normalized(text) for text in sources}) == 1000


def test_committed_set_is_labelled():
    labels = (DATA / "test.meta.tsv").read_text(encoding="utf8").splitlines()
    assert len(labels) == 1000
    notice = (DATA / "LICENSES.md").read_text(encoding="utf8")
    for label in set(labels):
        source, license = label.split("\t")
        assert (
            license == {"libreoffice-help": "MPL-2.0", "libreoffice-ui": "MPL-2.0", "postgresql": "PostgreSQL"}[source]
        )
        assert f"| `{source}` | {labels.count(label)} | {license} (`{license}.txt`) |" in notice
    assert "Mozilla Public License Version 2.0" in (DATA / "MPL-2.0.txt").read_text()
    assert "Regents of the University of California" in (DATA / "PostgreSQL.txt").read_text()


def test_unknown_test_set():
    with pytest.raises(ValueError, match="test_set: pair must be one of 'en-de', got 'de-en'"):
        committed_test_set("de-en")
