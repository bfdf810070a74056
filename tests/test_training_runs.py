"""Runs that are cut off, stopped, or go on: to the bit, with the same checkpoints and each record once."""

import json
import math
import shutil

import pytest
import torch
from test_training import data_for, make_data, make_model, options_of

from janus_fast.checkpoint import WEIGHTS
from janus_fast.objectives import OBJECTIVES
from janus_fast.training.checkpoints import average, checkpoints, latest_checkpoint
from janus_fast.training.trainer import Trainer


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path, objective, accumulate):
    shared = {"objective": objective, "accumulate": accumulate, "save_interval": 5, "keep": 3}
    Trainer(make_model(), data_for(objective), tmp_path / "whole", options_of(max_updates=12, **shared)).train()

    Trainer(make_model(), data_for(objective), tmp_path / "parts", options_of(max_updates=7, **shared)).train()
    # the run is cut off at update 9, after its last checkpoint at 7: it goes on from there
    cut = Trainer(make_model(), data_for(objective), tmp_path / "parts", options_of(max_updates=12, **shared))
    steps, step = [], cut.step

    def interrupted(*arguments):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(step(*arguments))

    cut.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    Trainer(make_model(), data_for(objective), tmp_path / "parts", options_of(max_updates=12, **shared)).train()
    for name in ("model.safetensors", "optimizer.safetensors"):
        whole, parts = (latest_checkpoint(tmp_path / run) / name for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_a_run_that_was_cut_short_keeps_what_an_uncut_one_keeps(tmp_path):
    def train(directory, max_updates):
        options = options_of(max_updates=max_updates, save_interval=10, keep=2)
        Trainer(make_model(), make_data(), directory, options).train()
        return [int(path.name) for path in checkpoints(directory)]

    assert train(tmp_path / "whole", 33) == [20, 30, 33]
    assert train(tmp_path / "parts", 25) == [10, 20, 25]
    assert train(tmp_path / "parts", 26) == [10, 20, 26]
    assert train(tmp_path / "parts", 33) == [20, 30, 33]
    whole, parts = (average(checkpoints(tmp_path / run)[-2:]) for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("when", [1, 7, 12])
def test_a_run_that_is_stopped_has_a_checkpoint_and_goes_on_to_the_bit(tmp_path, when):
    def trainer(directory):
        return Trainer(make_model(), make_data(), directory, options_of(max_updates=12, save_interval=5, keep=2))

    trainer(tmp_path / "whole").train()
    stopped = trainer(tmp_path / "parts")
    stopped.on_step = lambda update: stopped.stop() if update == when else None
    stopped.train()
    stop = min(when + 1, 12)  # the update under way is done
    assert stopped.stopped == (when < 12) and int(latest_checkpoint(tmp_path / "parts").name) == stop
    trainer(tmp_path / "parts").train()
    whole, parts = (checkpoints(tmp_path / run) for run in ("whole", "parts"))
    assert [path.name for path in parts] == [path.name for path in whole] == ["00000005", "00000010", "00000012"]
    for one, other in zip(whole, parts, strict=True):
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
    early = trainer(tmp_path / "early")
    early.stop()
    early.train()
    assert early.update == 1 and latest_checkpoint(tmp_path / "early").name == "00000001"


def test_checkpoints_by_the_clock_change_nothing_that_is_averaged(tmp_path, monkeypatch):
    def train(directory, save_minutes, max_updates=12):
        options = options_of(max_updates=max_updates, save_interval=5, keep=2, save_minutes=save_minutes)
        trainer, saved = Trainer(make_model(), make_data(), directory, options), []
        save = trainer.save
        trainer.save = lambda: saved.append(trainer.update) or save()
        trainer.train()
        return saved

    assert train(tmp_path / "whole", math.inf) == [5, 10, 12]
    monkeypatch.setattr(Trainer, "agreed", lambda trainer, seconds: (50.0 * trainer.update, False))
    assert train(tmp_path / "clock", 2.0, 8) == [3, 5, 8]
    assert [path.name for path in checkpoints(tmp_path / "clock")] == ["00000005", "00000008"]
    assert train(tmp_path / "clock", 2.0) == [10, 12]
    whole, clock = (checkpoints(tmp_path / run) for run in ("whole", "clock"))
    assert [path.name for path in clock] == [path.name for path in whole] == ["00000005", "00000010", "00000012"]
    assert all((a / WEIGHTS).read_bytes() == (b / WEIGHTS).read_bytes() for a, b in zip(whole, clock, strict=True))


def test_a_run_that_goes_on_has_each_record_once(tmp_path):
    def train(max_updates):
        options = options_of(max_updates=max_updates, save_interval=4, log_interval=3)
        Trainer(make_model(), make_data(), tmp_path, options).train()

    def updates():
        return [json.loads(line)["update"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    train(10)
    assert updates() == [1, 3, 6, 9, 10]  # the first update's at once, and the last one's
    path = tmp_path / "metrics.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    cut = b'{"update": 9, "ki'  # cut off while it was written
    path.write_bytes(first + b'\n\0\xff\n[]\n{}\n{"update": "1"}\n' + rest + cut)
    for name in ("00000008", "00000010"):
        shutil.rmtree(tmp_path / "checkpoints" / name)
    train(10)
    assert updates() == [1, 3, 6, 9, 10]
    shutil.rmtree(tmp_path / "checkpoints")
    train(3)
    assert updates() == [1, 3]


def test_half_a_checkpoint_of_a_run_that_was_killed_goes(tmp_path):
    half = tmp_path / "checkpoints/.00000003.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    Trainer(make_model(), make_data(), tmp_path, options_of(max_updates=2, save_interval=1)).train()
    assert sorted(path.name for path in half.parent.iterdir()) == ["00000001", "00000002"]


def test_a_checkpoint_without_a_whole_state_says_so(tmp_path):
    options = options_of(max_updates=4, save_interval=2)
    Trainer(make_model(), make_data(), tmp_path, options).train()
    (latest := latest_checkpoint(tmp_path)).joinpath("state.json").write_text('{"upd')
    with pytest.raises(
        ValueError, match=f"train: {latest}/state.json must be whole, got .*; without {latest} a run goes"
    ):
        Trainer(make_model(), make_data(), tmp_path, options).train()


def test_auto_precision_is_the_processors_and_stays_that_of_the_run(tmp_path, monkeypatch):
    def train(max_updates, bfloat16, **options):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16, raising=False)
        options = options_of(max_updates=max_updates, save_interval=2, **options)
        trainer = Trainer(make_model(), make_data(), tmp_path, options)
        trainer.train()
        return trainer.precision

    assert train(2, bfloat16=True) == "bfloat16"
    assert json.loads((latest_checkpoint(tmp_path) / "state.json").read_text())["precision"] == "bfloat16"
    assert train(4, bfloat16=False) == "bfloat16"  # resumed on a processor without
    with pytest.raises(ValueError, match="train: precision must be bfloat16, as when the run began, got float32"):
        train(6, bfloat16=False, precision="float32")


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    Trainer(make_model(), make_data(), tmp_path, options_of(max_updates=5, save_interval=5)).train()
    options = options_of(max_updates=10, learning_rate=1e30, clip_norm=math.inf, save_interval=5)
    with pytest.raises(FloatingPointError, match="train: the gradient must be finite, got norm (nan|inf) at update"):
        Trainer(make_model(), make_data(), tmp_path, options).train()
    assert latest_checkpoint(tmp_path).name == "00000005"
