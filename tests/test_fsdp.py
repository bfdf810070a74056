"""Parameters shared out among processes: gradients and runs are those of one process, and each holds its share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import make_data, make_model, options_of
from two_processes import CASES, RUNS, WATCHED, gradients_of, make_trainer

from janus_fast.checkpoint import WEIGHTS, read_tensors
from janus_fast.training.checkpoints import checkpoints, latest_checkpoint, read_state
from janus_fast.training.options import TrainingOptions
from janus_fast.training.trainer import Trainer

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made."""
    folder = tmp_path_factory.mktemp("together")
    make_trainer("janus", folder / "one then fsdp", max_updates=2).train()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [*launch, str(HERE / "two_processes.py"), str(folder)], env=environment, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("case", [case for case in CASES if case != "bfloat16"])
def test_loss_and_gradients_are_those_of_one_process(folder, case):
    found, expected = torch.load(folder / f"{case}.fsdp.pt"), gradients_of(make_trainer(case, "unused"))
    assert ("decoder.embed_length.weight" in found) == (case != "autoregressive")
    # The lengths' loss is float32 always, and weighs a tenth; the rest are sums of some thousand numbers in float64.
    torch.testing.assert_close(found.pop("loss"), expected.pop("loss"), atol=2e-7, rtol=0)
    norm = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    close(found, expected, 1e-14 * max(1.0, norm))  # 1e-14 when they are clipped


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_ddp_to_the_bit(folder, case):
    """Halving is exact, and the sum of two numbers does not depend on who adds them."""
    found, expected = (torch.load(folder / f"{case}.{way}.pt") for way in ("fsdp", "ddp"))
    close(found, expected, 0)


@pytest.mark.parametrize("case", RUNS)
def test_a_run_is_that_of_one_process(folder, tmp_path, case):
    make_trainer(case, tmp_path).train()
    compare_runs(folder / case, tmp_path)


def test_what_a_run_watches_is_that_of_one_process(folder, tmp_path):
    """The norms of the terms' gradients, logged to five digits, and the gap that decides what is detached."""
    make_trainer("janus", tmp_path, **WATCHED).train()
    found, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (folder / "watched", tmp_path)
    )
    norms = [
        [record["gradient_norms"] for record in records if record["kind"] == "train"] for records in (found, expected)
    ]
    assert len(norms[1]) == 4 and {"ar_ce", "kl_ar_nar", "length"} < norms[1][0].keys()
    for one, other in zip(*norms, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    gaps = [read_state(latest_checkpoint(run))["objective"]["gap"] for run in (folder / "watched", tmp_path)]
    assert abs(gaps[1]) > 1e-3 and gaps[0] == pytest.approx(gaps[1], rel=0, abs=1e-6)


@pytest.mark.parametrize("run", ["one then fsdp", "ddp then fsdp", "fsdp then one"])
def test_a_run_goes_on_with_other_processes(folder, tmp_path, run):
    make_trainer("janus", tmp_path).train()
    if run == "fsdp then one":
        make_trainer("janus", folder / run).train()
    compare_runs(folder / run, tmp_path)


@pytest.mark.parametrize("run", ["one then fsdp", "ddp then fsdp"])
def test_each_process_holds_its_share(folder, run):
    """After two updates, before which the moments of two others were read."""
    shapes = [p.shape for p in make_trainer("janus", "unused").parameters]
    first = sum(-(-shape[0] // 2) * shape[1:].numel() for shape in shapes)
    rest = sum(shape.numel() for shape in shapes) - first
    assert 0.49 < rest / first < 1
    for rank, share in enumerate((first, rest)):
        sizes = json.loads((folder / f"{run}.{rank}.json").read_text())
        assert sizes.keys() == {"parameters", "gradients", "exp_avg", "exp_avg_sq"}
        # parameters and gradients are padded to equal parts
        assert sizes["parameters"] == first and share <= sizes["gradients"] <= first
        assert sizes["exp_avg"] == sizes["exp_avg_sq"] == share


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            found[name], values, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def compare_runs(found: Path, expected: Path) -> None:
    """Two runs in float64: their checkpoints, and what they logged.

    Gradients are clipped to length 1; each is a sum of some hundred numbers of float64, so that they agree to 1e-14.
    Where one is as good as nothing, Adam divides it by its epsilon, 1e-9, so that an update differs by up to 1e-5 of
    its learning rate, 1.2e-3 at most: weights by 5e-8 behind four of them. A tenth of each gradient, which the
    weights before it made, goes into the moments.
    """
    budgets = {WEIGHTS: 4 * 1.2e-3 * 1e-14 / 1e-9, "optimizer.safetensors": 1e-8}
    assert sorted(os.listdir(found / "checkpoints")) == sorted(os.listdir(expected / "checkpoints"))
    for one, other in zip(checkpoints(found), checkpoints(expected), strict=True):
        assert sorted(os.listdir(one)) == sorted(os.listdir(other))
        for file, budget in budgets.items():
            close(read_tensors(one / file), read_tensors(other / file), budget)
        states = [read_state(path) for path in (one, other)]
        assert all(states[0][name] == states[1][name] for name in ("update", "batch_number", "tokens_seen"))
    logs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (found, expected)
    ]
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys() and one["kind"] == other["kind"]
        rounding = 1.1e-4 if one["kind"] == "valid" else 1.1e-5
        for name in one.keys() - {"kind", "seconds", "predictions_per_second"}:
            assert one[name] == pytest.approx(other[name], rel=0, abs=rounding), name


def test_what_shared_parameters_do_not_go_with(tmp_path):
    with pytest.raises(ValueError, match="train: precision must be auto, float32 or bfloat16 with fsdp, got 'float16'"):
        TrainingOptions(fsdp=True, precision="float16", device="cuda")
    with pytest.raises(
        ValueError, match="train: fsdp must go with several processes, as torchrun starts them, got one"
    ):
        Trainer(make_model(), make_data(), tmp_path, options_of(fsdp=True))
    trainer = Trainer(make_model(), make_data(), tmp_path, options_of(max_updates=1))
    trainer.train()
    state = latest_checkpoint(tmp_path) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "precision": "float16"}))
    trainer.options.fsdp = True  # with "auto", a run goes on in the precision that it began in
    with pytest.raises(ValueError, match="train: precision must be auto, float32 or bfloat16 with fsdp, got 'float16'"):
        trainer.load(latest_checkpoint(tmp_path))
