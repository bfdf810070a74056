"""Each benchmark runs once, small, so that none can rot; and none times a wrong result."""

import dataclasses
import functools
import gc
import json
import math
import os
import re
import signal
import struct
import time
from contextlib import ExitStack, contextmanager
from importlib import import_module

import pytest
import torch

from benchmarks import __main__, busy, marian_files
from benchmarks.decode import contender, decode, floors, gate, memory, report, soak, speculative
from benchmarks.machine import RESULTS, resident
from benchmarks.operations import operations, pytorch, registry
from benchmarks.peers import Models, Refusal, slimt, work
from benchmarks.training import experiment_report, joint_loss, sharing, systems_report, training
from benchmarks.workload import CONFIGURATIONS, OUTPUT, Row, save_model, sources, vocabulary_map
from janus_fast import engine, load
from janus_fast.convert import marian_native

STUDENT = Row("tiny-ssru", "ar", 4, "int8", streams=1, shortlist=True)
EXPERIMENTS = "experiment", "experiment-own-pace", "experiment-early"
SMALL = registry.Configuration(channels=32, heads=2, vocabulary=300, length_classes=64)
needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(operations, "CONFIGURATIONS", {"small": SMALL})
    monkeypatch.setattr(operations, "CACHE_BYTES", {"cpu": 1024})


