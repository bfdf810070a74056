"""What runs on a GPU, as far as it runs without one: peers, times, the gate, and commands that say there is none."""

import json
import os
import subprocess

import pytest
import torch
import torch.nn.functional as F

from benchmarks.decode import gpu_decode
from benchmarks.machine import RESULTS, ROOT
from benchmarks.operations import gpu, gpu_report, operations, pytorch, registry
from benchmarks.workload import Row
from janus_fast.ops import OPERATIONS

pytestmark = pytest.mark.gpu

SMALL = registry.Configuration(channels=32, heads=2, vocabulary=300, length_classes=64)
CPU = torch.device("cpu")
TYPES = ["--compute-type", "bfloat16", "float32"]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(operations, "CONFIGURATIONS", {"small": SMALL})
    monkeypatch.setattr(operations, "CACHE_BYTES", {"cpu": 1024})


def eagerly(function):
    return torch.compile(function, backend="aot_eager")


def densely(flex_attention):
    """FlexAttention, which has no gradients on the CPU, by the mask that it is given."""

    def attend(query, key, value, block_mask, scale):
        q, k = (torch.arange(t.shape[2]) for t in (query, key))
        mask = block_mask.mask_mod(0, 0, q[:, None], k[None])
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    return attend


def records_of(case, peers):
    return operations.measure(case, CPU, peers, 0.0, config="small", sentences=3, dtype="float32")


def test_every_peer_computes_the_definition(monkeypatch):
    monkeypatch.setattr(operations, "compiled", eagerly)
    monkeypatch.setattr(pytorch, "compiled", densely)
    peers = {name: set() for name in registry.TIMED}
    for case in registry.cases(SMALL, 3, torch.float32):
        for record in records_of(case, list(operations.PEERS)):
            assert record["correct"] and record["ms"] > 0, record
            assert ("speedup" in record) == (record["backend"] == "cpp")
            peers[case.operation].add(record["backend"])
    for name, backends in peers.items():
        expected = {"torch", "compiled"} | ({"flex"} if name == "attention" else set())
        assert backends == expected | ({"cpp"} if OPERATIONS[name].cpp_dtypes else set())


def test_flex_attention_itself_computes_the_definition(monkeypatch):
    monkeypatch.setattr(pytorch, "compiled", lambda function: function)
    attention = [case for case in registry.cases(SMALL, 3, torch.float32) if case.operation == "attention"]
    forward = [case for case in attention if case.seed is None]
    assert len(forward) == 3
    for case in forward:
        assert all(record["correct"] for record in records_of(case, ["flex"]))


def test_gradients_are_held_to_the_definition(monkeypatch):
    trained = [case for case in registry.cases(SMALL, 3, torch.float32) if case.seed is not None]
    (case,) = [case for case in trained if case.operation == "attention"]
    assert len(operations.budget(case, OPERATIONS["attention"])) == 5  # output, log-sum-exp, three gradients
    peer = case.peers["torch"]()
    wrong = pytorch.Peer(lambda: (*(run := peer.run())[:3], 1.01 * run[3]), peer.results)
    case.peers["torch"] = lambda: wrong
    assert [(r["backend"], r["correct"]) for r in records_of(case, ["torch"])] == [("torch", False), ("cpp", True)]


def test_a_choice_may_differ_where_scores_are_as_good():
    hidden, weight = torch.ones(1, 2), torch.tensor([[1.0, 0.0], [1.0, 1e-7], [0.0, 0.0]])
    log_probs = lambda chosen: pytorch.log_probs(hidden, weight, chosen)  # noqa: E731
    case = registry.Case("linear_argmax", "", (hidden, weight, None), {}, log_probs=log_probs)
    expected = operations.budget(case, OPERATIONS["linear_argmax"])
    score = expected[1][0].float()
    assert expected[0][0].tolist() == [1]
    for token, right in ((1, True), (0, True), (2, False)):
        assert operations.within(case, expected, [torch.tensor([token]), score]) == right
    assert not operations.within(case, expected, [torch.tensor([0]), score + 1e-3])
    assert not operations.within(case, expected, [torch.tensor([[0]]), score])


def test_bytes_and_operations_count_gradients():
    *forward, training = [case for case in registry.cases(SMALL, 1, torch.float32) if case.operation == "attention"]
    query, key, *_ = forward[0].arguments  # 25 rows see 25 rows
    assert forward[0].work() == (4 * 4 * 25 * 32, 4 * 25 * 25 * 32)
    # visible and masked tokens 13 and 12: content of 37 rows and 12 queries, each sees 25 keys
    assert training.work() == (4 * 32 * (2 * 49 + 2 * 37 + 3 * 49 + 4 * 37), (4 + 10) * 49 * 25 * 32)


