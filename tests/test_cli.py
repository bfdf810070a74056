"""Every command of ``janus-fast``, on a model that is small and untrained: what it says, not how well."""

import argparse
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import sacrebleu
import torch

import janus_fast
from janus_fast import checkpoint, cli, demo, engine, models
from janus_fast.commands import _decoding
from janus_fast.commands._table import table
from janus_fast.config import JanusConfig
from janus_fast.data import test_set
from janus_fast.decoding.modes import MODES
from janus_fast.inputs import OptionError, listed
from janus_fast.model import JanusModel
from janus_fast.text import Vocabulary

LINES = ["The cell is empty.", "", "A table", "   ", "Insert the first row of the table below the cell.", "Row", ""]
SHORT = ["--max-decoding-length", "6"]
COMMANDS = ["translate", "evaluate", "train", "convert", "shortlist", "corpus", "info", "demo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("cli") / "model"
    directory.mkdir()
    text = directory.parent / "text"
    text.write_text("\n".join(side for pair in zip(*test_set(), strict=True) for side in pair), encoding="utf-8")
    vocabulary = Vocabulary.train([text], 400)
    torch.manual_seed(0)
    config = JanusConfig(
        400, 400, d_model=16, encoder_layers=1, decoder_layers=1, attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_target_positions=48, length_classes=32,
    )  # fmt: skip
    checkpoint.save(JanusModel(config), directory, (vocabulary, vocabulary))
    return str(directory)


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.en"
    path.write_bytes("".join(line + "\n" for line in LINES).encode())
    return str(path)


def run(*arguments, capsys=None) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out if capsys else ""


def process(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "janus_fast", *map(str, arguments)]
    # a test run in the background ignores SIGINT, under nohup SIGHUP, and its children would too
    restore = lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)]  # noqa: E731
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore, **options)


# translate


@pytest.mark.parametrize("options", [["--mode", "ar", "--beam-size", 2, *SHORT], ["--mode", "nar", "--iterations", 2]])
def test_translate_keeps_the_order_and_empty_lines(model, text, options, capsys):
    names = [str(name).lstrip("-").replace("-", "_") for name in options[::2]]
    values = [int(v) if str(v).isdigit() else v for v in options[1::2]]
    translator = janus_fast.Translator(model)
    alone = [translator.translate([line], **dict(zip(names, values, strict=True)))[0].hypotheses[0] for line in LINES]
    assert alone[1] == "" and alone[-1] == "" and alone[0] != ""
    assert run("translate", model, text, "--batch-size", 2, *options, capsys=capsys).split("\n") == [*alone, ""]


def test_translate_reads_standard_input_and_several_files(model, text, tmp_path, monkeypatch, capsys):
    from_file = run("translate", model, text, *SHORT, capsys=capsys)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(LINES[:3]).encode()), encoding="ascii"))
    from_input = run("translate", model, *SHORT, capsys=capsys)  # no line feed behind the last line
    assert from_input.split("\n")[:3] == from_file.split("\n")[:3] and from_input.count("\n") == 3
    output = tmp_path / "out.de"
    assert run("translate", model, text, text, "-o", output, *SHORT, capsys=capsys) == ""
    assert output.read_text(encoding="utf-8") == 2 * from_file


def test_only_a_line_feed_ends_a_line(model, tmp_path, capsys):
    path = tmp_path / "text"
    path.write_bytes("one\u2028two\x0cthree\x1cfour\r\nfive\n".encode())
    assert run("translate", model, path, *SHORT, capsys=capsys).count("\n") == 2


def test_translate_json(model, text, capsys):
    records = run("translate", model, text, "--mode", "nar", "--num-hypotheses", 2, "--json", capsys=capsys)
    records = [json.loads(line) for line in records.splitlines()]
    assert len(records) == len(LINES)
    for line, record in zip(LINES, records, strict=True):
        assert set(record) == {"hypotheses", "scores", "iterations"}
        assert (
            len(record["hypotheses"])
            == len(record["scores"])
            == len(record["iterations"])
            == (2 if line.strip() else 1)
        )
        assert record["scores"] == sorted(record["scores"], reverse=True)


