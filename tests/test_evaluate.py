"""Metrics beside BLEU and chrF: ROUGE by its package, distinct-n by hand."""

import json
import sys

import pytest

from janus_fast import cli, engine, evaluate

HYPOTHESES = ["lists the files of a folder", "The connection was closed.", "", "prints prints prints"]
REFERENCES = ["list files in a folder", "closes connections", "print a line", "print text"]


def test_rouge_is_that_of_its_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"], True)
    found = evaluate.scores(HYPOTHESES, REFERENCES, metrics=["rouge"], resamples=1)
    assert found["signatures"].keys() == {"rouge"} and "bleu" not in found
    by_line = [scorer.score(*pair) for pair in zip(REFERENCES, HYPOTHESES, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        values = [100 * line[name].fmeasure for line in by_line]
        mean = sum(values) / 4
        error = (sum((value - mean) ** 2 for value in values) / 3 / 4) ** 0.5
        assert found[name] == pytest.approx(mean, abs=0.005) and mean > 0
        assert found[f"{name}_ci"] == pytest.approx(1.96 * error, abs=0.005)
    # by hand: 4 of 6 words and of 5, "list", "file", "a" and "folder" by their stems; "a folder" of 5 pairs and of 4
    first = evaluate.scores(HYPOTHESES[:1], REFERENCES[:1], metrics=["rouge"])
    assert (first["rouge1"], first["rouge2"]) == (round(800 / 11, 2), round(200 / 9, 2))


def test_distinct_counts_what_differs():
    found = evaluate.scores(["a b a b", "a b", ""], ["", "", ""], metrics=["distinct"])
    assert (found["distinct1"], found["distinct2"]) == (round(100 * 2 / 6, 2), round(100 * 2 / 4, 2))
    assert evaluate.scores([""], ["x"], metrics=["distinct"])["distinct1"] == 0


@pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
def test_evaluate_measures_what_is_asked_for(tmp_path, capsys):
    pytest.importorskip("rouge_score")
    for name, line in (("text", "Delete the row."), ("summary", "Die Zeile wird gelöscht.")):
        (tmp_path / name).write_text(f"{line}\n", encoding="utf-8")
    words = ["evaluate", "en-de-small", "--source", f"{tmp_path}/text", "--reference", f"{tmp_path}/summary"]
    words += ["--metric", "rouge", "distinct"]
    assert cli.main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0 <= record["rouge2"] <= record["rouge1"] <= 100 == record["distinct2"] and "chrf" not in record
    assert record["passes"] == record["tokens"] + 1
    assert cli.main(words) == 0 and "ROUGE-1  ROUGE-2  ROUGE-L  distinct-1  distinct-2" in capsys.readouterr().out


def test_a_missing_package_is_named_before_anything_is_decoded(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    assert cli.main(["evaluate", "no-such-model", "--metric", "rouge"]) == 2
    assert "it needs rouge_score, which is not installed: pip install rouge-score" in capsys.readouterr().err
    with pytest.raises(ValueError, match="metrics must be one of 'bleu', .*, got 'blue'; did you mean 'bleu'\\?$"):
        evaluate.scores(["a"], ["a"], metrics=["blue"])