@pytest.fixture
def no_ctranslate2(tmp_path, monkeypatch):
    """Processes started from here on find no CTranslate2."""
    (tmp_path / "ctranslate2.py").write_text("raise ImportError('No module named ctranslate2')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_every_operation_has_a_benchmark_that_computes_its_definition(tmp_path, capsys):
    file = tmp_path / "results.json"
    assert __main__.main(["--sentences", "1", "3", "--seconds", "0", "--json", str(file)]) == 0
    contents = json.loads(file.read_text())
    assert {record["operation"] for record in contents["records"]} == set(registry.TIMED)
    for record in contents["records"]:
        assert record["correct"] and 0 < record["ms_p20"] <= record["ms"] <= record["ms_p80"]
    assert {record["backend"] for record in contents["records"]} == {"torch", "cpp"}
    assert {"processor", "threads", "isa", "torch", "commit"} <= set(contents["machine"])
    assert capsys.readouterr().out.count("update_mask") == 2


def test_a_wrong_result_is_not_timed(monkeypatch, capsys):
    wrong = lambda hidden, weight: (torch.zeros(len(hidden), dtype=torch.int64), torch.zeros(len(hidden)))  # noqa: E731
    monkeypatch.setattr(pytorch, "argmax", wrong)
    assert operations.main(["--op", "linear_argmax", "--sentences", "1", "--seconds", "0"]) == 1
    said = capsys.readouterr()
    assert "WRONG: linear_argmax (first refinement), torch" in said.err
    torch_ms, kernel, *_, speedup, _ = said.out.splitlines()[2].split()[-5:]
    assert (torch_ms, kernel, speedup) == ("-", "cpp", "-")


JOINT_LOSS = ["--rows", "70", "--vocabulary", "20000", "--channels", "8", "--rounds", "1", "--peer", "eager"]


def test_the_joint_losses_that_are_not_asked_for_singly_are_a_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(joint_loss, "TABLE", [(70, 20_000, "bfloat16")])  # the next test has float32
    assert joint_loss.main(["--channels", "8", "--rounds", "1", "--peer", "eager", "--results", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "joint_loss.json").read_text())["records"]
    assert [record["dtype"] for record in records] == ["bfloat16"]
    for record in records:
        assert record["seconds"] > 0 and record["speedup"] == record["eager_seconds"] / record["seconds"]
        assert record["better_peer"] == "eager" and record["peak_bytes"] < record["eager_peak_bytes"] / 2
        assert f"70 rows a stream, 20,000 tokens, {record['dtype']}: " in joint_loss.line(record)
    assert capsys.readouterr().out.splitlines() == [joint_loss.line(record) for record in records]
    table = (tmp_path / "joint_loss.md").read_text()
    assert "medians of 1 steps" in table and "| 70 | 20,000 | 8 | bfloat16 |" in table
    monkeypatch.setattr(joint_loss, "measure", lambda _, *case: {**records[0], "case": case[:3]})
    assert joint_loss.main([*JOINT_LOSS, "--dtype", "bfloat16", "--json", "-"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["case"] == [70, 20_000, "bfloat16"] and {"processor", "torch", "commit"} <= set(alone["machine"])


def test_the_cross_entropy_alone_is_timed_beside_pytorch_s_in_chunks(tmp_path):
    arguments = [*JOINT_LOSS[:-2], "--cross-entropy", "--json", str(tmp_path / "alone.json")]
    assert joint_loss.main(arguments) == 0
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert alone["cross_entropy"] and list(alone["peers"]) == ["in chunks"]
    assert ", cross-entropy alone: " in joint_loss.line(alone)
    joint = {name: value for name, value in alone.items() if name != "cross_entropy"}
    page = joint_loss.markdown({"machine": alone["machine"], "records": [joint, alone]})
    assert page.count("| 70 | 20,000 | 8 | float32 |") == 2 and "`linear_cross_entropy`" in page


def test_a_wrong_joint_loss_is_not_timed(monkeypatch, capsys):
    truths = joint_loss.budget(70, 20_000, 8, "float32")
    monkeypatch.setattr(joint_loss, "budget", lambda *case: [(1.01 * truth, allowed) for truth, allowed in truths])
    assert joint_loss.main(JOINT_LOSS) == 1
    said = capsys.readouterr()
    assert not said.out and "WRONG: janus_fast: loss must be within" in said.err


def test_help_names_every_topic(capsys):
    assert __main__.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {topic} " in said for topic in __main__.TOPICS)
    for topic in __main__.TOPICS:
        with pytest.raises(SystemExit) as exit:
            __main__.main([topic, "--help"])
        assert exit.value.code == 0
        assert f"python -m benchmarks {topic}" in capsys.readouterr().out


@needs_engine
def test_one_row_is_timed_beside_pytorch_and_the_floor(capsys):
    before = os.sched_getaffinity(0)
    selection = ["--config", "tiny", "--mode", "nar", "--length-beam", "3", "--batch", "2", "--peer", "pytorch"]
    assert __main__.main(["decode", *selection, "--rounds", "1", "--threads", "1", "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert os.sched_getaffinity(0) == before
    assert record["gate"] == {"tokens": "the reference path's"}
    assert record["backend"] == "engine" and record["isa"] == engine.isa()
    assert 0 < record["seconds_p20"] <= record["seconds"] <= record["seconds_p80"]
    assert record["peer"] == "pytorch" and 0 < record["peer_seconds"] == record["peers"]["pytorch"]["seconds"]
    assert 0 < record["floor_seconds"] == record["floor"]["seconds"]
    assert (record["iterations"], record["length_beam"], record["batch"], record["compute_type"]) == (
        4,
        3,
        2,
        "float32",
    )
    assert {"processor", "threads", "commit", "torch", "load_average"} <= set(record["machine"])


@needs_engine
def test_one_row_is_timed_on_a_busy_machine(no_ctranslate2, capsys):
    selection = ["--config", "tiny", "--mode", "ar", "--busy", "2", "--rounds", "1", "--threads", "1"]
    assert decode.main(selection) == 0
    assert re.search(
        r"float32, 2 loops beside it: [\d.]+ ms \(80th percentile [\d.]+\), floor", capsys.readouterr().out
    )


def test_loops_run_until_the_block_ends():
    with pytest.raises(ZeroDivisionError), busy.loops(2) as started:
        assert len(started) == 2 and not any(loop.poll() for loop in started)
        raise ZeroDivisionError
    assert [loop.returncode for loop in started] == [-signal.SIGKILL] * 2


@needs_engine
@pytest.mark.parametrize("row", [["--mode", "ar", "--batch", "2"], ["--mode", "nar"]])
def test_the_profile_of_a_row_is_where_its_time_goes(row, capsys, no_ctranslate2, monkeypatch):
    monkeypatch.setattr(contender, "TURN", 0)
    monkeypatch.setattr(decode, "PEERS", {"ar": [], "nar": []})
    options = ["--config", "tiny", *row, "--rounds", "1", "--threads", "1", "--profile"]
    assert decode.main([*options, "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    stages = record["profile"]
    own = ["self_attn", "self_attn: q, k, v", "self_attn: out", "fc1", "fc2", "norms", "what follows products"]
    cross = ["encoder_attn", "encoder_attn: q", "encoder_attn: out", "vocabulary"]
    assert {f"encoder: {name}" for name in own} | {f"decoder: {name}" for name in own + cross} <= stages.keys()
    assert all(work > 0 and waiting >= 0 for work, waiting in stages.values())
    lines = report.profile(stages)
    assert len(lines) == len(stages) and lines[0].endswith("%")


@needs_engine
def test_ctranslate2_computes_the_same_from_the_same_weights(capsys):
    pytest.importorskip("ctranslate2")
    selection = ["--config", "tiny", "--mode", "ar", "--streams", "1", "--beam-size", "3", "--batch", "2"]
    assert decode.main([*selection, "--peer", "ctranslate2", "--rounds", "1", "--threads", "1", "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["peers"]["ctranslate2"]["seconds"] == record["peer_seconds"] > 0


def test_a_student_s_files_hold_its_weights(tmp_path):
    """Read back by the converter, each weight is the nearest of the integers that there are."""
    save_model(STUDENT.sizes, 1, tmp_path / "m")
    slimt.convert(tmp_path / "m", STUDENT.calls, tmp_path / "files")
    model, (vocabulary, _) = load(tmp_path / "m")
    found, (words, _) = marian_native.load(tmp_path / "files")
    assert words.tokens[: len(vocabulary)] == vocabulary.tokens and found.config.recurrent
    sizes = "d_model", "attention_heads", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "activation"
    assert [getattr(found.config, name) for name in sizes] == [getattr(model.config, name) for name in sizes]
    state, expected = found.state_dict(), model.state_dict()
    positions = expected.pop("encoder.embed_positions.weight")
    torch.testing.assert_close(found.encoder.embed_positions.weight[: len(positions)], positions, rtol=0, atol=0)
    assert torch.equal(expected.pop("decoder.embed_positions.weight"), positions[:1].expand_as(positions))
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        rounded = tensor.dim() == 2
        step = tensor.abs().max().item() / marian_files.MOST_WEIGHT
        # in the last place of float32, numbers of 64 steps err by less than a thousandth of one
        allowed = 0.501 * step if rounded else 0
        torch.testing.assert_close(state[name][: len(tensor)], tensor, rtol=0, atol=allowed, msg=name)

    content = (tmp_path / "files" / slimt.FILES[2]).read_bytes()
    magic, checksum, frequent, best, count, total = struct.unpack_from("<6Q", content)
    assert (magic, frequent, best, count) == (marian_files.SHORTLIST, 105, 5, len(vocabulary) + 1)
    assert len(content) == 48 + 8 * count + 4 * total and checksum == marian_files.checksum(content[16:])
    offsets = struct.unpack_from(f"<{count}Q", content, 48)
    of_7 = struct.unpack_from(f"<{offsets[8] - offsets[7]}I", content, 48 + 8 * count + 4 * offsets[7])
    assert offsets[-1] == total and sorted(of_7) == vocabulary_map(STUDENT.sizes).rules[7,].tolist()


def test_a_shortlist_s_checksum_is_marian_s():
    assert marian_files.checksum(struct.pack("<Q", 1)) == 0x9E3779BA
    second = 2 + 0x9E3779B9 + (0x9E3779BA << 6) + (0x9E3779BA >> 2)
    assert marian_files.checksum(struct.pack("<QQI", 1, 2, 3)) == 0x9E3779BA ^ second


@pytest.mark.peers
@needs_engine
def test_slimt_computes_the_same_from_the_same_weights(capsys):
    if slimt.find() is None:
        pytest.skip("slimt is not installed here: make test-peers")
    selection = ["--config", "tiny-ssru", "--mode", "ar", "--streams", "1", "--batch", "4", "--compute-type", "int8"]
    assert decode.main([*selection, "--shortlist", "--rounds", "1", "--threads", "1", "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["peer"] == "slimt" and record["peers"]["slimt"]["seconds"] == record["peer_seconds"] > 0


def test_slimt_says_what_it_has_not(monkeypatch):
    monkeypatch.setattr(slimt, "native", lambda: None)
    job = {"intra_threads": 1, "inter_threads": 1, "texts": STUDENT.texts, "options": STUDENT.options}
    for change, message in (
        ({"inter_threads": 2}, "threads must be 1, got 2 x 1"),
        ({"texts": None}, "a row must be of a student with SSRU, greedy and with a shortlist"),
        ({"options": {"beam_size": 1}}, "a row must be of a student with SSRU, greedy and with a shortlist"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            slimt.prepare({**job, **change})
    monkeypatch.undo()
    monkeypatch.setattr(slimt, "find", lambda: None)
    with pytest.raises(ImportError, match="No module named 'slimt'"):
        slimt.prepare(job)


@needs_engine
def test_all_rows_become_a_table_and_a_picture_without_peers(tmp_path, no_ctranslate2, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    rows = [Row("tiny", "ar", 1, "float32"), Row("tiny", "ar", 1, "int8", streams=1)]
    monkeypatch.setattr(decode, "table", lambda: rows)
    monkeypatch.setattr(decode, "TABLE_CONFIGURATIONS", ("tiny",))
    monkeypatch.setattr(gate.Gate, "_bleu", lambda *_: 20.0)
    assert decode.main(["--rounds", "1", "--threads", "1", "--results", str(tmp_path / "results")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    contents = json.loads((tmp_path / "results/decode.json").read_text())
    for record in contents["records"]:
        assert record["peer_seconds"] is None
        assert record["peers"] == {"ctranslate2": {"absent": "ctranslate2: No module named ctranslate2"}}
    assert contents["records"][1]["gate"] == {"bleu": 20.0, "bleu_float32": 20.0}
    assert 0 < contents["memory"]["weights_bytes"] and 0 < contents["memory"]["peak_bytes"]
    text = (tmp_path / "results/decode.md").read_text()
    assert text.count("| tiny |") == 2 and f"{1e3 * contents['records'][0]['seconds']:.1f} (" in text
    assert (tmp_path / "results/decode.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "page"),
    [
        *((name, report.markdown) for name in ("decode", "decode-zen4", "decode-zen5")),
        ("training", training.markdown), ("joint_loss", joint_loss.markdown), ("speculative", speculative.page),
        *((name, functools.partial(experiment_report.markdown, name)) for name in EXPERIMENTS),
        *((name, functools.partial(systems_report.markdown, name)) for name in ("systems", "systems-summary")),
    ],
)  # fmt: skip
def test_pages_are_those_of_the_results(name, page):
    results = json.loads((RESULTS / f"{name}.json").read_text())
    assert page(results) == (RESULTS / f"{name}.md").read_text()


def test_the_picture_has_a_dot_a_decoder_hollow_where_it_computes_in_another_type(tmp_path):
    pytest.importorskip("matplotlib")

    def timed(seconds, compute_type):
        around = {"seconds_p20": 0.9 * seconds, "seconds": seconds, "seconds_p80": 1.1 * seconds}
        return {**around, "compute_type": compute_type}

    peers = {"ctranslate2": timed(0.3, "float32"), "pytorch": timed(0.05, "bfloat16")}
    record = {"config": "tiny", "batch": 1, "decoding": "4 passes", **timed(0.02, "bfloat16"), "peers": peers}
    results = {"records": [{**record, "floor_seconds": 0.01}, {**record, "batch": 2, "floor_seconds": None}] * 3}
    figure = report.draw(results, tmp_path / "decode.png")
    assert [axis.get_title() for axis in figure.axes] == ["tiny, batch 1", "tiny, batch 2"]
    assert all(axis.get_xscale() == "log" and not axis.patches for axis in figure.axes)  # no bars
    dots = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "|")]
    assert [(line.get_xdata()[0], line.get_markerfacecolor() == "white") for line in dots[:3]] == [
        (20, False), (300, True), (50, False),
    ]  # fmt: skip
    assert [text.get_text() for text in figure.axes[0].texts[:3]] == ["", "float32", ""]
    assert len([line for line in figure.axes[0].lines if line.get_marker() == "|"]) == 3


@needs_engine
def test_a_peer_asked_for_by_name_must_be_there(no_ctranslate2):
    with pytest.raises(Refusal, match="ctranslate2: No module named ctranslate2"):
        decode.main(["--config", "tiny", "--mode", "ar", "--peer", "ctranslate2", "--threads", "1"])


def test_the_table_has_every_row_once():
    rows = list(decode.table())
    assert len(rows) == len(set(rows)) == 44
    assert {row.config for row in rows} == {"iwslt", "base", "tiny11"} and {row.batch for row in rows} == {1, 32}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--profile"], "--profile must go with the options of one row, and with backend engine"),
        (["--mode", "nar", "--streams", "1"], "--streams must go with another mode than nar"),
        (["--config", "tiny-ssru", "--mode", "ar"], "--config tiny-ssru must go with --mode ar --streams 1"),
        (
            ["--config", "tiny-ssru", "--mode", "ar", "--streams", "1", "--peer", "ctranslate2"],
            "--peer must be one of ['slimt'] in mode ar, got ctranslate2",
        ),
        (["--mode", "ar", "--peer", "pytorch"], "--peer must be one of ['ctranslate2'] in mode ar, got pytorch"),
        (["--json", "-"], "--json must go with the options of one row"),
        (["--busy", "1"], "--busy must go with the options of one row"),
        (["--batch", "0"], "must be a positive integer, got 0"),
    ],
)
def test_selections_that_make_no_row_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        decode.main(argv)
    assert message in " ".join(capsys.readouterr().err.split())


class FakeModels:
    """Starts processes that know their answers."""

    def __init__(self, answers):
        self.answers, self.started = answers, []

    def start(self, name, row, **changes):
        self.started.append((name, changes))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def decode(self):
        name, changes = self.started[-1]
        return self.answers["reference" if changes.get("backend") == "torch" else name], 0.5


ROW = Row("tiny", "ar", 1, "float32", beam_size=2)
ANSWER = [[[7] * OUTPUT, [8] * OUTPUT]] * 4
OTHER = [*ANSWER[:2], [[7] * OUTPUT, [9] * OUTPUT], ANSWER[3]]


def test_the_gate_compares_all_hypotheses_once():
    fake = FakeModels({"reference": ANSWER, "janus_fast": ANSWER, "ctranslate2": [group[::-1] for group in ANSWER]})
    own = gate.Gate(fake, threads=1)
    for _ in range(2):
        assert own.check(ROW) == {"tokens": "the reference path's"}
        own.check_peer("ctranslate2", ROW)
    # the reference path of the two-stream model and, for CTranslate2, of the one-stream one
    assert [name for name, _ in fake.started] == ["janus_fast", "janus_fast", "ctranslate2", "janus_fast"]
    assert all(changes["options"]["num_hypotheses"] == 2 for _, changes in fake.started)


@pytest.mark.parametrize("name", ["janus_fast", "ctranslate2"])
def test_other_tokens_than_the_reference_path_s_are_not_timed(name, monkeypatch, capsys):
    fake = FakeModels({"reference": ANSWER, "janus_fast": ANSWER, "ctranslate2": ANSWER, name: OTHER})
    monkeypatch.setattr(decode, "Models", lambda *_: fake)
    assert decode.main(["--config", "tiny", "--mode", "ar", "--beam-size", "2", "--json", "-"]) == 1
    said = capsys.readouterr()
    assert f"WRONG: {name}: tokens in float32 must be those of the reference path, got others for 1 of 4" in said.err
    record = json.loads(said.out)
    assert "source 2" in record["wrong"] and "seconds" not in record
    assert report.line(record).endswith("wrong")


def test_a_type_that_loses_quality_is_not_timed(monkeypatch):
    own = gate.Gate(FakeModels({}), threads=1)
    bleu = {"float32": 20.0, "int8": 19.71, "bfloat16": 19.69}
    own.bleu = lambda mode, options, compute_type: bleu[compute_type]
    assert own.check(Row("tiny", "nar", 1, "int8")) == {"bleu": 19.71, "bleu_float32": 20.0}
    with pytest.raises(gate.Wrong, match="BLEU in bfloat16 must be within 0.3 of float32's 20.00, got 19.69"):
        own.check(Row("tiny", "nar", 1, "bfloat16"))


def test_what_slimt_says_behind_the_same_words_is_mostly_the_same():
    same = [7] * OUTPUT
    expected = [[same]] * len(sum(dataclasses.replace(STUDENT, batch=32).calls, []))
    for found, share in (([7] * 9 + [8] * 16, 0.9), ([7] * 8 + [8] * 17, 0.889)):
        own = gate.Gate(FakeModels({"reference": expected, "slimt": [[found]] * len(expected)}), threads=1)
        if share == 0.9:
            own.check_peer("slimt", STUDENT)
        else:
            with pytest.raises(gate.Wrong, match=f"at least 0.9 must be those of the reference path, got {share}"):
                own.check_peer("slimt", STUDENT)
    assert gate.alike([(same, same), (same, [8] * OUTPUT)]) == OUTPUT / (OUTPUT + 1)


@pytest.mark.parametrize("outputs", [[[[7] * (OUTPUT - 1)]] * 4, [[[7] * OUTPUT]] * 3])
def test_outputs_of_another_length_are_not_timed(outputs):
    process = FakeModels({"janus_fast": outputs}).start("janus_fast", ROW)
    with pytest.raises(gate.Wrong, match="outputs must be one of 25 tokens a source"):
        gate.Gate(process, threads=1).first_decode("janus_fast", ROW, process)


class TimedModels(FakeModels):
    """Takes a second a batch with a team of threads, 0.8 seconds with two workers; has no more than two."""

    def start(self, name, row, **setting):
        self.stopped = getattr(self, "stopped", [])
        if setting["inter_threads"] > 2:
            raise Refusal("fake: no more than two workers")
        process = TimedModels(self.answers)
        process.setting, process.facts, process.stopped = setting, {"version": "1"}, self.stopped
        process.started = [(name, setting)]
        return process

    def __exit__(self, *_):
        self.stopped.append(self.setting["inter_threads"])

    def seconds(self):
        return 2.0 if self.setting["inter_threads"] == 1 else 1.6


def test_a_decoder_runs_at_the_best_of_its_settings():
    row, fake = Row("tiny", "ar", 2, "float32"), TimedModels({"janus_fast": [[[7] * OUTPUT]] * 4})
    with ExitStack() as stack:
        timed = contender.Contender("janus_fast", row, fake, gate.Gate(fake, 2), 2, stack)
        assert fake.stopped == [1]
        record = timed.record([*timed.turn(), *timed.turn()])
    assert fake.stopped == [1, 2]
    assert record["tried"] == {"1 x 2 threads": 1.0, "2 x 1 threads": 0.8}
    assert (record["seconds"], record["runs"], record["inter_threads"], record["version"]) == (0.8, 2, 2, "1")
    with ExitStack() as stack:  # a setting that a decoder has not is none of its best
        assert contender.Contender("janus_fast", row, fake, gate.Gate(fake, 3), 3, stack).setting["inter_threads"] == 1


def test_floors_count_what_a_decode_needs():
    # tiny: C 32, F 64, 2 layers, V 300
    lengths, c, f, v, n = [20, 30], 32, 64, 300, 50
    encoder = 2 * (4 * c * c + 2 * c * f) + 2 * 2 * c * c  # layers; keys and values of the source
    decoder = 2 * (6 * c * c + 2 * c * f) + v * c
    own, source = 2 * c * (20**2 + 30**2) * 2, 2 * c * n * 2  # of both layers; for each step of a source

    def count(**changes):
        stages = floors.stages(Row("tiny", **{"mode": "ar", "batch": 2, "compute_type": "int8", **changes}), lengths)
        return sum(s.weights for s in stages), sum(s.products for s in stages)

    steps = sum(2 * c * 2 * 2 * (t + 1) for t in range(OUTPUT)) + OUTPUT * source  # attention of two rows
    greedy = encoder * n + own + decoder * OUTPUT * 2 + steps
    assert count(streams=1) == (encoder + OUTPUT * decoder, greedy)
    # the other stream adds queries, attention and feed-forward of two rows in the first of two layers
    twice = OUTPUT * 2 * (4 * c * c + 2 * c * f) + steps // 2
    assert count(streams=2) == (encoder + OUTPUT * decoder, greedy + twice)
    # five rows a source after the first step
    wider = 4 * (OUTPUT - 1) * 2 * decoder + 4 * (steps - 2 * c * 2 * 2 - source)
    assert count(streams=1, beam_size=5) == (encoder + OUTPUT * decoder, greedy + wider)
    # all 27 rows of a canvas, but the last layer from queries on and the vocabulary: 25 masked ones, then 12
    rows, masked = 2 * 27 * 2, 2 * (25 + 12)
    through, last = 6 * c * c + 2 * c * f, 2 * c * c
    products = rows * through + rows * last + masked * (through - last) + masked * v * c
    attention = (2 * c * 27 * 27 * 2 + 2 * c * n * 27) * (2 + masked / 54)
    assert count(mode="nar", iterations=2) == (encoder + 2 * decoder, encoder * n + own + products + attention)


def test_a_floor_is_the_longer_of_reading_and_computing_stage_by_stage():
    row = Row("tiny", "ar", 1, "int8_bfloat16", streams=1)
    stages = [floors.stages(row, [len(source)]) for call in row.calls for source in call]
    weights = sum(s.weights * floors.BYTES[s.type] for s in stages[0])
    products = [sum(s.products for s in run if s.type == name) for run in stages for name in ("int8", "bfloat16")]

    reading = floors.floor(row, lambda size: 1e3, lambda name: math.inf)
    assert reading["seconds"] == pytest.approx(weights / 1e3)
    computing = floors.floor(row, lambda size: math.inf, lambda name: {"int8": 1e6, "bfloat16": 5e5}[name])
    assert computing["seconds"] == pytest.approx(2 * (sum(products[::2]) / 1e6 + sum(products[1::2]) / 5e5) / 4)
    both = floors.floor(row, lambda size: 1e3, lambda name: 1e4)
    assert max(both["seconds_reading"], both["seconds_computing"]) < both["seconds"]
    assert both["seconds"] < both["seconds_reading"] + both["seconds_computing"]
    assert both["weight_bytes"]["decoder"] == 2 * (6 * 32 * 32 + 2 * 32 * 64) + 300 * 32 * 2


@needs_engine
def test_the_machine_s_limits_are_measured():
    bandwidth, peak = floors.limits(1)
    assert 1e8 < peak("float32") and 1e8 < bandwidth(1 << 16)
    assert peak("float32") == peak("float32")  # once a run
    for call, message in (
        (lambda: peak("float16"), "peak: type must be float32, bfloat16 or int8, got float16"),
        (lambda: bandwidth(1), "read_bandwidth: bytes must be at least a cache line a thread, got 1"),
        (lambda: floors.limits(0)[1]("int8"), r"peak: threads must be in \[1, 1024\], got 0"),
        (lambda: floors.limits(1025)[1]("int8"), r"peak: threads must be in \[1, 1024\], got 1025"),
        (lambda: floors.limits(1 << 20)[0](1 << 30), r"read_bandwidth: threads must be in \[1, 1024\], got 1048576"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_sources_are_as_long_as_stated():
    lengths = [len(source) for source in sources(CONFIGURATIONS["tiny"], 200)]
    assert (min(lengths), max(lengths)) == (20, 30) and lengths == sorted(lengths, reverse=True)
    assert work("ctranslate2", Row("tiny", "nar", 1, "int8")) == Row("tiny", "ar", 1, "int8", streams=1)
    (call,), (texts,) = STUDENT.calls, STUDENT.texts
    assert [[*map(int, text.split()), 2] for text in texts] == call and {*map(len, call)} == {OUTPUT}


@needs_engine
def test_memory_is_counted_above_an_idle_interpreter(tmp_path):
    record = memory.measure(Models(tmp_path, "engine"), Row("tiny", "nar", 2, "int8"), threads=1)
    assert 0 < record["weights_bytes"] < record["peak_bytes"] < 100 * 2**20
    assert 2**20 < record["idle_bytes"] and record["resident_bytes"] <= record["peak_bytes"]
    assert "tiny, int8, 4 passes, batch 2: peak" in memory.line(record)


def test_two_processes_share_out_a_model():
    job = {"config": "tiny", "dtype": "float32", "checkpoint_activations": True, "updates": 1, "way": "fsdp"}
    record = sharing.measure(job)
    assert record["seconds"] > 0 and 0 < record["resident"] <= record["peak"] <= record["saving_peak"]
    assert sharing.line("fsdp", record).startswith(f"fsdp: {record['seconds']:.2f} s; parameters 0 MiB; resident")


@needs_engine
@pytest.mark.parametrize("leak", [0, 2**20])
def test_a_soak_fails_when_memory_grows(leak, monkeypatch, capsys):
    monkeypatch.setattr(soak, "MOST", 2)
    held = iter(range(0, 1000 * leak, leak) if leak else [0] * 1000)
    monkeypatch.setattr(soak, "resident", lambda: next(held))
    assert soak.main(["--minutes", "0", "--threads", "1"]) == (leak > 0)
    said = capsys.readouterr()
    assert said.out.startswith("10 requests")
    assert ("soak: memory must grow by at most 4 MiB, got +9.0 MiB" in said.err) == (leak > 0)


# Training steps


class Here:
    """A process's job in this one, which has torch already."""

    def __init__(self, module, job, environment=None):
        self.step, self.facts = import_module(module).prepare(job)

    def seconds(self):
        began = time.perf_counter()
        self.step()
        return time.perf_counter() - began

    def peak_bytes(self):
        return resident(field="VmHWM")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        del self.step


@pytest.fixture
def torch_as_it_was():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def test_a_training_step_is_right_and_measured(monkeypatch, torch_as_it_was, capsys):
    monkeypatch.setattr(training, "Process", Here)
    assert (
        training.main(["--config", "tiny", "--dtype", "bfloat16", "--rounds", "1", "--threads", "1", "--json", "-"])
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert 0 < record["gate"]["share_of_allowed"] <= 1
    assert record["seconds"] > 0 and record["eager_seconds"] > 0 and record["peak_bytes"] > 0
    assert record["eager_peak_bytes"] > 0 and {"processor", "torch", "commit"} <= set(record["machine"])
    kinds = training.by_kind(record["profile"])
    assert {"matrix products", "attention", "joint loss", "dropout and residuals"} <= set(kinds)
    shown = training.markdown({"machine": record["machine"], "records": [record]})
    assert "| bfloat16 |" in shown and "| joint loss |" in shown


def test_a_training_step_of_wrong_gradients_is_not_timed(monkeypatch, capsys):
    truth = {"relu": torch.tensor(2.0)}, {"layers.0.weight": torch.ones(3), "layers.1.weight": torch.ones(3)}
    near = {"relu": torch.tensor(2.0001)}, {name: t + 1e-4 for name, t in truth[1].items()}
    wrong = truth[0], {**near[1], "layers.1.weight": torch.tensor([1.0, 1.0, 1.1])}
    results = {("eager", "float64"): truth, ("eager", "float32"): near, ("janus_fast", "float32"): wrong}

    @contextmanager
    def process(module, job, environment=None):
        torch.save(results[job["name"], job["dtype"]], job["results"])  # nothing else may be started
        yield

    monkeypatch.setattr(training, "Process", process)
    assert training.main(["--config", "tiny", "--dtype", "float32", "--json", "-"]) == 1
    said = capsys.readouterr()
    assert "seconds" not in json.loads(said.out)
    assert "WRONG: janus_fast: gradient of layers.*.weight must be as near to the truth as allowed" in said.err
    results["janus_fast", "float32"] = near
    assert training.gate({"config": "tiny"}, "float32")[1] is None
    results["janus_fast", "float32"] = {"relu": torch.tensor(2.1)}, near[1]
    assert "loss with relu must be as near" in training.gate({"config": "tiny"}, "float32")[1]
    # What one of them leaves out is not compared with its layers alone.
    results["janus_fast", "float32"] = near[0], {"layers.1.weight": near[1]["layers.1.weight"]}
    assert training.gate({"config": "tiny"}, "float32")[1].endswith("differ in ['layers.0.weight']")


def test_a_step_is_timed_in_what_training_takes_it_in(monkeypatch, torch_as_it_was):
    """Whatever settles what becomes of freed memory lasts as long as the step can be taken."""
    from benchmarks.peers import training as contenders

    kept = []

    @contextmanager
    def freed_memory(*, kept: bool, log=kept):
        log.append(kept)
        try:
            yield True
        finally:
            log.append("ended")

    monkeypatch.setattr("janus_fast.training.trainer.freed_memory", freed_memory)
    job = {"name": "janus_fast", "config": "tiny", "dropout": 0.0, "dtype": "float32", "threads": 1, "results": None}
    step, _ = contenders.prepare({**job, "profile": False})
    gc.collect()
    step()
    assert kept == [True]
    del step
    gc.collect()
    assert kept == [True, "ended"]


@pytest.mark.parametrize(
    "module, argv, message",
    [
        (joint_loss, ["--channels", "64"], "--results must say where a table with other --channels goes"),
        (joint_loss, ["--rows", "0"], "argument --rows: must be a positive integer, got 0"),
        (training, ["--config", "tiny"], "--results must say where a table with other --config or --dropout goes"),
        (training, ["--dropout", "0"], "--results must say where a table with other --config or --dropout goes"),
    ],
)
def test_what_would_replace_the_usual_table_is_refused(module, argv, message, capsys):
    with pytest.raises(SystemExit):
        module.main(argv)
    assert message in capsys.readouterr().err


def test_a_mistake_is_one_line_whatever_the_topic(monkeypatch):
    monkeypatch.delenv("JANUS_FAST_DEBUG", raising=False)
    with pytest.raises(
        SystemExit, match=r"benchmarks: error: model must be .*, got 'nobody' \(JANUS_FAST_DEBUG=1 shows"
    ):
        __main__.main(["speculative", "--model", "nobody", "--limit", "1", "--batch", "1"])
    monkeypatch.setenv("JANUS_FAST_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match="model must be .*, got 'nobody'"):
        __main__.main(["speculative", "--model", "nobody", "--limit", "1", "--batch", "1"])
