"""Each benchmark runs once, small, so that none can rot; and none times a wrong result."""

import json

import pytest
import torch

from benchmarks import registry, run
from janus_fast.ops import OPERATIONS

SMALL = registry.Configuration(channels=32, heads=2, vocabulary=300, length_classes=64)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(run, "CONFIGURATIONS", {"small": SMALL})
    monkeypatch.setattr(run, "CACHE_BYTES", 1024)


def test_every_operation_has_a_benchmark_that_computes_its_definition(tmp_path, capsys):
    file = tmp_path / "results.json"
    assert run.main(["--sentences", "1", "3", "--seconds", "0", "--json", str(file)]) == 0
    contents = json.loads(file.read_text())
    assert {record["operation"] for record in contents["records"]} == set(OPERATIONS)
    for record in contents["records"]:
        assert record["correct"] and 0 < record["ms_p20"] <= record["ms"] <= record["ms_p80"]
    assert {record["backend"] for record in contents["records"]} == {"torch", "cpp"}
    assert {"processor", "threads", "isa", "torch", "commit"} <= set(contents["machine"])
    assert capsys.readouterr().out.count("update_mask") == 2


def test_a_wrong_result_is_not_timed(monkeypatch, capsys):
    wrong = lambda hidden, weight: (torch.zeros(len(hidden), dtype=torch.int64), torch.zeros(len(hidden)))  # noqa: E731
    monkeypatch.setattr(registry, "_argmax", wrong)
    assert run.main(["--op", "linear_argmax", "--sentences", "1", "--seconds", "0"]) == 1
    said = capsys.readouterr()
    assert "WRONG: linear_argmax (first refinement), torch" in said.err
    assert said.out.splitlines()[2].split()[-4] == "-"
