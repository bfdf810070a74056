"""Training by several processes: shares of a batch add up to it, and a run is the run of one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_files import alive
from test_training import make_data, make_model, options_of

from janus_fast import cli
from janus_fast.checkpoint import read_tensors
from janus_fast.data import test_set as translated
from janus_fast.objectives import OBJECTIVES
from janus_fast.training.data import BatchStream
from janus_fast.training.processes import Processes, started_processes
from janus_fast.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def ends_its_workers_when_terminated():
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", 128 + signal.SIGTERM))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("count", [2, 3, 9])  # of 7 sentences: two of nine processes have none
@pytest.mark.parametrize("objective, options", [
    ("janus", {}), ("janus", {"auxiliary": False}), ("janus", {"encoder_passes": 2}), ("autoregressive", {}),
    ("cmlm", {}), ("janus", {"auxiliary": False, "divergence": {}, "autoregressive_every": 2}),
    ("janus", {"suffix_share": 0.5, "tail_decay": 2.0, "draft_weight": 0.5, "draft_length": 3}),
    ("janus", {"divergence_weight": 0.0, "autoregressive_every": 2, "draft_weight": 0.5, "draft_length": 3}),
    ("xlnet", {}), ("mpnet", {}), ("cemat", {"source_mask_ratio": (0.3, 0.5)}),
])  # fmt: skip
def test_shares_of_a_batch_add_up_to_it(objective, options, count):
    data, model = make_data(7), make_model(dropout=0.0)
    objective = OBJECTIVES[objective](model.config, **options)

    def gradients(share=(0, 1)):
        model.zero_grad()
        batch = objective.pack(data.sources, data.targets, torch.Generator().manual_seed(1), share)
        loss, terms = objective.loss(model, batch, 0.5)
        loss.backward()
        return [loss.detach(), *terms.values()], [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, every = gradients(), [gradients((rank, count)) for rank in range(count)]
    for found, expected in zip(map(sum, zip(*(losses for losses, _ in every), strict=True)), whole[0], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for found, expected in zip(map(sum, zip(*(grads for _, grads in every), strict=True)), whole[1], strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)


def test_a_stream_of_shares_has_the_masks_of_the_whole():
    data, objective = make_data(), OBJECTIVES["janus"](make_model().config)

    def first(share):
        stream = BatchStream(data, objective, 60, seed=5, share=share)
        batch = next(iter(stream))[2]
        stream.close()
        return batch

    whole, shares = first((0, 1)), [first((rank, 2)) for rank in range(2)]
    assert all(share.totals == whole.totals for share in shares)
    hidden = torch.cat([share.targets["nar"] for share in shares])
    assert torch.equal(hidden.sort().values, whole.targets["nar"].sort().values)
    assert sum(share.source.numel() for share in shares) == whole.source.numel()


def test_one_process_needs_no_group_and_others_neither_write_nor_validate(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with started_processes() as processes:
        assert processes == Processes(0, 1) and processes.of_first("it") == "it"
    trainer = Trainer(make_model(), make_data(), tmp_path, options_of(max_updates=2, save_interval=1))
    trainer.processes = Processes(1, 1)
    trainer.validate = lambda *_: pytest.fail("the first process validates")
    trainer.train()
    assert trainer.update == 2 and not any((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_processes_stop_together_by_the_first_ones_clock():
    class Both(Processes):
        def add_up(self, values):
            return values + torch.tensor([0.0, 1.0] if self.rank == 0 else [7.0, 0.0])

    trainer = Trainer(make_model(), make_data(), "unused", options_of())
    trainer.processes = Both(0, 2)
    assert trainer.agreed(5.0) == (5.0, True)
    trainer.processes = Both(1, 2)
    assert trainer.agreed(5.0) == (7.0, False)
    trainer.stop()
    assert trainer.agreed(5.0) == (7.0, True)


def test_processes_draw_different_numbers():
    trainer, seeds = Trainer(make_model(), make_data(), "unused", options_of(seed=7)), set()
    for rank in range(16):
        trainer.processes = Processes(rank, 16)
        for trainer.update in range(1000):
            seeds.add(trainer.seed() % 2**32)
    assert len(seeds) == 16 * 1000


def train_command(folder: Path, *options: str) -> list[str]:
    """A small training on text in ``folder``, which is written."""
    for language, side in zip(("en", "de"), translated(), strict=True):
        (folder / f"train.{language}").write_text("\n".join(side[:120]) + "\n", encoding="utf-8")
        (folder / f"valid.{language}").write_text("\n".join(side[120:124]) + "\n", encoding="utf-8")
    sizes = """--d-model 16 --encoder-layers 1 --decoder-layers 1 --attention-heads 2 --encoder-ffn-dim 16
        --decoder-ffn-dim 16 --recipe paper --vocabulary-size 300 --dropout 0 --precision float32 --accumulate 2
        --max-tokens 300 --warmup-updates 2 --save-interval 1 --validate-interval 3 --log-interval 1"""
    return ["train", "--data", str(folder), *sizes.split(), *options]


def train_by_two(command: list[str], folder: Path) -> str:
    """What it told on standard error."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    agent = subprocess.Popen(
        [*launch, "janus_fast.cli", *command], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, told = agent.communicate(timeout=240)
    finally:
        kill_all(agent)
    assert agent.returncode == 0, told
    return told


