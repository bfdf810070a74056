"""Summaries and monolingual text: what is a document, and that none of it is on two sides."""

import argparse
import gzip
import json
import random

import pytest

import janus_fast_corpus as corpus
from janus_fast.data import test_set as committed_test_set
from janus_fast_corpus import tasks
from janus_fast_corpus.readers import debian_descriptions, man_pages
from janus_fast_corpus.sources import Source
from janus_fast_corpus.split import normalized

LIST = """Package: lister
Description-md5: 1
Description-en: tool that lists what is in a folder
 Lister shows names and sizes of files, and sorts them
 by whatever is asked for.
 .
 It can:
  * colour names
  * count bytes
 .
 Folders are followed where that is wanted. See https://lister.example.org for more.

Package: lister-doc
Description-md5: 2
Description-en: documentation of lister
 These are its manual and its examples.
"""
PAGE = r"""'\" t
.TH LISTER 1 "May 2020"
.SH NAME
lister \- show what is in a folder
.SH SYNOPSIS
.B lister
[\fIOPTION\fR]...
.SH "DESCRIPTION"
The program
.B lister
shows what is in a folder.
.TP
.B \-a
Names that begin with a dot are shown, too.
.nf
lister /tmp
.fi
.SH AUTHOR
Written by somebody else.
"""


def test_a_description_is_read():
    found = list(debian_descriptions.described(LIST))
    assert [package for package, *_ in found] == ["lister", "lister-doc"]
    _, paragraphs, synopsis = found[0]
    assert synopsis == "tool that lists what is in a folder"
    assert paragraphs == [
        "Lister shows names and sizes of files, and sorts them by whatever is asked for.",
        "It can:",
        "Folders are followed where that is wanted. See https://lister.example.org for more.",
    ]


def test_a_manual_page_is_read():
    paragraphs, about = man_pages.described(PAGE)
    assert about == "show what is in a folder"
    assert paragraphs == [
        "The program lister shows what is in a folder.",
        "Names that begin with a dot are shown, too.",
    ]
    assert man_pages.described(".Dd May 2020\n.Sh NAME\n.Nm lister\n.Nd show a folder\n") is None
    assert man_pages.described(".so man1/other.1\n") is None


WORDS = "folder window network printer keyboard letter number colour table picture server music planet compiler".split()


def made_text(seed: str) -> str:
    numbers = random.Random(seed)
    return " ".join(f"It has a {' and a '.join(numbers.choices(WORDS, k=5))}." for _ in range(3))


class Store:
    """Stands in for the package store: 120 described packages of 60 sources, 40 packages of two manual pages."""

    release, missing = "made-up", []

    def __init__(self, folder, language, progress):
        self.folder = folder

    def update(self):
        pass

    def source_names(self):
        return {f"package-{number}": f"source-{number // 2}" for number in range(120)}

    def descriptions(self, language):
        stanzas = [LIST]
        for number in range(120):
            text = made_text(f"package {number - number % 7 if number < 20 else number}")  # some have the same
            head = f"Package: package-{number}\nDescription-md5: a{number}\nDescription-en: {made_summary(number)}"
            stanzas.append(f"{head}\n {text}\n .\n {made_text(str(number))}\n")
        return "\n".join(stanzas)

    def binary_package(self, name):
        return name if name in tasks.DOCUMENTS[1].packages[:40] else None

    def files_of(self, source, language):
        return {}


def made_summary(number) -> str:
    return f"tool for {' '.join(random.Random(f'summary {number}').sample(WORDS, 4))}"


def made_pages(path, wanted):
    for number in range(2):
        seed = f"{path} {number}"
        page = f".SH NAME\npage \\- {made_summary(seed)}\n.SH DESCRIPTION\n{made_text(seed)}\n"
        name = f"./usr/share/man/man1/{number}.1.gz"
        assert wanted(name)
        yield name, gzip.compress(page.encode())
    yield "./usr/share/man/man1/broken.1.gz", b"not compressed"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(tasks, "PackageStore", Store)
    monkeypatch.setattr(man_pages, "package_members", made_pages)


def lines(path):
    return path.read_text(encoding="utf8").splitlines()


