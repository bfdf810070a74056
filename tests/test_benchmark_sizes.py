"""Operations timed at the caller's sizes, beside the caller's code, behind the same gate as all others."""

import json
from pathlib import Path

import pytest

from benchmarks.operations import operations, registry

ROOT = Path(__file__).parent.parent
SMALL = registry.Configuration(channels=32, heads=2, vocabulary=300, length_classes=64)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(operations, "CONFIGURATIONS", {"small": SMALL})
    monkeypatch.setattr(operations, "CACHE_BYTES", {"cpu": 1024})


def test_the_caller_may_bring_sizes_and_a_peer(tmp_path, capsys):
    """The example of CONTRIBUTING.md, and a peer for attention that has gradients and lacks the second result."""
    peer, file = tmp_path / "my_peer.py", tmp_path / "results.json"
    example = (ROOT / "CONTRIBUTING.md").read_text().partition("```python\n")[2].partition("```")[0]
    peer.write_text(f"""{example}
import torch
from janus_fast.visibility import Visibility

def attention(query, key, value, *rest):
    seen = Visibility(*rest[:-1]).dense()
    scores = torch.einsum("qhd,khd->hqk", query, key) * rest[-1]
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)
""")
    sizes = ["--lengths", "3", "1", "12", "--heads", "4", "--channels", "64", "--vocabulary", "50", "--rows", "9"]
    options = ["--seconds", "0", "--peer", "torch", str(peer), "--json", str(file)]
    assert operations.main([*sizes, *options]) == 0
    records = json.loads(file.read_text())["records"]
    assert {record["operation"] for record in records} == set(registry.TIMED)
    own = [record for record in records if record["backend"] == "my_peer"]
    assert [record["operation"] for record in own] == ["attention"] * 4 + ["linear_argmax"]
    assert own[0]["shapes"][0] == [16, 4, 16] and own[-1]["shapes"] == [[9, 64], [50, 64]]
    assert all(record["correct"] and record["sentences"] == 3 for record in records)
    assert "C=64 H=4 V=50 N=9" in capsys.readouterr().out


@pytest.mark.parametrize("body", ["tokens + 1, best", "tokens, best + 0.01", "(tokens,)[:0]", "tokens, best, best"])
def test_a_wrong_peer_of_the_caller_is_not_timed(body, tmp_path, capsys):
    peer = tmp_path / "my_peer.py"
    peer.write_text(f"""def linear_argmax(hidden, weight, bias):
    best, tokens = (hidden @ weight.T).log_softmax(-1).max(-1)
    return {body}
""")
    selection = ["--op", "linear_argmax", "--sentences", "1", "--seconds", "0"]
    assert operations.main([*selection, "--peer", str(peer)]) == 1
    assert "WRONG: linear_argmax (first refinement), my_peer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--channels", "10", "--heads", "3"], "--channels: must be a multiple of heads = 3, got 10"),
        (["--vocabulary", "9"], "--vocabulary: must be at least 10, got 9"),
        (["--lengths", "0"], "--lengths: must be a positive integer, got 0"),
        (["--peer", "nobody"], "--peer: must be one of torch, compiled, flex, or a Python file, got 'nobody'"),
        (["--peer", "torch.py"], "--peer: must be a file of another name than a peer or backend, got 'torch.py'"),
        (["--peer", "empty.py"], "--peer: must hold a function named after an operation, got none in 'empty.py'"),
    ],
)
def test_sizes_and_peers_that_cannot_be_timed_are_refused(options, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("torch.py", "empty.py"):
        (tmp_path / name).write_text("")
    with pytest.raises(SystemExit) as exit:
        operations.main(options)
    assert exit.value.code == 2 and reason in capsys.readouterr().err