def test_scores_that_are_not_finite_are_null_in_json(model, tmp_path, monkeypatch, capsys):
    text = tmp_path / "line"
    text.write_text("Row\n", encoding="utf-8")
    result = janus_fast.TranslationResult(["a", "b", ""], [-0.5, float("nan"), -float("inf")], iterations=[1, 1, 0])
    results = iter([result])
    monkeypatch.setattr(janus_fast.Translator, "translate_iterable", lambda *a, **k: results)
    shown = run("translate", model, text, "--mode", "nar", "--json", capsys=capsys)
    record = json.loads(shown, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record == {"hypotheses": ["a", "b", ""], "scores": [-0.5, None, None], "iterations": [1, 1, 0]}


def test_long_lines_are_cut_where_that_is_asked(model, tmp_path, capsys):
    path = tmp_path / "text"
    path.write_text("short\n" + "word " * 300 + "\nRow\n")
    shown = run("translate", model, path, "--max-input-length", 254, *SHORT, capsys=capsys)
    vocabulary = janus_fast.load(model)[1][0]
    tokens = vocabulary.encode("word " * 300)[:254]
    short = {"max_decoding_length": 6}
    expected = janus_fast.Translator(model).translate_batch([vocabulary.encode("short"), tokens], **short)
    assert shown.splitlines()[:2] == [vocabulary.decode(result.hypotheses[0]) for result in expected]
    assert shown.count("\n") == 3


def test_options_may_stand_anywhere(model, text, tmp_path, capsys):
    other = tmp_path / "other.en"
    other.write_text("Row\n", encoding="utf-8")
    expected = run("translate", model, text, other, *SHORT, "--beam-size", 1, capsys=capsys)
    for order in ([*SHORT, text, other], [text, *SHORT, other]):
        assert run("translate", model, *order, "--beam-size", 1, capsys=capsys) == expected
        assert run("translate", "--beam-size", 1, model, *order, capsys=capsys) == expected
    with pytest.raises(SystemExit):
        cli.main(["translate", model, "--bogus", text])
    said = f"error: unrecognized arguments: --bogus {text} (see janus-fast translate --help)\n"
    assert capsys.readouterr().err.endswith(said)
    with pytest.raises(SystemExit):
        cli.main(["info", text])
    assert f"error: unrecognized arguments: {text}" in capsys.readouterr().err


def test_interrupted_translation_is_on_disk(model, tmp_path):
    source, output = tmp_path / "many.en", tmp_path / "many.de"
    source.write_text("".join(f"Row {n} of the table\n" for n in range(50_000)), encoding="utf-8")
    with process("translate", model, source, "-o", output, "--batch-size", 2, "--beam-size", 1, *SHORT) as child:
        deadline = time.monotonic() + 120
        while not (output.exists() and output.stat().st_size > 200):
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        error = child.stderr.read()
    assert child.returncode == 130
    finished = output.read_text(encoding="utf-8")
    lines = finished.splitlines()
    assert finished.endswith("\n") and 0 < len(lines) < 50_000
    assert error == f"janus-fast: interrupted: the first {len(lines):,} translations are written\n"
    translator = janus_fast.Translator(model)
    expected = translator.translate([f"Row {n} of the table" for n in range(5)], beam_size=1, max_decoding_length=6)
    assert lines[:5] == [result.hypotheses[0] for result in expected]


def test_a_reader_that_leaves_is_no_error(model, tmp_path):
    source = tmp_path / "many.en"
    source.write_text("A table\n" * 2000, encoding="utf-8")
    with process("translate", model, source, "--batch-size", 1, *SHORT, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline().endswith("\n")
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 141


# evaluate


@pytest.mark.parametrize("mode", ["ar", "nar"])
def test_evaluate_json(model, tmp_path, mode, capsys):
    for name, lines in zip(("source", "reference"), test_set(), strict=True):
        (tmp_path / name).write_text("\n".join(lines[:9]) + "\n", encoding="utf-8")
    files = "--source", tmp_path / "source", "--reference", tmp_path / "reference"
    options = ["--mode", mode, *(SHORT if mode == "ar" else ["--length-beam", "2"])]
    record = json.loads(run("evaluate", model, *files, *options, "--json", capsys=capsys))
    numbers = "bleu", "chrf", "seconds", "sentences_per_second", "tokens_per_second"
    assert all(isinstance(record[name], float) for name in numbers)
    assert record["mode"] == mode and record["sentences"] == 9 and record["tokens"] > 0
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["seconds"], rel=0.05)
    assert record["signatures"] == {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}",
    }
    hypotheses = run("translate", model, tmp_path / "source", *options, capsys=capsys).splitlines()
    assert record["bleu"] == round(sacrebleu.corpus_bleu(hypotheses, [test_set()[1][:9]]).score, 2)
    assert record["chrf"] == round(sacrebleu.corpus_chrf(hypotheses, [test_set()[1][:9]]).score, 2)


