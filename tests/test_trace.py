"""The page that shows how translations came about: what stands in it, and that nothing else is needed to read it."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from janus_fast import Translator, cli
from janus_fast.results import TranslationResult
from janus_fast.trace import page

VOID = {"meta"}
NAR = TranslationResult(
    ["Die <b> Tabelle.", "Die"], [-0.5, -1.0], [[-0.1, -0.2, -0.3], [-0.5]], [2, 1],
    history=[
        [["<mask>"] * 3, ["▁Die", "<mask>", "."], ["▁Die", "▁<b>", "."]],
        [["<mask>"], ["▁Die"]],
    ],
    predictions=[[["▁Die", "▁&x", "."], ["▁Die", "▁<b>", "."]], [["▁Die"]]],
    prediction_scores=[[[-0.01, -2.4, -0.5], [-0.01, -0.7, -0.5]], [[-0.5]]],
    tokens=[["▁Die", "▁<b>", "."], ["▁Die"]],
)  # fmt: skip


class Page(HTMLParser):
    """The page's elements; what is opened is closed, and no attribute leads out of it."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.rows, self.passes, self.names, self.titles = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert not set(attributes) & {"src", "href", "style", "srcset", "data"}
        assert tag not in ("script", "link", "img", "iframe", "object")
        if tag not in VOID:
            self.open.append(tag)
        if attributes.get("class") == "pass":
            self.passes.append([])
        elif tag == "i" and self.passes:
            self.passes[-1].append([attributes["class"], ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.titles.append(data)
        if self.open[-1:] == ["b"] and self.open[-2:-1] == ["div"]:
            self.names.append(data)
        elif "i" in self.open and self.passes:
            self.passes[-1][-1][1] += f"={data}" if self.open[-1] == "small" else data


def test_refinement_is_shown_pass_by_pass():
    text = page(["The <table>\u2028& more"], [NAR], title="A & B", note="The first 1 of 9.")
    shown = Page(text)
    assert shown.titles == ["1. The <table> & more"] and "<title>A &amp; B</title>" in text
    assert shown.names == ["masks", "pass 1", "pass 2", "masks", "pass 1"]
    assert shown.passes == [
        [["mask", "░"]] * 3,
        [["new word c9", "Die=99"], ["again word c0", "&x=9"], ["new c6", ".=61"]],
        [["word c9", "Die=99"], ["new word c4", "<b>=50"], ["c6", ".=61"]],
        [["mask", "░"]],
        [["new word c6", "Die=61"]],
    ]
    assert "Lengths tried: 3, 1 tokens" in text and "The first 1 of 9." in text
    assert "3 tokens, 2 passes, score -0.500" in text
    assert not re.search(r"https?:|//|@import|url\(", text) and "width=device-width" in text


def test_drafts_are_shown_with_what_the_model_accepted():
    history = [[], ["▁a", "▁b", "▁x"], ["▁a", "▁b", "▁c", "▁d", "</s>"]]
    result = TranslationResult(["a b c d"], [0.0], [[0.0] * 5], [3], [history], tokens=[["▁a", "▁b", "▁c", "▁d"]])
    assert result.accepted == [2]
    result.iterations = [3]
    shown = Page(page(["A"], [result], title="drafts"))
    assert shown.names == ["pass 1", "pass 2", "pass 3"]
    assert shown.passes[1] == [
        ["word c9", "a=100"], ["accepted word c9", "b=100"], ["refused word", "x"], ["new word c9", "c=100"],
    ]  # fmt: skip
    marks = [mark for mark, _ in shown.passes[2]]
    assert marks == ["word c9", "word c9", "word c9", "accepted word c9", "refused", "new c9"]
    result.token_scores = [[0.0] * 6]  # one more of the draft's was accepted: the end
    assert Page(page(["A"], [result], title="drafts")).passes[2][-1] == ["accepted c9", "end=100"]


@pytest.mark.parametrize("mode", ["ar", "nar", "semi_nar", "speculative", "auto"])
def test_the_command_writes_the_page_beside_the_translations(tmp_path, capsys, mode):
    source, out = tmp_path / "in", tmp_path / "page.html"
    source.write_text("The cell is empty.\n\nDelete the <file> & go.\n", encoding="utf-8")
    command = ["translate", "en-de-small", str(source), "--mode", mode]
    command += ["--block-length", "1"] if mode == "semi_nar" else []  # blocks were not trained
    assert cli.main(command) == 0
    plain = capsys.readouterr().out
    assert cli.main([*command, "--trace", str(out)]) == 0
    assert capsys.readouterr().out == plain
    text = out.read_text(encoding="utf-8")
    shown = Page(text)
    assert shown.titles == ["1. The cell is empty.", "2. ", "3. Delete the <file> & go."]
    assert "Die Zelle ist leer." in text and len(text) < 100_000
    assert ("Lengths tried: 5, " in text) == (mode == "nar")
    assert cli.main([*command, "--json", "--trace", str(out)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(record["hypotheses"]) for record in records] == [1, 1, 1]


def test_a_notebook_shows_a_result(tmp_path):
    translator = Translator("en-de-small")
    for options in {}, {"mode": "nar", "return_history": True}, {"num_hypotheses": 2}:
        html = translator.translate(["The cell is empty."], **options)[0]._repr_html_()
        assert "Die" in "".join(text for row in Page(html).passes for _, text in row)
    ids = translator.generate([[0, 17, 18, 2]], beam_size=1)[0]
    assert len(Page(ids._repr_html_()).passes[0]) == len(ids.token_scores[0])
    assert Page(TranslationResult([[]], [0.0], [[]], [0])._repr_html_()).passes == [[]]


@pytest.mark.parametrize("name", ["in", "out", "nowhere/page.html"])
def test_a_page_that_cannot_be_is_refused(tmp_path, capsys, name):
    (tmp_path / "in").write_text("A\n", encoding="utf-8")
    (tmp_path / "out").write_text("kept\n", encoding="utf-8")
    page_file = tmp_path / name
    command = ["translate", "en-de-small", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--trace", str(page_file)]
    assert cli.main(command) != 0
    assert capsys.readouterr().err.startswith("janus-fast: error: --trace must be ")
    assert (tmp_path / "in").read_text() == "A\n" and (tmp_path / "out").read_text() == "kept\n"
    command[4] = command[6] = str(tmp_path / "new")  # neither is there yet
    assert cli.main(command) != 0 and not (tmp_path / "new").exists()


def test_an_error_leaves_a_page_of_what_was_done(tmp_path):
    (tmp_path / "in").write_bytes(b"The cell is empty.\n\xff\n")
    out = tmp_path / "page.html"
    command = [
        sys.executable,
        "-m",
        "janus_fast",
        "translate",
        "en-de-small",
        str(tmp_path / "in"),
        "--trace",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "must be UTF-8 text" in done.stderr
    assert Page(out.read_text(encoding="utf-8")).titles == ["1. The cell is empty."]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_page_pairs_each_source_with_its_own_translation(tmp_path, capsys, processes):
    """Where the first line is done already, and others are passed over."""
    lines = [b"Delete the file.", b"The cell is empty.", b"\xff", b"Open " * 600, b"The table is empty."]
    source, out, html = tmp_path / "in", tmp_path / "out", tmp_path / "page.html"
    source.write_bytes(b"\n".join(lines) + b"\n")
    out.write_text("Done.\n", encoding="utf-8")
    command = ["translate", "en-de-small", str(source), "-o", str(out), "--resume", "--skip-errors"]
    assert cli.main([*command, "--processes", processes, "--trace", str(html)]) == 0
    done, cell, wrong, long, table = out.read_text(encoding="utf-8").splitlines()
    assert (done, cell, wrong, long) == ("Done.", "Die Zelle ist leer.", "", "") and "Tabelle" in table
    text = html.read_text(encoding="utf-8")
    assert Page(text).titles == ["1. The cell is empty.", "2. The table is empty."]
    first, second = text.split("<h2")[1:]
    assert cell in first and cell not in second and table in second and table not in first