def kill_all(agent: subprocess.Popen) -> None:
    """Kills an agent of torchrun and its workers, which are in sessions of their own and would outlive it."""
    if agent.poll() is None:
        agent.send_signal(signal.SIGSTOP)  # so that it starts no others
        for worker in workers_of(agent.pid):
            os.kill(worker, signal.SIGKILL)
        agent.kill()
        agent.wait(timeout=30)


def compare_first_updates(one: Path, other: Path) -> None:
    """Adam's first moment after one update is a tenth of the gradient, which clipping made one long."""
    moments, others = (read_tensors(run / "checkpoints/00000001/optimizer.safetensors") for run in (one, other))
    assert moments.keys() == others.keys()
    for name, expected in moments.items():
        torch.testing.assert_close(others[name], expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("option", ["", "--fsdp"])
def test_two_processes_train_as_one(option, tmp_path, capsys):
    """Two processes make three updates of a run, and one process the rest; all is as one process alone makes it."""
    command = train_command(tmp_path, "--draft-weight", "0.5", "--suffix-share", "0.5")
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert cli.main([*command, "--out", str(alone), "--max-updates", "5"]) == 0
    told = train_by_two([*command, "--out", str(together), "--max-updates", "3", *option.split()], tmp_path)
    assert told.count("sentence pairs") == 1 and told.count(f"the model is in {together}") == 1
    (together / "model.safetensors").unlink()
    assert cli.main([*command, "--out", str(together), "--max-updates", "5"]) == 0
    assert "going on from update 3" in capsys.readouterr().err

    compare_first_updates(alone, together)
    one, two = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, together)
    )
    assert [(r["update"], r["kind"], r["tokens"]) for r in one] == [(r["update"], r["kind"], r["tokens"]) for r in two]
    for first, second in zip(one, two, strict=True):
        for figure in ("loss", "ar_nll", "nar_ce", "draft_nll", "kl_ar_aux", "length"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-4, abs=2e-5), (first["update"], figure)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def node(number: int, port: int, command: list[str], folder: Path, log: Path) -> subprocess.Popen:
    """An agent of torchrun as a machine of its own has one, here on the loopback device."""
    launch = f"""-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank {number} --max-restarts 3
        --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --rdzv-id run --local-addr 127.0.0.1 -m janus_fast.cli"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, *launch.split(), *command], cwd=folder, env=environment, stdout=file, stderr=file
        )


def workers_of(agent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


def test_two_machines_go_on_where_a_worker_was_killed(tmp_path):
    """The agents start all workers anew, which go on from the last checkpoint; the run is that of one process."""
    command = train_command(tmp_path, "--max-updates", "12")
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert cli.main([*command, "--out", str(alone)]) == 0
    port, logs = free_port(), [tmp_path / f"log{number}" for number in range(2)]
    nodes = [node(n, port, [*command, "--out", str(together)], tmp_path, logs[n]) for n in range(2)]
    try:
        end, killed = time.monotonic() + 150, False
        while any(own.poll() is None for own in nodes):
            assert time.monotonic() < end, logs[0].read_text() + logs[1].read_text()
            if not killed and (together / "checkpoints/00000002").exists():
                os.kill(workers_of(nodes[1].pid)[0], signal.SIGKILL)
                killed = True
            time.sleep(0.02)
    finally:
        for own in nodes:
            kill_all(own)
    told = [log.read_text() for log in logs]
    assert [own.returncode for own in nodes] == [0, 0], told
    assert killed and any("going on from update" in text for text in told)
    one, two = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, together)
    )
    assert [(r["update"], r["kind"]) for r in one] == [(r["update"], r["kind"]) for r in two]
    for first, second in zip(one, two, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4, abs=2e-5)


def test_no_worker_outlives_a_test_that_fails(tmp_path):
    command = train_command(tmp_path, "--max-updates", "100000", "--out", str(tmp_path / "out"))
    port, log, limit = free_port(), tmp_path / "log", time.monotonic() + 60
    agents = [node(number, port, command, tmp_path, log) for number in range(2)]
    try:
        while not all(workers := [workers_of(agent.pid) for agent in agents]):
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
    finally:
        for agent in agents:
            kill_all(agent)
    while any(alive(worker) for worker in sum(workers, [])):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_restarts_that_would_wait_for_ever_are_refused(monkeypatch):
    for name, value in (
        ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "1"), ("TORCHELASTIC_MAX_RESTARTS", "3"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="^TORCH_DISABLE_SHARE_RDZV_TCP_STORE must be 1 .* got ''"):
        with started_processes():
            pass


def test_machines_that_do_not_share_the_run_are_told(tmp_path):
    def gathered(values, value):
        values[:] = [value, (None, "00000003")]

    processes = Processes(0, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_gather_object", gathered)
        with pytest.raises(ValueError, match="^--out must be shared, got another one in process 1 than in process 0"):
            processes.require_same("--out", (None, ""), "be shared")
        processes.require_same("--out", (None, "00000003"), "be shared")


def test_two_processes_that_compute_activations_again_leave_unused_parameters_alone(tmp_path):
    command = train_command(tmp_path, "--objective", "autoregressive", "--checkpoint-activations", "--max-updates", "1")
    assert cli.main([*command, "--out", str(tmp_path / "alone")]) == 0
    train_by_two([*command, "--out", str(tmp_path / "together")], tmp_path)
    compare_first_updates(tmp_path / "alone", tmp_path / "together")
