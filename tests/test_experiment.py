"""The experiment, tiny: every arm is trained and evaluated once, what is done is kept, what is missing is said."""

import json
import shutil
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.training import experiment, experiment_report, runs, side_by_side
from benchmarks.training.side_by_side import Job
from janus_fast import Translator, engine, evaluate
from janus_fast.data import test_set
from janus_fast.training.trainer import Trainer

pytestmark = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
TINY = """--d-model 16 --encoder-layers 1 --decoder-layers 1 --encoder-ffn-dim 16 --decoder-ffn-dim 16 --max-tokens 200
    --max-target-positions 60 --valid-sentences 1 --precision float32""".split()


@pytest.fixture
def call(tmp_path):
    """Runs the experiment on 48 sentences and returns its exit status, with what it writes."""
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    for language, lines in zip(("en", "de"), test_set(), strict=True):
        (data / f"train.{language}").write_text("\n".join(lines[-48:]) + "\n", encoding="utf-8")
        (data / f"valid.{language}").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    places = ["--data", str(data), "--out", str(tmp_path / "out"), "--results", str(results)]

    def call(*options, rest=TINY, updates=3, same_updates=True):
        words = [*places, "--updates", str(updates), "--seeds", "1", "--limit", "4", *options]
        words += [*(["--same-updates"] if same_updates else []), "--", *rest]
        status = experiment.main(words)
        return status, json.loads((results / "experiment.json").read_text()) if results.exists() else None

    call.runs, call.results = tmp_path / "out/seed-1", results
    return call


