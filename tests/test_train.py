"""``janus-fast train``: what it begins with, what it says, how it goes on, and what it ends in."""

import argparse
import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil

import pytest
import sentencepiece
import test_cli
import torch
from test_cli import SHORT, run

import janus_fast
from janus_fast import checkpoint, cli, demo, installation, models
from janus_fast.commands import _settings, train
from janus_fast.commands._start import run_before
from janus_fast.config import JanusConfig
from janus_fast.data import test_set
from janus_fast.decoding.modes import MODES, options_of, validated
from janus_fast.holding import holding
from janus_fast.model import JanusModel
from janus_fast.objectives import OBJECTIVES
from janus_fast.text import Vocabulary
from janus_fast.training.options import TrainingOptions
from janus_fast.training.validation import Validation

model = test_cli.model
SIZES = "--d-model 16 --encoder-layers 1 --decoder-layers 1 --attention-heads 2 --encoder-ffn-dim 16 " \
        "--decoder-ffn-dim 16 --vocabulary-size 300 --max-target-positions 64".split()  # fmt: skip
SCHEDULE = "--max-tokens 400 --warmup-updates 2 --decay-updates 0 --save-interval 2 --validate-interval 2 " \
           "--log-interval 1".split()  # fmt: skip


@pytest.fixture
def parallel(tmp_path):
    """A folder as ``janus-fast corpus`` prepares one."""
    for language, side in zip(("en", "de"), test_set(), strict=True):
        (tmp_path / f"train.{language}").write_text("\n".join(side[:200]) + "\n", encoding="utf-8")
        (tmp_path / f"valid.{language}").write_text("\n".join(side[200:210]) + "\n", encoding="utf-8")
    return tmp_path


def assert_same_weights(first, second, atol: float) -> None:
    one, other = (checkpoint.read_tensors(f"{directory}/model.safetensors") for directory in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=atol)


