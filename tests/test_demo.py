"""How the demo shows a sentence while it is decoded."""

import sys
from dataclasses import replace
from types import SimpleNamespace

from janus_fast import JanusConfig, demo
from janus_fast.results import TranslationResult


def test_a_canvas_shows_what_is_masked_and_what_is_new(monkeypatch):
    before, after = ["▁Die", "<mask>", "<mask>", "."], ["▁Die", "▁Tab", "elle", "<mask>"]
    assert demo.canvas_text(after, before, "<mask>") == "Die Tabelle ░░"
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    new, dim, plain = demo.NEW, demo.DIM, demo.PLAIN
    expected = f"Die {new}Tab{plain}{new}elle{plain} {dim}░░{plain}"
    assert demo.canvas_text(after, before, "<mask>") == expected


def test_the_numbers_of_all_rows_end_below_their_names(capsys):
    names = [name for name, _ in demo.COLUMNS]
    demo._row(names)
    config = JanusConfig(8, 8)
    labels = [label for own in (config, replace(config, permuted=True)) for label, _, _ in demo.configurations(own)]
    for label in labels:
        demo._row([label, "100.0", "99.9", "1234.5", "67.8"])
    head, *rows = capsys.readouterr().out.splitlines()
    for row in rows:
        for name, number in zip(names[1:], ("100.0", "99.9", "1234.5", "67.8"), strict=True):
            assert row.index(number) + len(number) == head.index(name) + len(name), row


def test_a_draft_shows_what_is_accepted_of_it(capsys):
    words = SimpleNamespace(encode=str.split, decode=" ".join)
    history = [[], ["a", "b", "x"], ["a", "b", "c", "d"]]
    result = TranslationResult([["a", "b", "c", "d"]], [0.0], [[0.0] * 5], [3], [history])
    translator = SimpleNamespace(
        source_vocabulary=words, target_vocabulary=words, config=SimpleNamespace(two_stream=False),
        translate_batch=lambda *_, **__: [result],
    )  # fmt: skip
    demo.show_drafts(translator, "A B")
    lines = capsys.readouterr().out.splitlines()
    passes = ["  pass 1  ", "  pass 2  a [b | x]", "  pass 3  a b c [d | ]"]
    assert lines[1:] == ["  A B", *passes, "  output  a b c d  (3 passes for 5 tokens)"]
