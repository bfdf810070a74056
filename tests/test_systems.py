"""The comparison of systems, tiny: each is trained and decoded in its own modes once, and is in the table."""

import json

import pytest
import test_experiment

from benchmarks.training import runs, systems, systems_report
from janus_fast import engine
from janus_fast.data import test_set
from janus_fast.objectives import OBJECTIVES

work = test_experiment.work
pytestmark = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
NAME = "summaries"
TINY = """--d-model 16 --encoder-layers 1 --decoder-layers 1 --encoder-ffn-dim 16 --decoder-ffn-dim 16 --max-tokens 200
    --max-source-positions 60 --max-target-positions 60 --valid-sentences 0 --precision float32""".split()


@pytest.fixture
def call(tmp_path):
    """Runs the comparison on 48 pairs and returns its exit status, with what it writes."""
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    for ending, lines in zip(("text", "summary"), test_set(), strict=True):
        for name, chosen in (("train", lines[-48:]), ("valid", lines[:2]), ("test", lines[2:5])):
            (data / f"{name}.{ending}").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    (data / "mono").write_text("\n".join(test_set()[1][100:140]) + "\n", encoding="utf-8")
    places = ["--data", str(data), "--pair", "text-summary", "--out", str(tmp_path / "out")]
    places += ["--results", str(results), "--name", NAME]

    def call(*options, rest=()):
        status = systems.main([*places, "--updates", "2", "--metric", "distinct", "chrf", *options, "--", *TINY, *rest])
        return status, json.loads((results / f"{NAME}.json").read_text()) if results.exists() else None

    call.monolingual = ["--monolingual", str(data / "mono"), "--pretraining-updates", "3"]
    call.results, call.out = results, tmp_path / "out"
    return call


def test_systems_are_decoded_in_the_modes_that_they_are_trained_for():
    able = {name: list(runs.trained_for(arm, systems.DECODES)) for name, arm in systems.ARMS.items()}
    left_to_right = ["greedy", "beam"]
    for name in ("transformer", "autoregressive", "autoregressive-longer", "r_drop", "xlnet"):
        assert able[name] == left_to_right
    assert able["prophetnet"] == able["prophetnet-pretrained"] == [*left_to_right, "speculative"]
    assert able["cmlm"] == able["mpnet"] == able["cemat"] == ["nar-1", "nar-4", "nar-10"]
    assert able["bang"] == [*left_to_right, "nar-1", "nar-1-reranked", "semi-nar-2", "semi-nar-4", "speculative"]
    assert able["janus"] == [*left_to_right, *(name for name in systems.DECODES if name.startswith("nar"))]
    assert {arm.objective for arm in systems.ARMS.values()} == set(OBJECTIVES)
    assert set(systems_report.LABELS) == set(systems.DECODES)


def test_a_table_and_a_picture_of_all_that_was_done_once(call, work):
    arms = ["--arms", "bart-pretrained", "autoregressive", "bang", "cmlm-pretrained", *call.monolingual]
    corrupted = ["--mask-ratio", "0.5"]  # of the text of pre-training alone
    status, results = call(*arms, rest=corrupted)
    assert status == 0 and work == {"updates": 4 * 2 + 2 * 3, "evaluations": 2 + 7 + 3 + 2}
    named = {record["arm"]: record for record in results["records"]}
    pretrained = [f"{name}-{stage}" for name in ("cmlm", "bart") for stage in ("pretraining", "pretrained")]
    assert list(named) == ["autoregressive", "bang", *pretrained]
    assert {arm for arm in named if "--mask-ratio 0.5" in named[arm]["options"]} == {*pretrained[::2]}
    assert named["cmlm-pretraining"]["training"]["update"] == 3 and not named["cmlm-pretraining"]["evaluations"]
    first = named["cmlm-pretrained"]["training"]["of"]["first"]
    assert first == runs.checksum(call.results.parent / "out/seed-1/cmlm-pretraining/model.safetensors")
    passes = {name: record["passes"] for name, record in named["bang"]["evaluations"].items()}
    assert passes["nar-1"] == 1 and passes["nar-1-reranked"] == 2 and passes["greedy"] > passes["speculative"] - 1 > 0
    assert all(0 <= record["distinct1"] <= 100 for record in named["bang"]["evaluations"].values())
    page = (call.results / f"{NAME}.md").read_text()
    assert page == systems_report.markdown(NAME, results) and f"({NAME}.png)" in page
    assert "| cmlm-pretrained | 1 | 10 passes |" in page
    assert "* janus, seed 1\n" in page and "distinct-1 | distinct-2 | chrF | passes |" in page
    assert passes["greedy"] >= passes["semi-nar-2"] >= passes["semi-nar-4"]
    assert call(*arms, rest=corrupted) == (0, results) and work == {"updates": 14, "evaluations": 14}
    own = call.results.parent / "out/seed-1/bang/test-semi-nar-2.json"
    own.unlink()  # as of a comparison from before there was this decode
    assert call(*arms, rest=corrupted)[0] == 0 and work == {"updates": 14, "evaluations": 15} and own.is_file()


def test_the_picture_shows_means_over_seeds(tmp_path):
    pytest.importorskip("matplotlib")

    def record(seed):
        found = {
            name: {"bleu": 10 * number + seed, "milliseconds": {"1": number, "32": 2 * number}}
            for number, name in enumerate(systems.DECODES, 1)
        }
        return {"arm": "bang", "seed": seed, "evaluations": found}

    figure = systems_report.draw({"metrics": ["bleu"], "records": [record(1), record(2)]}, tmp_path / "picture.png")
    drawn = [(line.get_marker(), *map(list, line.get_data())) for line in figure.axes[1].lines]
    assert drawn == [
        ("*", [2, 4], [11.5, 21.5]), ("o", [6, 8, 10], [31.5, 41.5, 51.5]), ("^", [12, 14], [61.5, 71.5]),
        ("s", [20], [101.5]), ("D", [16, 18], [81.5, 91.5]),
    ]  # fmt: skip


def test_other_results_are_not_written_over(call):
    call.results.mkdir()
    (call.results / f"{NAME}.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"--results must hold no other {NAME}.json than of this comparison, got "):
        call("--arms", "cmlm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arms", "bang-pretrained"], "--monolingual must name the text to pre-train on, got none for bang-pretrain"),
        (["--monolingual", "nowhere"], "--monolingual must be a file, got nowhere"),
        (["--name", "a/b"], "argument --name: must be the beginning of a file's name, got 'a/b'"),
        (["--name", ""], "argument --name: must be the beginning of a file's name, got ''"),
        (["--results", __file__], "--results must be a folder, got the file "),
        (["--pair", "en-fr"], "--data must have train.en, train.fr, valid.en, valid.fr, got "),
    ],
)
def test_what_cannot_be_compared_is_refused(call, options, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        call(*options)
    assert leaving.value.code == 2 and message in " ".join(capsys.readouterr().err.split())


def test_options_that_no_training_takes_are_refused_before_anything_is_written(call, capsys):
    for arm, rest, message in (
        ("cmlm", ["--learning-rate", "-1"], "options behind -- must suit arm cmlm: train: --learning-rate must be "),
        ("bart-pretraining", ["--mask-ratio", "2"], "must suit arm bart-pretraining: train: --mask-ratio must be "),
        (
            "cemat", ["--dictionary", "no"],
            "systems: error: options behind -- must suit arm cemat: --dictionary must be a file that exists, got no\n",
        ),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as leaving:
            call("--arms", arm, *call.monolingual, rest=rest)
        assert leaving.value.code == 2 and message in capsys.readouterr().err
        assert not call.out.exists()