def test_time_on_a_gpu_is_that_between_two_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append(self)

        def synchronize(self):
            assert log == ["sleep", log[1], "call", self]

        def elapsed_time(self, end):
            return (log.index(end) - log.index(self)) / 8

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("sleep"))
    assert operations.milliseconds(lambda: log.append("call"), torch.device("cuda")) == 0.25


@needs_no_gpu
def test_commands_say_that_there_is_no_gpu(capsys):
    assert operations.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "operations: --device cuda needs a GPU that this torch can use, and found none\n"
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == f"gpu: no GPU that this torch, {torch.__version__}, can use is found here\n"


def test_make_gpu_without_one_exits_with_2_before_it_builds_anything(tmp_path):
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    nvidia_smi.chmod(0o755)
    # Without what the make that runs the tests tells those that it starts.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-f", ROOT / "Makefile", "gpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("make gpu: no NVIDIA GPU is found here (nvidia-smi lists none)")
    assert list(tmp_path.iterdir()) == [nvidia_smi]


def test_results_are_named_after_the_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "tests", lambda: 0)
    monkeypatch.setattr(gpu, "SELECTION", ["--config", "small", "--sentences", "1", "--seconds", "0"])
    monkeypatch.setattr(gpu, "DECODES", ["--config", "tiny", "--batch", "2", "--seconds", "0", *TYPES])
    monkeypatch.setattr(operations, "name_of", lambda device: "NVIDIA H100 80GB HBM3")
    assert gpu.main(["--device", "cpu", "--results", str(tmp_path / "new"), "--op", "linear_topk"]) == 0
    contents = json.loads((tmp_path / "new/nvidia-h100-80gb-hbm3.json").read_text())
    assert contents["machine"]["device"] == "NVIDIA H100 80GB HBM3"
    assert [record["backend"] for record in contents["records"]] == ["torch", "cpp"]
    text = (tmp_path / "new/nvidia-h100-80gb-hbm3.md").read_text()
    assert text.startswith("# NVIDIA H100 80GB HBM3\n") and "| linear_topk | beam step | 1 |" in text
    assert text.count("| tiny | ") == 8 and "wrong" not in text.split("## Decodes")[1]
    assert "nvidia-h100-80gb-hbm3.json" in capsys.readouterr().out


def test_nothing_is_timed_when_a_test_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "tests", lambda: 1)
    assert gpu.main(["--device", "cpu", "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "gpu: a test has failed, so nothing is timed\n"
    assert not list(tmp_path.iterdir())


def test_the_selection_is_one_that_operations_take(monkeypatch):
    monkeypatch.setattr(operations, "CONFIGURATIONS", registry.CONFIGURATIONS)
    chosen = operations._arguments(gpu.SELECTION)
    assert chosen.config == ["wmt16_enro"] and chosen.dtype == ["bfloat16", "float32"]
    assert gpu_decode._arguments(gpu.DECODES).compute_type == ["bfloat16", "float32"]


def test_reports_are_those_of_the_results():
    assert (files := list(RESULTS.glob("*-decode.json")))
    for file in files:
        card = file.stem.removesuffix("-decode")
        contents = [json.loads((RESULTS / f"{name}.json").read_text()) for name in (card, file.stem)]
        assert (RESULTS / f"{card}.md").read_text() == gpu_report.markdown(*contents)


@pytest.mark.parametrize("mode, beam_size", [("ar", 2), ("nar", 1)])
def test_decodes_of_other_tokens_are_not_timed(mode, beam_size, tmp_path, monkeypatch):
    row = Row("tiny", mode, 2, "bfloat16", streams=2 if mode == "nar" else 1, beam_size=beam_size)
    bench = gpu_decode.Decodes(tmp_path, "cpu", 0.0)
    assert bench.measure(row)["seconds"] > 0
    own = gpu_decode.Decodes.own

    def other(self, row, backend="", **more):
        decode = own(self, row, backend, **more)
        return decode if backend == "torch" else lambda: [[[7, *ids[1:]] for ids in group] for group in decode()]

    monkeypatch.setattr(gpu_decode.Decodes, "own", other)
    record = bench.measure(row)
    assert "seconds" not in record
    assert record["wrong"] == "janus_fast: tokens in float32 must be those of the reference path"