@pytest.fixture
def work(monkeypatch):
    """Counts updates and evaluations."""
    done = {"updates": 0, "evaluations": 0}

    def counted(function, name):
        def call(*arguments, **options):
            done[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(Trainer, "step", counted(Trainer.step, "updates"))
    monkeypatch.setattr(evaluate, "evaluate", counted(evaluate.evaluate, "evaluations"))
    return done


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures after each run take as long as all else."""
    with monkeypatch.context() as patch:
        for name in ("draw", "draw_curves"):
            patch.setattr(experiment_report, name, lambda *arguments: None)
        yield patch


def test_all_arms_are_trained_and_evaluated_once(call, work, capsys, undrawn):
    pytest.importorskip("matplotlib")
    status, part = call("--arms", "cmlm", same_updates=False)
    assert status == 0 and work == {"updates": 9, "evaluations": 3}
    assert [record["arm"] for record in part["records"]] == ["cmlm"]
    assert part["missing"] == [f"{arm}, seed 1" for arm in experiment.ARMS if arm != "cmlm"]
    assert "* janus-two-passes, seed 1\n" in (call.results / "experiment.md").read_text()

    status, whole = call(same_updates=False)
    updates = {arm: 3 * each.pace for arm, each in experiment.ARMS.items()}
    assert status == 0 and work == {"updates": sum(updates.values()), "evaluations": 4 * 1 + 3 + 6 * 6}
    assert [record["arm"] for record in whole["records"]] == list(experiment.ARMS) and whole["missing"] == []
    decodes = dict.fromkeys(("transformer", "autoregressive", "autoregressive-longer", "r_drop"), ["ar"])
    decodes["cmlm"] = ["nar-1", "nar-4", "nar-10"]
    for record in whole["records"]:
        training, evaluations = record["training"], record["evaluations"]
        assert training["update"] == updates[record["arm"]] and training["seconds"] > 0 < training["tokens_seen"]
        assert training["seconds_at_median_pace"] > 0
        assert list(evaluations) == decodes.get(record["arm"], list(experiment.DECODES))
        assert ("paired" in record) == (record["arm"] not in ("autoregressive", "cmlm"))
        assert [each["update"] for each in record["curve"]] == list(range(3, updates[record["arm"]] + 1, 3))
        for each in evaluations.values():
            assert 0 <= each["bleu"] <= 100 and each["bleu_ci"] >= 0 < each["chrf_ci"] and each["sentences"] == 4
            assert "|bs:1000|seed:12345|" in each["signatures"]["bleu"]
            assert "hypotheses" not in each and all(milliseconds > 0 for milliseconds in each["milliseconds"].values())
    tokens = {record["arm"]: record["training"]["tokens_seen"] for record in whole["records"]}
    assert tokens.pop("cmlm") < tokens["janus"]
    seen = {(tokens[arm], updates[arm]) for arm in tokens}  # as many updates, the same sentences
    assert len(seen) == len({updates[arm] for arm in tokens})
    vocabularies = {(call.runs / arm / "sentencepiece.model").read_bytes() for arm in experiment.ARMS}
    assert len(vocabularies) == 1
    text = (call.results / "experiment.md").read_text()
    assert text.count("| cmlm | 1 |") == 5 and "Not done" not in text

    capsys.readouterr()
    undrawn.undo()
    assert call(same_updates=False) == (0, whole) and work == {"updates": sum(updates.values()), "evaluations": 43}
    assert capsys.readouterr().err.count("trained already") == len(experiment.ARMS)
    for picture in ("experiment-passes.png", "experiment-speed.png", "experiment-curves.png"):
        assert (call.results / picture).stat().st_size > 10_000


def test_an_arm_gets_the_options_that_change_something_in_it():
    words = "--masking uniform --divergence-warmup-updates 5 --d-model 16 --divergence-weight=0.5 --keep 2".split()
    janus, cmlm, left_to_right = (runs.Arm(f"--objective {name}") for name in ("janus", "cmlm", "autoregressive"))
    assert runs.effective(words, janus) == words
    assert runs.effective(words, cmlm) == "--masking uniform --d-model 16 --keep 2".split()
    assert runs.effective(words, left_to_right) == "--d-model 16 --keep 2".split()
    without = [*words, "--divergence-weight", "0"]
    assert runs.effective(without, janus) == [*words[:2], *words[4:], *without[-2:]]
    assert runs.effective(["--source-mask-ratio", "0.1", "0.2", *words], janus) == words
    corrupted = [*words, "--poisson-lambda", "2", "--permute-sentences=0"]
    assert runs.effective(corrupted, janus) == words
    assert runs.effective(corrupted, runs.Arm(janus.options, monolingual=True)) == corrupted


def test_the_scores_are_those_of_the_model_at_hand(call, work, undrawn):
    _, before = call("--arms", "cmlm")
    record = before["records"][0]["evaluations"]["nar-4"]
    translator, (sources, references) = Translator(str(call.runs / "cmlm")), (side[:4] for side in test_set())
    results = translator.translate(sources, mode="nar", iterations=4, length_beam=3, adaptive=False, rerank=False)
    expected = evaluate.scores([result.hypotheses[0] for result in results], references)
    assert (record["bleu"], record["chrf"]) == (expected["bleu"], expected["chrf"])
    assert call("--arms", "autoregressive")[0] == 0 and work["evaluations"] == 4
    weights = [call.runs / arm / "model.safetensors" for arm in ("cmlm", "autoregressive")]
    weights[0].write_bytes(weights[1].read_bytes())
    assert call("--arms", "cmlm")[0] == 0 and work == {"updates": 6, "evaluations": 7}


def test_interrupted_it_goes_on(call, work, monkeypatch, capsys, undrawn):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    def interrupt_the_last(trainer, record):
        if trainer.update == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "log", interrupt_the_last)  # behind the last update, before its checkpoint
        assert call("--arms", "cmlm", rest=[*TINY, "--save-interval", "2"]) == (130, None)
    assert "janus-fast: interrupted: run the same command again to go on from update 2" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "milliseconds_per_sentence", interrupt)
        assert call("--arms", "cmlm", rest=[*TINY, "--save-interval", "2"]) == (130, None)
    assert "experiment: interrupted: run the same command again to go on" in capsys.readouterr().err
    status, results = call("--arms", "cmlm", rest=[*TINY, "--save-interval", "2"])
    assert status == 0 and len(results["records"][0]["evaluations"]) == 3
    assert work == {"updates": 3 + 1, "evaluations": 1 + 3}


def test_results_of_another_machine_stay_where_they_are_of_the_same_experiment(call, work, undrawn):
    _, before = call("--arms", "autoregressive")
    shutil.rmtree(call.runs.parent)
    status, both = call("--arms", "r_drop")
    assert status == 0 and work["updates"] == 6 and "r_drop, seed 1" not in both["missing"]
    assert [record["arm"] for record in both["records"]] == ["autoregressive", "r_drop"]
    assert both["records"][0] == before["records"][0]
    shutil.rmtree(call.runs.parent)
    _, other = call("--arms", "r_drop", updates=4)
    assert [record["arm"] for record in other["records"]] == ["r_drop"] and "autoregressive, seed 1" in other["missing"]
    shutil.rmtree(call.runs.parent)
    _, fewer = call("--arms", "cmlm", "--limit", "3", updates=4)  # measured on other sentences
    assert [record["arm"] for record in fewer["records"]] == ["cmlm"] and "r_drop, seed 1" in fewer["missing"]


def test_another_experiment_needs_another_folder(call, work, capsys):
    assert call("--arms", "cmlm")[0] == 0
    assert call("--arms", "cmlm", updates=20)[0] == 2 and work["updates"] == 3
    assert "--warmup-updates must be 1, as when the run in" in capsys.readouterr().err


def test_pictures_show_the_means_over_seeds(tmp_path):
    pytest.importorskip("matplotlib")

    def record(seed):
        decodes = {
            name: {"options": options, "bleu": 10 * number + seed, "milliseconds": {"1": 3 + number, "32": 1 + number}}
            for number, (name, options) in enumerate(experiment.DECODES.items(), 1)
        }
        return {"arm": "janus", "seed": seed, "evaluations": decodes}

    expected = {  # of each panel: beam search, then parallel decoding
        "passes": [([0, 1], [11.5, 11.5]), ([1, 4, 10], [21.5, 31.5, 41.5]), ([4, 10], [51.5, 61.5])],
        "ms a sentence, batch 1": [([4], [11.5]), ([5, 6, 7], [21.5, 31.5, 41.5]), ([8, 9], [51.5, 61.5])],
        "ms a sentence, batch 32": [([2], [11.5]), ([3, 4, 5], [21.5, 31.5, 41.5]), ([6, 7], [51.5, 61.5])],
    }
    for name, panels in experiment_report.PANELS.items():
        figure = experiment_report.draw([record(1), record(2)], panels, tmp_path / f"{name}.png")
        assert [axis.get_xlabel() for axis in figure.axes] == list(panels)
        for axis in figure.axes:
            drawn = [tuple(map(list, line.get_data())) for line in axis.lines]
            assert drawn == expected[axis.get_xlabel()]
            assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 41.5  # all of it is in sight
            assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] > max(drawn[1][0])


def test_the_median_pace_leaves_out_what_stopped_a_training(tmp_path):
    run = runs.Run("cmlm", 1, tmp_path, [], [], {}, 125, {}, test=None)
    seconds = [10, 20, 30, 3000, 3010]  # of 25 updates each, but for a long stop
    lines = [{"update": 25 * n, "seconds": s, "kind": "train"} for n, s in enumerate(seconds, 1)]
    lines.insert(2, {"update": 50, "seconds": 25, "kind": "valid"})
    lines.insert(4, {"update": 75, "seconds": 28, "kind": "train"})  # once more, after an interruption
    lines.insert(5, {"update": 50, "seconds": 29, "kind": "train"})
    lines.insert(6, {"update": 75, "seconds": 39, "kind": "train"})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "training.json").write_text(json.dumps({"update": 125, "seconds": 3010, "of": run._trained_of}))
    assert run.training()["seconds_at_median_pace"] == 50
    (tmp_path / "metrics.jsonl").unlink()
    assert run.training()["seconds_at_median_pace"] == 3010


def test_files_of_a_run_that_hold_something_else_are_named(tmp_path):
    run = runs.Run("cmlm", 1, tmp_path, [], [], {}, 125, {}, test=None)
    (tmp_path / "model.safetensors").touch()
    metrics, training = tmp_path / "metrics.jsonl", tmp_path / "training.json"
    for line in ("{", '{"kind": "train", "update": 1}', "[]"):
        metrics.write_text('{"kind": "valid", "update": 1, "seconds": 2.0}\n' + line)
        rule = "must hold a JSON object with kind and update and seconds a line"
        for read in (run.curve, run._pace):
            with pytest.raises(ValueError) as caught:
                read()
            assert str(caught.value) == f"cmlm, seed 1: {metrics} {rule}, got {line!r} in line 2"
    for text in ("{", "[]"):
        training.write_text(text)
        with pytest.raises(ValueError, match=f"^cmlm, seed 1: {training} must hold a JSON object, got something else$"):
            run.training()


def test_a_run_with_fewer_updates_does_not_count(call, work, capsys):
    rest = [*TINY, "--log-interval", "1", "--max-minutes", "1e-6"]
    assert call("--arms", "cmlm", rest=rest) == (1, None) and work == {"updates": 1, "evaluations": 0}
    said = capsys.readouterr().err
    assert "experiment: cmlm, seed 1: training must make 3 updates to count, got 1" in said


def test_arms_are_trained_side_by_side_in_time(call, work, tmp_path, capsys, undrawn):
    arms = "--arms", "janus-after-ar", "autoregressive", "cmlm", "--jobs", "2"
    assert call(*arms, "--minutes", "0") == (143, None)  # none was begun
    keep = tmp_path / "keep"
    old = keep / "seed-1" / "cmlm" / "training.json"  # of a training before this one
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    status, results = call(*arms, "--keep", str(keep))
    assert status == 0 and work == {"updates": 0, "evaluations": 10}  # updates are made by other processes
    assert [record["arm"] for record in results["records"]] == ["autoregressive", "cmlm", "janus-after-ar"]
    assert "3 trainings, 2 side by side" in capsys.readouterr().err
    assert "update 3  validation loss" in (call.runs / "cmlm.log").read_text()
    for arm in ("autoregressive", "cmlm", "janus-after-ar"):
        for name in ("metrics.jsonl", "training.json"):
            assert (keep / "seed-1" / arm / name).read_bytes() == (call.runs / arm / name).read_bytes()
        weights = load_file(keep / "seed-1" / arm / "model.safetensors")
        assert any(tensor.dtype == np.int8 for tensor in weights.values())
        assert Translator(str(keep / "seed-1" / arm)).translate(
            ["The cell is empty."], mode="ar" if arm != "cmlm" else "nar"
        )
    assert call(*arms)[0] == 0 and work["evaluations"] == 10  # all of it is done


def test_jobs_that_run_when_time_is_up_are_asked_to_end(tmp_path):
    words = ["timeit", "-n", "1", "-r", "1", "import time; print('begun', flush=True); time.sleep(60)"]
    jobs = [Job("long", words, tmp_path / "long.log"), Job("later", words, tmp_path / "later.log", ["long"])]
    began = time.monotonic()
    assert side_by_side.run(jobs, 2, 2 / 60) == {"long": 143}
    assert time.monotonic() - began < 30 and not (tmp_path / "later.log").exists()


def test_a_run_that_fails_leaves_the_others_their_turn(call, work, monkeypatch):
    step = Trainer.step

    def diverge(trainer, *arguments):
        if trainer.options.objective == "autoregressive":
            raise FloatingPointError("train: the gradient must be finite, got norm nan")
        step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", diverge)
    status, results = call("--arms", "autoregressive", "cmlm")
    assert status == 2 and work == {"updates": 3, "evaluations": 3}
    assert [record["arm"] for record in results["records"]] == ["cmlm"]
    assert "autoregressive, seed 1" in results["missing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "cmlm", "--", "--seed", "3"], "options behind -- must be other than --data, --out, --device, "),
        *(
            (["--arms", "cmlm", "--", "--keep", "3", word, "/x"], f", --nar-weight, --encoder-passes, got {word}")
            for word in ("--source", "--target", "--valid-source", "--valid-target", "--valid-monolingual", "--sourc")
        ),
        (
            ["--arms", "cmlm", "--", "--keep", "3", "--alpha", "2"],
            "must change something in an arm of cmlm, got --alpha",
        ),
        (["--arms", "janus", "--", "--mask-random=0"], "must change something in an arm of janus, got --mask-random=0"),
        (["--arms", "cmlm", "--", "--learning-rat", "1", "--foo", "1"], "unrecognized arguments: --foo 1"),
        (["--arms", "cmlm", "--", "--learning-rate", "fast"], "--learning-rate: must be a number, got 'fast'"),
        (
            ["--arms", "cmlm", "janus", "--", "--learning-rate", "-1"],
            "options behind -- must suit arm cmlm: train: --learning-rate must be ",
        ),
        (
            ["--arms", "cmlm", "--", "--d-model", "17"],
            "must suit arm cmlm: JanusConfig: --d-model must be a multiple of --attention-heads = 4, got 17",
        ),
        (
            ["--arms", "transformer", "cmlm", "--", "--suffix-share", "2"],
            "options behind -- must suit arm cmlm: train: --suffix-share must be ",
        ),
        (["--data", "nowhere"], "must have train.en, train.de, valid.en, valid.de, got nowhere without train.en"),
    ],
)
def test_what_the_experiment_cannot_run_is_refused(call, options, message, capsys):
    end = options.index("--") if "--" in options else len(options)
    with pytest.raises(SystemExit) as leaving:
        call(*options[:end], rest=options[end + 1 :])
    assert leaving.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not call.runs.parent.exists()
