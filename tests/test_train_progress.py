"""How ``janus-fast train`` shows how it goes, and how it ends when it is told to."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import test_train
from test_cli import process, run
from test_train import SCHEDULE, SIZES

from janus_fast import cli
from janus_fast.commands import _progress
from janus_fast.training.options import TrainingOptions
from janus_fast.training.processes import Processes
from janus_fast.training.trainer import Trainer

parallel = test_train.parallel


@pytest.fixture(autouse=True)
def interruptible():
    """A run of tests in the background ignores Ctrl-C, and so would what it trains."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_is_interrupted_has_a_checkpoint(number, status, parallel, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--data", parallel, *SIZES, "--max-tokens", "400", "--max-updates", "100000", "--save-interval", "90000"]
    running = process("train", "--out", out, *command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for shown in running.stderr:
        if shown.startswith("update 1  loss"):
            break
    assert cli.main([str(word) for word in ("train", "--out", out, *command)]) == 2
    assert f"--out must not be what another process is writing, got {out}\n" in capsys.readouterr().err
    for _ in range(2):  # as a process of torchrun gets it, from the terminal and from torchrun
        running.send_signal(number)
    said = running.communicate(timeout=120)[1]
    assert running.returncode == status, said
    update = int(re.search(r"run the same command again to go on from update ([\d,]+)\n$", said)[1].replace(",", ""))
    (saved,) = (out / "checkpoints").iterdir()
    assert update >= 1 and int(saved.name) == update and not (out / "model.safetensors").exists()
    assert "the update under way is finished, and a checkpoint written; once more leaves at once" in said


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_behind_its_last_update_ends_too(
    number, status, parallel, tmp_path, monkeypatch, capsys
):
    command = ["train", "--out", tmp_path / "out", "--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 2]
    with monkeypatch.context() as patch:
        save = Trainer.save
        patch.setattr(Trainer, "save", lambda trainer: signal.raise_signal(number) or save(trainer))
        assert cli.main([str(word) for word in command]) == status
    said = capsys.readouterr().err
    assert said.endswith("run the same command again to go on from update 2\n"), said
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["00000002"]
    assert not (tmp_path / "out/model.safetensors").exists()
    run(*command)
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (None, 0)])
def test_a_run_outlives_who_reads_what_it_says(number, status, parallel, tmp_path):
    """Such as `tee`, which Ctrl-C ends, too, or `head`."""
    out = tmp_path / "out"
    command = ["--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 100000 if number else 4]
    command += ["--validate-interval", 100000 if number else 2, "--valid-sentences", 1]
    running = process("train", "--out", out, *command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for shown in running.stderr:
        if shown.startswith("update 1  loss" if number else "janus-fast: batches of"):
            break
    running.stderr.close()
    if number:
        running.send_signal(number)
    assert running.wait(timeout=120) == status
    assert list((out / "checkpoints").iterdir()) and (out / "model.safetensors").exists() == (not number)


def test_a_bar_outlives_its_terminal(parallel, tmp_path):
    out, (ours, its) = tmp_path / "out", os.openpty()
    command = ["train", "--out", out, "--data", parallel, *SIZES, *SCHEDULE, "--max-updates", 100000]
    words = [sys.executable, "-m", "janus_fast", *map(str, command), "--valid-sentences", "1"]
    running = subprocess.Popen(words, stderr=its, env={**os.environ, "OMP_NUM_THREADS": "1"})
    os.close(its)
    shown = b""
    while b"validation loss" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)  # where it is its session's own, it sends SIGHUP, too
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=120) == 143 and list((out / "checkpoints").iterdir())


def test_a_second_interruption_leaves_at_once(monkeypatch):
    class Stopped:
        processes = Processes(1, 2)
        stop = staticmethod(lambda: None)

    clock = iter([0.0, 0.5, 1.5])
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), _progress.stopping(Stopped) as came:
            for waited in range(3):
                assert came == [signal.SIGINT][:waited]
                signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_terminal_has_a_bar_and_elsewhere_come_lines_by_the_clock(parallel, tmp_path, monkeypatch, capsys):
    command = ["train", "--data", parallel, *SIZES, *SCHEDULE, "--validate-interval", 100, "--max-updates", 6]
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        run(*command, "--out", tmp_path / "bar")
    said = capsys.readouterr().err
    assert re.search(r"\b6/6 \[[\d:]+<[\d:]+, .* updates.*loss=", said) and "update 1  loss" not in said
    monkeypatch.setattr(_progress, "LINE_SECONDS", 0)
    run(*command, "--out", tmp_path / "lines")
    lines = re.findall(r"^update (\d)  loss .*predictions/s(?:  about (\d+) s left)?$", capsys.readouterr().err, re.M)
    assert [number for number, _ in lines] == list("123456") and lines[0][1] == "" and lines[4][1] and lines[5][1] == ""
    assert [_progress.in_words(s) for s in (0, 89, 90, 5399, 5400, 72_000, 200_000)] == [
        "0 s", "89 s", "2 min", "90 min", "2 h", "20 h", "2 days"
    ]  # fmt: skip


@pytest.mark.parametrize("max_updates, max_minutes, expected", [
    (130, math.inf, ["janus-fast: 24 updates left, about 48 s on 2 threads"]),
    (130, 1.0, ["janus-fast: 10 updates left, about 20 s on 2 threads"]),
    (1500, 1.0, ["janus-fast: 10 updates left, about 20 s on 2 threads",
                 "janus-fast: warning: --max-minutes ends this call near update 116 of 1,500; a schedule that fits has "
                 "--max-updates 116"]),
])  # fmt: skip
def test_what_is_left_is_estimated_by_the_pace_since_the_run_goes_on(max_updates, max_minutes, expected, monkeypatch):
    options = TrainingOptions(max_updates=max_updates, max_minutes=max_minutes)
    trainer = SimpleNamespace(options=options, processes=Processes(), latest=100, update=100, seconds=0.0)
    monkeypatch.setattr(_progress.time, "monotonic", lambda: 1000 + 2.0 * trainer.update)
    progress, said = _progress.Progress(trainer, 2), []
    progress._write, progress.record = said.append, {}
    for trainer.update in range(101, 107):
        trainer.seconds = 28 + 2.0 * (trainer.update - 100)
        progress.on_step(trainer.update)
    assert said[1:] == expected