def test_evaluate_uses_the_test_set_and_prints_a_table(model, capsys):
    shown = run("evaluate", model, "--limit", 5, "--mode", "nar", "--iterations", 1, capsys=capsys)
    assert "on test set en-de\nmax_batch_size=32 iterations=1 length_beam=3 " in shown
    assert "in parallel" in shown and "nrefs:1" in shown
    record = json.loads(run("evaluate", model, "--limit", 5, "--mode", "nar", "--json", capsys=capsys))
    assert record["sentences"] == 5 and record["data"] == "test set en-de"


def test_evaluate_says_what_was_in_force(model, capsys):
    few = ["--limit", 2, "--json", "--batch-size", 7]
    ar = json.loads(run("evaluate", model, *few, "--beam-size", 2, *SHORT, capsys=capsys))
    nar = json.loads(run("evaluate", model, *few, "--mode", "nar", "--no-adaptive", capsys=capsys))
    assert ar["compute_type"] == nar["compute_type"] == "float32"
    assert ar["options"] == {
        "max_batch_size": 7, "beam_size": 2, "num_hypotheses": 1, "length_penalty": 1.0, "max_decoding_length": 6,
        "min_decoding_length": 1, "no_repeat_ngram_size": 0, "sampling_topk": 1, "sampling_topp": 1.0,
        "sampling_temperature": 1.0, "seed": 0, "patience": 1.0, "coverage_penalty": 0.0, "repetition_penalty": 1.0,
        "disable_unk": False, "use_vmap": False,
    }  # fmt: skip
    assert nar["options"] == {
        "max_batch_size": 7, "iterations": 4, "length_beam": 3, "length_candidates": "window", "score": "tokens",
        "rerank": True, "adaptive": False, "order": "parallel", "remove_repeats": False, "num_hypotheses": 1,
        "use_vmap": False,
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "command, bars", [("evaluate", [""]), ("demo", [label for label, *_ in demo.configurations(JanusConfig(8, 8))])]
)
def test_a_terminal_sees_how_far_a_measurement_is(model, command, bars, terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert cli.main([command, model, "--limit", "3", *(SHORT if command == "evaluate" else ["--passes", "1"])]) == 0
    written = capsys.readouterr().err
    if not terminal:
        assert written == ""
        return
    assert all(re.search(rf"\r{label}:? +0%", written) for label in bars)
    assert re.search(r"\r +\r$", written)  # nothing of it stays


def test_a_perfect_translation_scores_100():
    from janus_fast.evaluate import scores

    references = test_set()[1][:20]
    assert scores(references, references) | {"signatures": None} == {"bleu": 100.0, "chrf": 100.0, "signatures": None}
    with pytest.raises(ValueError, match="references must be as many as the translations, at least one, got 0 for 0"):
        scores([], [])


def test_scores_come_with_sacrebleu_s_bootstrap_interval():
    from janus_fast.evaluate import scores

    references = test_set()[1][:20]
    hypotheses = [*references[:10], *references[9::-1]]
    found, plain = scores(hypotheses, references, resamples=100), scores(hypotheses, references)
    for name, metric in (("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())):
        shown = metric.corpus_score(hypotheses, [references], n_bootstrap=100).format()
        assert f" = {found[name]:.2f} (μ = " in shown and f" ± {found[f'{name}_ci']:.2f})" in shown
        assert found[name] == plain[name] and "|bs:100|seed:12345|" in found["signatures"][name]
    nothing = scores(["x"] * 20, references, resamples=100)
    assert nothing["bleu"] == nothing["bleu_ci"] == 0.0
    short = scores(["one", "two", "x"], ["one", "twelve", "y"], resamples=100)  # some resamples share no n-gram at all
    assert short["chrf"] == round(sacrebleu.corpus_chrf(["one", "two", "x"], [["one", "twelve", "y"]]).score, 2)
    assert short["chrf_ci"] > 1


# convert, info, demo


def test_convert(tmp_path, capsys):
    golden = os.path.join(os.path.dirname(__file__), "data", "golden", "checkpoint")
    dictionaries = ["--source-dict", f"{golden}/dict.en.txt", "--target-dict", f"{golden}/dict.de.txt"]
    out = tmp_path / "model"
    shown = run("convert", f"{golden}/checkpoint_last.pt", *dictionaries, "--out", out, capsys=capsys)
    converted, (source, target) = janus_fast.load(out)
    assert f"{converted.config.target_vocab_size:,} target tokens" in shown
    source_file = tmp_path / "text"
    source_file.write_text(" ".join(source.tokens[5:9]) + "\n", encoding="utf-8")
    words = run("translate", out, source_file, *SHORT, capsys=capsys).split()
    assert words and set(words) <= set(target.tokens)


@pytest.mark.parametrize("quantization, share", [("bfloat16", 0.6), ("int8", 0.65)])
def test_convert_a_model_directory(model, tmp_path, quantization, share, capsys):
    out = tmp_path / "out"
    shown = run("convert", model, "--out", out, "--quantization", quantization, capsys=capsys)
    assert shown == f"{out}: 16,288 parameters, 400 target tokens\n"
    before, after = (os.path.getsize(f"{directory}/model.safetensors") for directory in (model, out))
    assert after < share * before
    assert sorted(os.listdir(out)) == sorted(os.listdir(model))
    checkpoint.save(janus_fast.load(model)[0], tmp_path / "saved", quantization=quantization)
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    new = str(tmp_path / "new")
    assert cli.main(["convert", model, "--out", new, "--source-dict", "dict.txt"]) == 2
    assert "error: --source-dict must be left out with a model directory, got dict.txt" in capsys.readouterr().err
    for part in ("config.json", "model.safetensors"):
        assert cli.main(["convert", f"{model}/{part}", "--out", new]) == 2
        message = f"CHECKPOINT must be a model's directory, {model}, rather than a part of it, got {model}/{part}\n"
        assert message in capsys.readouterr().err


def test_info(capsys, monkeypatch):
    monkeypatch.setattr(models, "names", lambda: ["some-model"])
    record = json.loads(run("info", "--json", capsys=capsys))
    assert record["janus_fast"] == janus_fast.__version__ and torch.__version__.startswith(record["torch"])
    assert record["models"] == ["some-model"] and record["threads"] >= 1 and record["processor"]
    assert record["operations"] == ("cpp" in janus_fast.backends("attention"))
    assert (record["engine"] is None) == (engine.missing() is not None)
    shown = run("info", capsys=capsys)
    assert record["processor"] in shown and "some-model" in shown and f"torch          {record['torch']}" in shown


def test_demo(model, capsys):
    shown = run("demo", model, "--limit", 12, "--passes", 3, "--threads", 2, capsys=capsys)
    assert ", threads: 2, " in shown and "12 sentences that the model has never seen, en-de\n" in shown
    labels = [label for label, _, _ in demo.configurations(JanusConfig(8, 8))]
    assert all(re.search(rf"^{label}( +\d+\.\d){{4}}$", shown, re.M) for label in labels)
    assert "pass 0  ░░" in shown and "\033" not in shown
    *_, drafts = shown.partition("left to right by drafts, pass by pass")
    assert re.search(r"pass 1 +\n  pass 2 +\S+ \[", drafts) and re.search(r"\(\d+ passes for \d+ tokens\)\n$", drafts)
    shown = shown.partition("\nleft to right by drafts, pass")[0]
    sentences = shown.rstrip().split("\n\n")[-5:]  # each with its last pass above the reference
    assert all("░" not in sentence.splitlines()[-2] and "░" in sentence for sentence in sentences)


def test_table():
    lines = table(["name", "size"], [["a", "1,000"], ["long name", "7.5"]]).splitlines()
    assert lines == ["name        size", "─────────  ─────", "a          1,000", "long name    7.5"]


# what goes wrong


def test_an_error_names_options_as_flags_and_leaves_the_value_as_it_is():
    error = OptionError("train: max_tokens", "be at least 2 beside warmup_updates", "max_tokens")
    assert str(error) == "train: max_tokens must be at least 2 beside warmup_updates, got max_tokens"
    said = error.in_flags(["max_tokens", "warmup_updates"])
    assert said == "train: --max-tokens must be at least 2 beside --warmup-updates, got max_tokens"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert OptionError("train: keep", "be kept", 0).in_flags(["keep", "be"]) == "train: --keep must be kept, got 0"
    assert OptionError("iterations", "be 1", 0).in_flags(["iterations"]) == "--iterations must be 1, got 0"
    assert OptionError("corpus: out", "be", 0).in_flags(["keep"]) == "corpus: out must be, got 0"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["translate", "MODEL", "TEXT", "--mode", "nar", "--beam-size", "3"],
         "--beam-size must go with --mode ar, got --mode nar"),
        (["translate", "MODEL", "TEXT", "--iterations", "3"], "--iterations must go with --mode nar, got --mode ar"),
        (["translate", "MODEL", "TEXT", "--num-hypotheses", "2"], "--num-hypotheses must be 1 without --json, got 2"),
        (["translate", "MODEL", "TEXT", "--beam-size", "100000"], "--beam-size must be at most 512, got 100000"),
        (["translate", "MODEL", "TEXT", "--threads", "100000"], "threads must be at most 1024, got 100000"),
        (["translate", "MODEL", "TEXT", "--beam-size", "0"], "--beam-size must be an integer of at least 1, got 0"),
        (["translate", "MODEL", "TEXT", "--sampling-topk", "5"],
         "error: --beam-size must be 1 when --sampling-topk is not 1, got 5"),
        (["translate", "MODEL", "TEXT", "-o", "TEXT"], "--output must be another file than the one that is read"),
        (["translate", "MODEL", "missing.txt"], "FILE must be a file that exists, got missing.txt"),
        (["translate", "MODEL", "beam_size"], "FILE must be a file that exists, got beam_size"),
        (["translate", "MODEL", "TEXT", "--compute-type", "beam_size"], "got 'beam_size'"),
        (["translate", "MODEL", "TEXT", "-o", "missing/out"],
         "--output must be in a folder that exists, got missing/out: there is no folder missing"),
        (["translate", "MODEL", "TEXT", "-o", "LATIN/out"],
         "--output must be in a folder that exists, got LATIN/out: there is no folder LATIN"),
        (["translate", "MODEL", "TEXT", "-o", "."], "--output must be a file, got the folder ."),
        (["translate", "MODEL", "TEXT", "-o", "/dev/full"], "/dev/full: No space left on device"),
        (["translate", "MODEL", "LATIN"], "LATIN must be UTF-8 text"),
        (["translate", "MODEL", "LONG"], "; --max-input-length 254 cuts such lines"),
        (["translate", "MODEL", "TEXT", "--max-input-length", "-1"],
         "--max-input-length must be an integer of at least 0, got -1"),
        (["translate", "MODEL", "TEXT", "--mode", "nar", "--order", "easy_first", "--iterations", "4"],
         "--iterations must be left out with order 'easy_first', which takes a pass for each word, got 4"),
        (["evaluate", "MODEL", "--beam-size", "1", "--sampling-topk", "0", "--patience", "1"],
         "--patience must be left out with sampling, which does not search, got 1"),
        (["translate", "missing", "TEXT"],
         f"must be a model directory or one of {listed(models.names())}, got 'missing'"),
        (["translate", "en-de-smal", "TEXT"], "got 'en-de-smal'; did you mean 'en-de-small'?"),
        (["translate", "BARE", "TEXT"],
         "BARE must hold a vocabulary for tokens and text, got neither sentencepiece.model"),
        (["translate", "BROKEN", "TEXT"], "must be a whole safetensors file"),
        (["translate", "MODEL", "TEXT", "--device", "abacus"], "device must be"),
        (["evaluate", "MODEL", "--source", "TEXT"], "--source and --reference must be given together, got one"),
        (["evaluate", "MODEL", "--source", "TEXT", "--reference", "LONG"],
         "--source and --reference must have the same number of lines, at least one, got 7 and 2"),
        (["evaluate", "MODEL", "--pair", "en-xx"], "pair must be one of 'en-de', got 'en-xx'"),
        (["evaluate", "MODEL", "--source", "TEXT", "--reference", "TEXT", "--pair", "en-de"],
         "--pair must be left out with --source, got en-de"),
        (["train", "--out", "new"],
         "--data, or --source and --target, or --monolingual, must name the text to train on, got none"),
        (["train", "--out", "new", "--source", "TEXT"],
         "--data, or --source and --target, or --monolingual, must name the text to train on, got --source alone"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--pair", "en-de"],
         "--pair must go with --data, got en-de"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "missing"],
         "--target must be a file that exists, got missing"),
        (["train", "--out", "new", "--data", "."], "--data must be a folder with train.en, got ., which has none"),
        (["train", "--out", "new", "--monolingual", "missing"],
         "--monolingual must be a file that exists, got missing"),
        (["train", "--out", "new", "--monolingual", "TEXT", "--valid-monolingual", "missing"],
         "--valid-monolingual must be a file that exists, got missing"),
        (["shortlist", "MODEL", "--source", "missing", "--target", "TEXT"],
         "--source must be a file that exists, got missing"),
        (["shortlist", "MODEL", "--source", "TEXT", "--target", "TEXT", "--alignments", "missing"],
         "--alignments must be a file that exists, got missing"),
        (["evaluate", "MODEL", "--source", "missing", "--reference", "TEXT"],
         "--source must be a file that exists, got missing"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary", "missing"],
         "--vocabulary must be a file that exists, got missing"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary", "TEXT"],
         "--vocabulary must be a sentencepiece model, got another file, "),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary-size", "3"],
         "--vocabulary-size must be an integer of at least 6, got 3"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "LONG", "--vocabulary", "VOCABULARY"],
         "must have the same number of lines, got"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary-size", "99999"],
         "--vocabulary-size must be at"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary", "VOCABULARY",
          "--d-model", "7"], "--d-model must be a multiple of --attention-heads"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--vocabulary", "VOCABULARY",
          "--masking", "all"], "masking must be one of 'span', 'uniform', got 'all'"),
        (["train", "--out", "TEXT", "--source", "TEXT", "--target", "TEXT"], "text.en is a file"),
        (["train", "--out", "LATIN/new", "--source", "TEXT", "--target", "TEXT"],
         "--out must be a directory, got LATIN/new: LATIN is a file"),
        (["convert", "MODEL", "--out", "LATIN/a/b"], "--out must be a directory, got LATIN/a/b: LATIN is a file"),
        (["corpus", "--out", "LATIN/new"], "corpus: out must be a folder that can be written to, got 'LATIN/new'"),
        (["train", "--out", "new", "--source", "TEXT", "--target", "TEXT", "--objective", "januss"],
         "got 'januss'; did you mean 'janus'?"),
        (["evaluate", "MODEL", "--compute-type", "int88"], "got 'int88'; did you mean 'int8'?"),
        (["convert", "TEXT", "--out", "new"],
         "text.en must be a whole file written by torch.save, got a file of another"),
        (["corpus", "--out", "new", "--only", "gitt"], "must be known, got 'gitt'; did you mean 'git'? Known are "),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(arguments, message, model, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JANUS_FAST_DEBUG", raising=False)
    (tmp_path / "LATIN").write_bytes(b"\xe4\xf6\xfc\n")
    (tmp_path / "LONG").write_text("short\n" + "word " * 300 + "\n")
    if "BARE" in arguments:
        shutil.copytree(model, tmp_path / "BARE", ignore=shutil.ignore_patterns("sentencepiece.model"))
    if "BROKEN" in arguments:
        shutil.copytree(model, tmp_path / "BROKEN")
        (tmp_path / "BROKEN" / "model.safetensors").write_bytes(b"half a file")
    arguments = [
        {"MODEL": model, "TEXT": text, "VOCABULARY": f"{model}/sentencepiece.model"}.get(argument, argument)
        for argument in arguments
    ]
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith("janus-fast: error: ") and message in last and "Traceback" not in said.err
    assert ("line 2 must have at most 256 tokens, bos and eos included, got " in last) == ("LONG" in arguments[2:3])
    assert not (tmp_path / "new").exists()
    assert said.out.count("\n") == ("LONG" in arguments[2:3])  # what comes before a line that is too long is done


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "janus-fast: error: the following arguments are required: COMMAND (see janus-fast --help)\n"),
        (["fly"], "argument COMMAND: must be one of 'demo', 'translate', 'evaluate', 'train', "),
        (["translate"], "janus-fast translate: error: the following arguments are required: MODEL"),
        (
            ["trian"],
            "argument COMMAND: must be known, got 'trian'; did you mean 'train'? Known are 'demo', 'translate', ",
        ),
        (
            ["translate", "m", "--mode", "both"],
            "argument --mode: must be one of 'ar', 'nar', 'semi_nar', 'speculative', 'auto', got 'both' (see ",
        ),
        (
            ["translate", "m", "--mode", "nra"],
            "--mode: must be one of 'ar', 'nar', 'semi_nar', 'speculative', 'auto', got 'nra'; did you mean 'nar'? ",
        ),
        (["evaluate", "m", "--backend", "cudda"], "got 'cudda'; did you mean 'cuda'?"),
        (["translate", "m", "--beamsize=9", "x"], "arguments: --beamsize=9 x; did you mean '--beam-size'? (see "),
        (["translate", "m", "--abacus"], "unrecognized arguments: --abacus (see janus-fast translate --help)"),
        (["translate", "m", "--batch-size", "x"], "argument --batch-size: must be an integer, got 'x' (see "),
        (["translate", "m", "--beam-size", "1.5"], "argument --beam-size: must be an integer, got '1.5' (see "),
        (["translate", "m", "--length-penalty", "x"], "argument --length-penalty: must be a number, got 'x' (see "),
        (["train", "--out", "o", "--learning-rate", "x"], "argument --learning-rate: must be a number, got 'x' (see "),
        (["translate", "m", "--batch-size", "0"], "argument --batch-size: must be at least 1, got 0"),
        (
            ["translate", "m", "--inter-threads", "all"],
            "argument --inter-threads: must be 'auto' or an integer of at least 1, got 'all' (see ",
        ),
        (
            ["translate", "m", "--inter-threads", "0"],
            "argument --inter-threads: must be an integer of at least 1, got 0 ",
        ),
        (
            ["translate", "m", "--inter-threads", "2000"],
            "argument --inter-threads: must be at most 1024, got 2000 (see ",
        ),
        (["translate", "m", "--batch-size", str(10**30)], f"--batch-size: must be at most 1000000, got {10**30}"),
    ],
)
def test_a_command_line_that_cannot_be_read(arguments, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert leaving.value.code == 2 and message in error and error.count("\n") == 1


def test_a_fault_of_ours_says_so_and_debug_shows_it(model, text, monkeypatch, capsys):
    monkeypatch.setattr(janus_fast.Translator, "translate_iterable", lambda *a, **k: 1 // 0)
    monkeypatch.delenv("JANUS_FAST_DEBUG", raising=False)
    assert cli.main(["translate", model, text]) == 1
    error = capsys.readouterr().err
    assert error.startswith("janus-fast: a fault of janus-fast itself: ZeroDivisionError: ") and error.count("\n") == 1
    monkeypatch.setenv("JANUS_FAST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["translate", model, text])
    with pytest.raises(FileNotFoundError):
        cli.main(["translate", "missing", text])


def test_help_is_quick_and_complete():
    program = "import sys; from janus_fast.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n" \
              "assert 'torch' not in sys.modules and 'sentencepiece' not in sys.modules"  # fmt: skip
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^ +{command}\b", shown, re.M) for command in COMMANDS)
    for system in ("CTranslate2", "fairseq", "Hugging Face", "Marian", "OpenNMT-py"):
        assert system in " ".join(shown.split()), system


def test_the_package_is_light_and_its_rooms_open_by_name():
    names = """checkpoint.load config.JanusConfig convert.fairseq.load data.test_set decoding.Hypothesis
        evaluate.scores model.JanusModel models.names objectives.OBJECTIVES ops.attention reference.mask_predict
        text.Vocabulary training.Trainer translator.Translator visibility.Visibility""".split()
    program = """import operator, sys, janus_fast
assert not {"torch", "numpy", "sentencepiece"} & sys.modules.keys()
assert set(janus_fast._ROOMS) <= set(dir(janus_fast))
for name in sys.argv[1:]:
    operator.attrgetter(name)(janus_fast)
for room in (janus_fast, janus_fast.convert):
    assert not hasattr(room, "cellar")"""
    subprocess.run([sys.executable, "-c", program, *names], check=True)


def test_help_says_which_modes_have_an_option():
    parser = argparse.ArgumentParser()
    _decoding.add_decoding_arguments(parser)
    groups = {group.title: group for group in parser._action_groups}
    for mode in MODES:
        titles = [title for title in groups if title.startswith("decoding, --mode") and mode in title.split()]
        flags = [action.dest for title in titles for action in groups[title]._group_actions]
        shown = [name for name, field in MODES[mode].fields.items() if field.metadata.get("flag", True)]
        assert sorted(flags) == sorted(shown)
    assert [action.dest for action in groups["decoding"]._group_actions] == ["max_input_length"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert leaving.value.code == 0 and shown.startswith(f"usage: janus-fast {command} ")