def test_train_resume_translate(parallel, tmp_path, capsys):
    drafts = ["--draft-weight", 0.5, "--draft-length", 4, "--suffix-share", 0.3, "--tail-decay", 4]
    data = ["--data", parallel, *SIZES, *SCHEDULE, *drafts]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run("train", "--out", straight, *data, "--max-updates", 6)
    said = capsys.readouterr().err
    # a line at once, and none more in the next minute but for validation and the end
    assert re.search(r"^update 1  loss \d+\.\d\d  rate \d\.\de-\d\d  [\d,]+ predictions/s$", said, re.M)
    assert re.search(r"^update 6  loss \d+\.\d\d  rate ", said, re.M)
    assert said.count("  loss ") == 2 and "batches of 400 tokens\n" in said and "no validation text" not in said
    assert "warning: " not in said
    assert re.search(r"^update 6  validation loss \d+\.\d\d  bleu_ar \d+\.\d\d  bleu_nar \d+\.\d\d$", said, re.M)
    run("train", "--out", resumed, *data, "--max-updates", 4)
    run("train", "--out", resumed, *data, "--max-updates", 6)
    assert "going on from update 4" in capsys.readouterr().err
    weights = [
        checkpoint.read_tensors(out / "checkpoints" / "00000006" / "model.safetensors") for out in (straight, resumed)
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    records = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [r["update"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "bleu_ar", "bleu_nar"} <= set(records[-1]) and records[-1]["kind"] == "valid"
    assert all({"ar_nll", "nar_nll", "draft_nll"} <= set(record) for record in records)

    versions = json.loads((straight / "train.json").read_text())["versions"]
    assert versions == {
        "janus_fast": janus_fast.__version__, "torch": torch.__version__, "sentencepiece": sentencepiece.__version__
    }  # fmt: skip
    assert run("translate", straight, parallel / "valid.en", *SHORT, capsys=capsys).count("\n") == 10


def test_a_run_that_was_cut_ends_in_the_model_of_one_that_was_not(parallel, tmp_path):
    files = ["--source", parallel / "train.en", "--target", parallel / "train.de"]
    command = [*files, *SIZES, *SCHEDULE, "--keep", 2]
    run("train", "--out", tmp_path / "whole", *command, "--max-updates", 6)
    run("train", "--out", tmp_path / "parts", *command, "--max-updates", 5)
    run("train", "--out", tmp_path / "parts", *command, "--max-updates", 6)
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize("average, validates", [
    ("best", True), ("always", True), ("never", True), ("best", False),
])  # fmt: skip
@pytest.mark.parametrize("sign", (1, -1))
def test_a_run_ends_in_the_better_of_its_last_checkpoint_and_the_mean(
    average, validates, sign, parallel, tmp_path, capsys, monkeypatch
):
    """A loss that grows with one weight, or falls with it, so that one of the two is better by one sign alone."""
    weight = "encoder.embed_tokens.weight"

    def losses(self, model, objective) -> dict[str, float]:
        return {"loss": sign * float(model.state_dict()[weight][7, 0])}

    monkeypatch.setattr(Validation, "losses", losses)
    sides = ("--source", "train.en"), ("--target", "train.de")
    data = ["--data", parallel] if validates else [word for flag, name in sides for word in (flag, parallel / name)]
    command = [*data, *SIZES, *SCHEDULE, "--max-updates", 6, "--average", average, "--valid-sentences", 1]
    run("train", "--out", tmp_path / "out", *command, "--precision", "float32")
    each = [checkpoint.read_tensors(p / "model.safetensors") for p in sorted((tmp_path / "out/checkpoints").iterdir())]
    mean = {name: sum(state[name] for state in each) / 3 for name in each[0]}
    chosen = {"always": True, "never": False}.get(average, not validates)
    if average == "best" and validates:
        chosen = sign * float(mean[weight][7, 0]) <= sign * float(each[-1][weight][7, 0])
    expected = mean if chosen else each[-1]
    for name, tensor in checkpoint.read_tensors(tmp_path / "out/model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name])
    said = capsys.readouterr().err
    assert ("(mean of the last 3 checkpoints" if chosen else "(the last checkpoint") in said
    if average == "best" and validates:
        better, worse = map(float, re.search(r"; validation loss ([-\d.]+), of [a-z 3]+ ([-\d.]+)\)", said).groups())
        assert better <= worse


def test_a_run_goes_on_with_its_way_of_averaging_and_may_validate_losses_alone(parallel, tmp_path, capsys):
    command = ["train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE, "--valid-sentences", 0]
    for options, what in (
        (["--max-updates", 4, "--average", "always"], "mean of the last 2 checkpoints"),
        (["--max-updates", 6], "mean of the last 3 checkpoints"),
        (["--max-updates", 8, "--average", "never"], "the last checkpoint"),
        (["--max-updates", 10], "the last checkpoint"),
    ):
        run(*command, *options)
        said = capsys.readouterr().err
        assert re.search(rf"^janus-fast: update \d+  validation loss \d+\.\d\d  \({what}\)$", said, re.M), said
        assert "bleu" not in said


def test_a_model_directory_as_it_is_when_nobody_validates(parallel, tmp_path):
    files = ["--source", parallel / "train.en", "--target", parallel / "train.de"]
    run("train", "--out", tmp_path / "out", *files, *SIZES, *SCHEDULE, "--max-updates", 1, "--log-interval", 5)
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_folder_of_other_files_is_warned_of(tmp_path, capsys):
    assert run_before(tmp_path, {}, []) is None and capsys.readouterr().err == ""
    (tmp_path / "notes.txt").touch()
    assert run_before(tmp_path, {}, []) is None
    said = f"janus-fast: warning: {tmp_path} holds other files, such as notes.txt; those of this run are written beside"
    assert capsys.readouterr().err.startswith(said)
    (tmp_path / "train.json").touch()  # a run that was ended before its first checkpoint
    assert run_before(tmp_path, {}, []) is None and capsys.readouterr().err == ""


@pytest.mark.parametrize("own", ["config.json", "sentencepiece.model", "source.codes", "metrics.jsonl", "loss.png"])
def test_what_a_run_would_replace_is_left_alone(own, tmp_path):
    (tmp_path / own).write_text("mine")
    with pytest.raises(
        ValueError, match=f"^--out must be a new directory or one with a run .*, whose {own} the run would"
    ):
        run_before(tmp_path, {}, [])
    (tmp_path / "train.json").touch()  # then it is this command's
    assert run_before(tmp_path, {}, []) is None


def test_a_run_does_not_begin_among_its_text(parallel, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    (tmp_path / "link").symlink_to(tmp_path)
    valid = ["--valid-source", parallel / "valid.en", "--valid-target", parallel / "valid.de"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(parallel, elsewhere, ignore=lambda *_: ["link", "elsewhere"])
    train = ["--source", elsewhere / "train.en", "--target", elsewhere / "train.de", *valid]
    for out, text, named in (
        (parallel, ["--data", parallel], "train.en"),
        (tmp_path / "link", ["--data", f"{parallel}/."], "train.en"),
        (parallel, train, "valid.en"),
    ):
        assert cli.main(list(map(str, ["train", "--out", out, *text, *SIZES]))) == 2
        message = (
            f"--out must be a new directory or one with a run to go on with, got {out}, which holds the text {named}"
        )
        assert message in capsys.readouterr().err
    assert sorted(path for path in tmp_path.iterdir() if path.name not in ("link", "elsewhere")) == before


def test_who_began_meanwhile_is_left_alone(parallel, tmp_path, monkeypatch, capsys):
    out, made = tmp_path / "out", train.vocabulary_of_run

    def slowly(*arguments):  # another training begins, and ends
        out.mkdir()
        (out / "train.json").write_text("another's")
        return made(*arguments)

    monkeypatch.setattr(train, "vocabulary_of_run", slowly)
    assert cli.main(["train", "--data", str(parallel), "--out", str(out), *SIZES]) == 2
    assert f"--out must not be what another training has begun meanwhile, got {out}\n" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [("train.json", "another's")]


def test_a_file_system_that_cannot_hold_a_directory_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")  # of NFS, which locks nothing that is open to be read alone

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=f"--out: no other process may write {tmp_path} meanwhile"):
        with holding(tmp_path, "--out"):
            pass


def test_a_finished_model_is_not_trained_over(parallel, model, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(model, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert cli.main(["train", "--out", str(out), "--data", str(parallel), *SIZES]) == 2
    assert f"got {out}, which holds a finished model\n" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--fsdp"], "train: --fsdp must go with several processes, as torchrun starts them, got one"),
        (["--d-model", "0"], "JanusConfig: --d-model must be a positive integer, got 0"),
        (["--keep", "0"], "train: --keep must be an integer of at least 1, got 0"),
        pytest.param(
            ["--device", "cuda"], "train: --device must be usable by this torch, .*, got 'cuda'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_here_is_refused_before_there_is_a_vocabulary(
    options, message, parallel, tmp_path, capsys
):
    assert cli.main(["train", "--out", str(tmp_path / "out"), "--data", str(parallel), *SIZES, *options]) == 2
    assert re.search(f"^janus-fast: error: {message}$", said := capsys.readouterr().err, re.M), said
    assert "vocabulary" not in said and not (tmp_path / "out").exists()


def test_an_objective_says_by_which_options_its_model_decodes(parallel, tmp_path, capsys):
    run("train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE, "--objective", "bang",
        "--max-updates", 1)  # fmt: skip
    assert "in mode nar it was trained for --iterations 1\n" in capsys.readouterr().err


def test_a_model_of_xlnet_is_filled_in_any_order_until_it_is_trained_otherwise(parallel, tmp_path, capsys):
    command = ["--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 2]
    run("train", "--out", tmp_path / "out", *command, "--objective", "xlnet", "--partial-prediction", 1)
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert ["bleu_nar" in record for record in records] == [record["kind"] == "valid" for record in records]
    assert any("bleu_nar" in record for record in records)
    assert "in mode nar it was trained for --order easy_first\n" in capsys.readouterr().err
    config = checkpoint.read_config(tmp_path / "out")
    assert config.permuted and config.trained_modes == ("ar", "nar")
    (tmp_path / "text").write_text("The cell is empty.\n", encoding="utf-8")
    order = ["--mode", "nar", "--order"]
    run("translate", tmp_path / "out", tmp_path / "text", "-o", tmp_path / "said", *order, "right_to_left")
    assert len((tmp_path / "said").read_text().splitlines()) == 1 and "warning" not in capsys.readouterr().err
    assert cli.main(["translate", str(tmp_path / "out"), str(tmp_path / "text"), "--mode", "nar"]) == 2
    assert "--order must be easy_first, left_to_right or right_to_left with a model that was" in capsys.readouterr().err
    run("demo", tmp_path / "out", "--limit", 2, "--passes", 1)
    shown = capsys.readouterr().out
    assert "\nin parallel, last word first" in shown and "in parallel, 4 passes" not in shown and "pass 0  ░░" in shown
    again = without_sizes(parallel, "--init", tmp_path / "out", "--objective", "cmlm")
    run("train", "--out", tmp_path / "again", *again, "--max-updates", 1)
    assert not checkpoint.read_config(tmp_path / "again").permuted


def test_an_ordinary_transformer_is_shown_left_to_right_alone(parallel, tmp_path, capsys):
    options = [*SIZES, *SCHEDULE, "--max-updates", 1, "--no-two-stream", "--objective", "autoregressive"]
    run("train", "--out", tmp_path / "out", "--data", parallel, *options)
    capsys.readouterr()
    run("demo", tmp_path / "out", "--limit", 2)
    shown = capsys.readouterr().out
    assert "in parallel" not in shown and re.search(r"^left to right, greedy( +\d+\.\d){4}$", shown, re.M)


def test_training_goes_on_with_the_same_things_alone(parallel, tmp_path, capsys):
    files = ["train", "--out", tmp_path / "out", "--data", parallel]
    command = [*files, *SIZES, *SCHEDULE, "--objective", "cmlm", "--no-normalize-before"]
    run(*command, "--max-updates", 2)
    said = capsys.readouterr().err
    assert "bleu_ar" not in said and "what it was trained for" not in said
    assert checkpoint.read_config(tmp_path / "out").trained_modes == ("nar",)
    for change, message in (
        (["--vocabulary", "file"], "--vocabulary must be left out, as when the run in .* began, got file"),
        (["--seed", 2], "--seed must be 1, as when the run in .* began, got 2"),
        (["--recipe", "paper"], "--recipe must be left out, as when the run in .* began, got paper"),
        (["--normalize-before"], "--normalize-before must be off, as when the run in .* began, got on"),
        (["--adam-betas", 0.8, 0.9], r"--adam-betas must be \[0.9, 0.98\], as when the run in .*, got \[0.8, 0.9\]"),
        (["--d-model", 32], "--d-model must be 16, as when the run in .* began, got 32"),
        (["--vocabulary-size", 310], "--vocabulary-size must be 300, as when the run in .* began, got 310"),
    ):
        assert cli.main([*map(str, command), *map(str, change)]) == 2
        assert re.search(message, capsys.readouterr().err)
    run(*files, "--max-updates", 4)  # what is not given is as it was
    assert "going on from update 2" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/train.json").read_text())["training"]["max_updates"] == 4
    assert (tmp_path / "out/checkpoints/00000004").exists()
    (parallel / "train.en").write_text((parallel / "train.en").read_text() + "One more.\n")
    assert cli.main([*map(str, command)]) == 2
    assert "must hold the text that the run in" in capsys.readouterr().err


def test_options_that_change_nothing_are_refused_but_a_run_that_has_them_goes_on(parallel, tmp_path, capsys):
    command = ["train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE]
    for options, message in (
        (["--divergence-warmup-updates", 100], "warmup-updates must be left out with --divergence-weight 0, got 100"),
        (["--objective", "cmlm", "--divergence-weight", 3], "--divergence-weight must .* objective 'cmlm', got 3.0"),
        (["--objective", "cmlm", "--divergence-weight", 1], "--divergence-weight must .* objective 'cmlm', got 1.0"),
        (
            ["--objective", "autoregressive", "--masking", "uniform"],
            "masking must be left out .* 'autoregressive', got uniform",
        ),
    ):
        assert cli.main([*map(str, command), *map(str, options)]) == 2
        assert re.search(message, capsys.readouterr().err)
    run(*command, "--max-updates", 1, "--objective", "autoregressive")
    path = tmp_path / "out/train.json"
    settings = json.loads(path.read_text())
    settings["training"] |= {"masking": "uniform", "divergence_weight": 3.0}
    path.write_text(json.dumps(settings))
    run(*command, "--max-updates", 2)


def test_a_run_of_an_older_version_goes_on(parallel, tmp_path, capsys):
    """Which had no recipes and no choice of normalization, and did not write versions down."""
    command = ["train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE]
    run(*command, "--max-updates", 1)
    path = tmp_path / "out/train.json"
    settings = json.loads(path.read_text())
    del settings["versions"], settings["training"]["accumulate"]
    for name in ("recipe", "normalization"):
        del settings["start"][name]
    path.write_text(json.dumps(settings))
    for option, value, rule in (
        ("--recipe", "paper", "left out"), ("--normalization", "identity", "left out"), ("--accumulate", 2, "1")
    ):  # fmt: skip
        assert cli.main([*map(str, command), option, str(value)]) == 2
        assert re.search(rf"{option} must be {rule}, as when .*, got {value}\n", capsys.readouterr().err)
    run(*command, "--max-updates", 2)
    assert "versions" not in json.loads(path.read_text())


def test_settings_that_cannot_be_gone_on_with_are_named(parallel, tmp_path, capsys):
    command = ["train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 1]
    run(*command)
    path = tmp_path / "out/train.json"
    settings = json.loads(path.read_text())
    newer = {**settings, "training": {**settings["training"], "curriculum": 1}}
    wider = {**settings, "model": {**settings["model"], "experts": 1}}
    capsys.readouterr()
    for content, message in (
        (path.read_text()[:30], "be whole, got "), ("{}", "have settings of text, got None"),
        ("[]", "have settings of text, got None"),
        (json.dumps({**settings, "model": 3}), "have settings of model, got 3"),
        (json.dumps(newer), "be of this version or an older one, got the option curriculum"),
        (json.dumps(wider), "be of this version or an older one, got the option experts"),
    ):  # fmt: skip
        path.write_text(content)
        assert cli.main([str(word) for word in command]) == 2
        assert f"error: train: {path} must {message}" in capsys.readouterr().err


def without_sizes(parallel, *options) -> list:
    """A training that changes nothing, so that what it ends in is what it began with."""
    files = ["--source", parallel / "train.en", "--target", parallel / "train.de"]
    return [*files, *SCHEDULE, "--learning-rate", "1e-30", "--weight-decay", "0", *options]


def test_a_model_to_begin_with_brings_its_sizes_and_settings(parallel, tmp_path, model, capsys):
    """Those that no option names, too; and its vocabulary, also when a checkpoint or a run goes on."""
    other, first, second = tmp_path / "other", tmp_path / "first", tmp_path / "second"
    torch.manual_seed(1)
    config = JanusConfig(
        400, 400, d_model=16, encoder_layers=1, decoder_layers=2, attention_heads=2, encoder_ffn_dim=24,
        decoder_ffn_dim=8, max_target_positions=48, length_classes=32, activation="gelu", layer_norm_eps=1e-3,
        scale_embedding=False, normalize_before=True, positions="sinusoidal", dropout=0.25,
    )  # fmt: skip
    vocabularies = janus_fast.load(model)[1]
    checkpoint.save(JanusModel(config), other, vocabularies)
    run("train", "--out", first, *without_sizes(parallel, "--init", other), "--max-updates", 2)
    own = first / "checkpoints/00000002"
    run("train", "--out", second, *without_sizes(parallel, "--init", own), "--max-updates", 2)
    shutil.rmtree(first / "checkpoints")  # a run that goes on has its own
    run("train", "--out", second, *without_sizes(parallel), "--max-updates", 4)
    assert "going on from update 2" in capsys.readouterr().err
    expected = dataclasses.replace(config, trained_modes=("ar", "nar"))
    for directory in (first, second):
        trained, (own, _) = janus_fast.load(directory)
        assert trained.config == expected and own.same_as(vocabularies[0])
        assert_same_weights(other, directory, atol=1e-29)
    same = ["--vocabulary", f"{model}/sentencepiece.model", "--vocabulary-size", 400, "--dropout", 0.1]
    run("train", "--out", tmp_path / "third", *without_sizes(parallel, "--init", other, *same), "--max-updates", 1)
    assert janus_fast.load(tmp_path / "third")[0].config == dataclasses.replace(expected, dropout=0.1)


@pytest.mark.parametrize("options, message", [
    (["--attention-heads", 4], "--attention-heads must be 2, as in the model of --init, got 4"),
    (["--activation", "gelu"], "--activation must be relu, as in the model of --init, got gelu"),
    (["--normalize-before"], "--normalize-before must be off, as in the model of --init, got on"),
    (["--vocabulary-size", 300], "--vocabulary-size must be 400, as in the model of --init, got 300"),
    (["--normalization", "nfkc"], "--normalization must be left out with --init, got nfkc"),
    (["--vocabulary", "OTHER"], "--vocabulary must be left out, or that of --init, got OTHER, another"),
    (["--init", "en-de-smal"], "--init: model must be a model directory or one of .*, got 'en-de-smal'; did you mean "),
    (["--init", "BIAS"], "--init must be a model that can be trained, which Marian's cannot be, got BIAS"),
    (["--init", "ONE"], "--objective must be autoregressive or bart or r_drop for a model of one stream, got janus"),
    (["--init", "ONE", "--two-stream"], "--two-stream must be off, as in the model of --init, got on"),
    (["--init", "ONE", "--objective", "cmlm"], "--objective must be autoregressive or bart or r_drop .*, got cmlm"),
    (["--init", "BARE"], "--init must have its vocabulary beside it or go with --vocabulary, got BARE"),
    (["--init", "BARE", "--vocabulary", "SMALL"],
     r"the vocabulary of --init must have \(400, 400\) tokens, source and target, got \(300, 300\)"),
])  # fmt: skip
def test_what_contradicts_the_model_to_begin_with_is_refused(options, message, parallel, tmp_path, model, capsys):
    out, bare = tmp_path / "out", tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("sentencepiece.model"))
    Vocabulary.train([parallel / "train.de"], 400).save(tmp_path, "OTHER")
    Vocabulary.train([parallel / "train.de"], 300).save(tmp_path, "SMALL")
    names = {"BARE": bare, "OTHER": tmp_path / "OTHER.model", "SMALL": tmp_path / "SMALL.model"}
    for name, changed in ("ONE", {"two_stream": False}), ("BIAS", {"output_bias": True}):
        names[name] = shutil.copytree(model, tmp_path / name)
        settings = json.loads((names[name] / "config.json").read_text())
        (names[name] / "config.json").write_text(json.dumps({**settings, **changed}))
    options = [names.get(option, option) for option in options]
    command = ["train", "--out", out, *without_sizes(parallel, "--init", model, *options), "--max-updates", 1]
    assert cli.main([str(word) for word in command]) == 2
    for name, path in names.items():
        message = message.replace(f"got {name}", f"got {path}")
    said = capsys.readouterr().err
    assert re.search(f"error: {message}", said) and not out.exists(), said


def test_a_shipped_model_can_be_begun_with(parallel, tmp_path, capsys):
    out, link = tmp_path / "out", tmp_path / "link"
    link.symlink_to(models.locate("en-de-small"))
    run("train", "--out", out, *without_sizes(parallel, "--init", link), "--max-updates", 1)
    assert janus_fast.load(out)[0].config == janus_fast.load("en-de-small")[0].config
    goes_on = ["train", "--out", out, *without_sizes(parallel, "--init", "en-de-small"), "--max-updates", 2]
    run(*goes_on)  # another name of the same model
    assert "going on from update 1" in capsys.readouterr().err
    link.unlink()
    assert cli.main([str(word) for word in goes_on]) == 2  # what it was cannot be told
    assert f"--init must be {link}, as when the run in" in capsys.readouterr().err


def test_what_normalization_takes_away_is_said(parallel, tmp_path, capsys):
    for side in ("en", "de"):
        path = parallel / f"train.{side}"
        path.write_text(path.read_text() + "Area: 12 m²\u00a0… wide\u200b\n" * 3)
    for option, kept in (([], False), (["--normalization", "identity"], True)):
        out = tmp_path / f"kept {kept}"
        run("train", "--out", out, "--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 1, *option)
        said = capsys.readouterr().err
        lost = "U+00A0 ² U+200B …"
        message = f"normalization nmt_nfkc replaces {lost} in the target text; --normalization identity keeps them"
        assert (message in said) != kept and ("replaces" in said) != kept
        vocabulary = Vocabulary.read(out, "sentencepiece")
        expected = "12 m²\u00a0…" if kept else "12 m2 ..."
        assert vocabulary.decode(vocabulary.encode("12 m²\u00a0…")) == expected
    with pytest.raises(ValueError, match="Vocabulary: normalization must be one of .*, got 'nfd'"):
        Vocabulary.train([parallel / "train.en"], 300, normalization="nfd")


def test_a_recipe_fits_the_machine_and_stays_that_of_the_run(parallel, tmp_path, monkeypatch, capsys):
    """What nobody gives is the recipe's; a run keeps the batches that suited the machine it began on."""
    files = ["train", "--data", parallel, *SIZES, "--precision", "float32", "--log-interval", 100]

    def settings(out, threads, *options):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        run(*files, "--out", tmp_path / out, "--valid-sentences", 1, *options)
        return {**(record := json.loads((tmp_path / out / "train.json").read_text()))["model"], **record["training"]}

    small = settings("small", 2, "--max-updates", 1)
    assert "batches of 2,048 tokens, for 2 threads and width 16 (--max-tokens)\n" in capsys.readouterr().err
    assert (small["masking"], small["without_auxiliary"], small["divergence_weight"]) == ("uniform", True, 0.0)
    assert small["normalize_before"] and small["max_tokens"] == 2048 and small["learning_rate"] == 6e-4
    assert settings("small", 1, "--max-updates", 2)["max_tokens"] == 2048
    assert "batches of 2,048 tokens\n" in capsys.readouterr().err
    paper = settings("paper", 1, "--recipe", "paper", "--max-updates", 1)
    assert "batches of 4,096 tokens\n" in capsys.readouterr().err
    defaults = dataclasses.asdict(TrainingOptions(max_updates=1, precision="float32", log_interval=100))
    assert {name: paper[name] for name in defaults} == {
        **defaults,
        "adam_betas": [0.9, 0.98],
        "source_mask_ratio": [0.1, 0.2],
    }
    assert not paper["normalize_before"] and paper["d_model"] == 16
    named = settings("named", 1, "--max-updates", 1, "--objective", "cmlm", "--max-tokens", 300)
    assert not named["without_auxiliary"] and named["masking"] == "uniform" and named["max_tokens"] == 300
    assert named["divergence_weight"] == 1.0
    alone = settings("alone", 1, "--max-updates", 1, "--objective", "autoregressive")
    assert alone["masking"] is None


@pytest.mark.parametrize("threads, width, device, tokens", [
    (1, 256, "cpu", 1024), (1, 64, "cpu", 1024), (2, 256, "cpu", 2048), (8, 256, "cpu", 4096), (2, 512, "cpu", 1024),
    (4, 1024, "cpu", 1024), (1, 512, "cuda", 4096),
])  # fmt: skip
def test_how_many_tokens_keep_a_machine_busy(threads, width, device, tokens):
    assert _settings.batch_tokens(threads, width, device) == tokens


def test_schedules_of_the_small_recipe_are_shares_of_the_updates():
    parser = argparse.ArgumentParser()
    _settings.add_arguments(parser)

    def settings(*options):
        found = _settings.training_settings(parser.parse_args(options), None, 1, 256)
        return tuple(found[name] for name in ("max_updates", "warmup_updates", "decay_updates"))

    assert settings() == (20_000, 1000, 4000) and settings("--max-updates", "10") == (10, 1, 2)
    assert settings("--max-updates", "100", "--warmup-updates", "50") == (100, 50, 20)


def test_training_without_kernels_is_warned_of_once(parallel, tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(installation, "operations_missing", lambda: "nothing is built")
    files = ["--source", parallel / "train.en", "--target", parallel / "train.de"]
    run("train", "--out", tmp_path / "out", *files, "--init", model, *SCHEDULE, "--max-updates", 1)
    assert capsys.readouterr().err.count(f"janus-fast: warning: {installation.slow()}\n") == 1


def test_pairs_that_are_left_out_are_counted(parallel, tmp_path, model, capsys):
    with open(parallel / "train.en", "a") as source, open(parallel / "train.de", "a") as target:
        source.write("One.\n\nThree.\n")
        target.write("\nZwei.\n" + "Drei " * 50 + "\n")
    run("train", "--out", tmp_path / "out", *without_sizes(parallel, "--init", model), "--max-updates", 1)
    said = capsys.readouterr().err
    found = re.search(r"(\d+) pairs are left out: 2 empty on a side, (\d+) longer than 256 or 48 tokens\n", said)
    assert int(found[1]) == 2 + int(found[2]) and int(found[2]) >= 1


def test_a_vocabulary_whose_size_nobody_named_fits_the_text(parallel, tmp_path, capsys):
    sizes = [word for pair in zip(SIZES[::2], SIZES[1::2], strict=True) if "vocab" not in pair[0] for word in pair]
    files = ["--source", str(parallel / "valid.en"), "--target", str(parallel / "valid.de")]
    command = ["train", *files, *sizes, *SCHEDULE, "--max-updates", "1"]
    run(*command, "--out", tmp_path / "out")
    said = capsys.readouterr().err
    most = int(re.search(r"pieces for (\d+) tokens, and its vocabulary is of that size", said)[1])
    assert janus_fast.load(tmp_path / "out")[0].config.target_vocab_size == most
    for size, rule in ((most + 1, f"at most {most} for"), (20, r"at least \d+ for the characters of")):
        assert cli.main([*command, "--vocabulary-size", str(size), "--out", str(tmp_path / "new")]) == 2
        message = rf"error: Vocabulary: --vocabulary-size must be {rule} this text, got {size}\n$"
        assert re.search(message, capsys.readouterr().err)
    run(*command, "--vocabulary-size", most, "--out", tmp_path / "new")
    with pytest.raises(ValueError, match="Vocabulary: files must hold text, got none"):
        Vocabulary.train([os.devnull])


@pytest.mark.parametrize("drawn", [True, False])
def test_a_run_ends_with_a_picture_of_its_losses(parallel, tmp_path, drawn, monkeypatch, capsys):
    if not drawn:
        monkeypatch.setattr(train, "find_spec", lambda name: None)
    out = tmp_path / "out"
    run("train", "--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 2, "--out", out)
    assert (f"its losses are drawn in {out / 'loss.png'}" in capsys.readouterr().err) == drawn
    assert (out / "loss.png").exists() == drawn
    if drawn:
        assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name, options", [
    *((name, {}) for name in OBJECTIVES), ("xlnet", {"partial_prediction": 1}), ("janus", {"draft_weight": 1.0}),
])  # fmt: skip
def test_a_model_of_every_objective_is_shown_and_validated_by_what_it_can(name, options):
    """In every mode, whether it was trained for that or not."""
    config = OBJECTIVES[name](JanusConfig(40, 40), **options).config
    objective, asked = OBJECTIVES[name](config, **options), demo.configurations(config)
    asked += [("validated", mode, validated(mode, objective.validated)) for mode in MODES]
    asked = [(mode, own) for _, mode, own in asked if own is not None]
    assert {mode for mode, _ in asked} == {"ar", "nar", "speculative"}
    for mode, own in asked:
        assert options_of(mode, own, config).longest(config) >= 255


def test_in_parallel_models_are_validated_without_what_they_think_left_to_right():
    config = JanusConfig(40, 40)
    expected = {"bang": {"iterations": 1}, "janus": {"iterations": 4}, "xlnet": {"order": "easy_first"}}
    for name, own in expected.items():
        objective = OBJECTIVES[name](config, **({"partial_prediction": 1} if name == "xlnet" else {}))
        options = options_of("nar", validated("nar", objective.validated), objective.config)
        assert vars(options).items() >= {**own, "rerank": False, "length_beam": 3}.items()
    ordinary = demo.configurations(JanusConfig(40, 40, two_stream=False))
    assert [mode for _, mode, _ in ordinary] == ["ar", "ar", "speculative"]


def test_every_setting_of_a_run_has_a_flag():
    from dataclasses import fields

    assert {name for kind in OBJECTIVES.values() for name in kind.options()} < set(_settings.TRAINING)
    assert {field.name for field in fields(TrainingOptions)} == set(_settings.TRAINING)
    ids_and_sizes = {"source_vocab_size", "target_vocab_size", "share_all_embeddings", "share_decoder_embeddings"}
    ids_and_sizes |= {f"{name}_token_id" for name in ("bos", "pad", "eos", "unk", "mask")}
    fixed = {"scale_embedding", "layer_norm_eps", "position_offset"}
    fixed |= {"output_bias", "source_bos", "decoder_start_token_id"}  # of converted models
    fixed |= {"layernorm_embedding", "add_source_eos", "source_prefix_ids", "source_suffix_ids", "forced_bos_token_id"}
    fixed |= {"suppress_tokens", "alignment_heads", "decoder_autoreg"}
    fixed |= {"trained_modes", "permuted", "streams_ahead"}  # follow from the objective
    assert {field.name for field in fields(JanusConfig)} - ids_and_sizes - fixed == set(_settings.MODEL)