def test_summaries_are_split_by_package(offline, tmp_path):
    told = []
    report = corpus.prepare_task(
        tmp_path / "a", "summary", tmp_path, validation_pairs=9, test_pairs=11, progress=told.append
    )
    corpus.prepare_task(tmp_path / "b", "summary", tmp_path, validation_pairs=9, test_pairs=11)
    assert json.loads((tmp_path / "a/corpus.json").read_text()) == report and "descriptions/train" in told[-1]
    for tier in ("descriptions", "manuals"):
        sides = {}
        for name in ("train", "valid", "test"):
            columns = [lines(tmp_path / f"a/{tier}/{name}.{ending}") for ending in ("text", "summary", "meta.tsv")]
            assert [*map(len, columns)] == [report["sets"][f"{tier}/{name}"]] * 3
            assert columns[0] == lines(tmp_path / f"b/{tier}/{name}.text")
            sides[name] = list(zip(*columns, strict=True))
        assert len(sides["train"]) > len(sides["test"]) > 0 < len(sides["valid"]) <= 9
        for label in (row[2] for rows in sides.values() for row in rows):
            assert label.count("\t") == 2 and "mixed free" in label
        for key in (lambda row: row[2], lambda row: row[1], lambda row: row[0][:60]):
            seen = [{key(row) for row in rows} for rows in sides.values()]
            assert sum(map(len, seen)) == len(set.union(*seen))  # nothing is on two sides
    texts = [line for name in ("train", "valid", "test") for line in lines(tmp_path / f"a/descriptions/{name}.text")]
    assert any("sorts them by whatever is asked for." in text for text in texts)
    assert not any("example.org" in text or "These are its manual" in text for text in texts)


def test_monolingual_text_has_no_sentence_twice_and_none_of_what_is_held_out(offline, tmp_path, monkeypatch):
    committed = committed_test_set()[0][0]
    monkeypatch.setattr(debian_descriptions, "described", described_with(committed))
    for task in ("summary", "monolingual"):
        corpus.prepare_task(tmp_path / task, task, tmp_path, validation_pairs=9, test_pairs=11)
    train, valid = (lines(tmp_path / f"monolingual/{name}.en") for name in ("train", "valid"))
    assert len(set(train) | set(valid)) == len(train) + len(valid) and valid
    assert committed not in train + valid and "Names are long enough." in train
    assert len(lines(tmp_path / "monolingual/train.meta.tsv")) == len(train)
    held_out = [lines(tmp_path / f"summary/{tier}/test.text") for tier in ("descriptions", "manuals")]
    firsts = {text.partition(".")[0] + "." for text in sum(held_out, [])}
    assert firsts and not firsts & set(train) and not firsts & set(valid)


def described_with(sentence):
    own = debian_descriptions.described

    def described(text):
        yield from own(text)
        for number in range(20):  # too many to be held out
            yield f"long-{number}", [made_text(f"long {number}"), f"Names are long enough. {sentence}"], "what is long"

    return described


def test_what_is_no_summary_is_refused():
    source = Source("s", "ddtp", "l")

    def refusal(summary, text="It has a folder and a window, and with these it is useful to many."):
        return tasks.Document("p", ((text,),), summary, source).refusal(80)

    assert refusal("tool for folders") == ""
    assert refusal("tool") == refusal("tool " * 21) == refusal("tool for folders", "It is short.") == "length"
    assert refusal("transitional package for folders") == "not-about-it"
    assert refusal("It has a Folder") == "same"
    document = tasks.Document("p", (("One two three.", "Four five."), ("Six.",)), "", source)
    assert document.text(5) == "One two three. Four five." and document.text(4) == "One two three."


def test_groups_that_do_not_fit_are_trained_on():
    source = Source("debian-descriptions", "ddtp", "l")
    large = [tasks.Document("large", ((f"Text {n}.",),), f"about {'x' * n}", source) for n in range(1, 40)]
    small = [tasks.Document(f"p{n}", ((f"{'y' * n} text.",),), f"on {'y' * n}", source) for n in range(1, 62)]
    splits = tasks.split_documents([*large, *small], 80, 10, 4)
    assert [*map(len, splits.values())] == [86, 10, 4] and set(large) <= set(splits["train"])
    assert len({normalized(document.summary) for own in splits.values() for document in own}) == 100


def test_command_line(offline, tmp_path):
    parser = argparse.ArgumentParser()
    corpus.add_arguments(parser)
    words = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path), "--task", "monolingual"]
    assert corpus.run(parser.parse_args([*words, "--max-words", "30"])) == 0
    assert (tmp_path / "out/valid.en").is_file()
    for option, value in (("--pair", "en-de"), ("--small-max-words", "9"), ("--only", "git")):
        with pytest.raises(ValueError, match=f"{option} must be left out with --task monolingual, got {value}"):
            corpus.run(parser.parse_args([*words, option, value]))
    with pytest.raises(ValueError, match="corpus: task must be one of 'summary', 'monolingual', got 'titles'"):
        corpus.prepare_task(tmp_path, "titles")
