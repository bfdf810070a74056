"""How a training goes, for those who wait: a bar on a terminal, elsewhere a line first, each minute and last."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LINE_SECONDS = 60
PACED = 5  # updates that an estimate needs
SHORT = 0.5  # of a schedule, which is said


class Progress:
    """``on_step`` and ``on_log`` of a trainer, which has ``threads`` to compute with."""

    def __init__(self, trainer, threads: int):
        from tqdm import tqdm

        self.trainer, self.threads, self.record = trainer, threads, {}
        self.first, self.began, self.shown = None, 0.0, -math.inf
        self.terminal = sys.stderr.isatty() and trainer.processes.rank == 0
        self.bar = tqdm(
            total=trainer.options.max_updates, initial=trainer.latest, unit=" updates", disable=not self.terminal,
            dynamic_ncols=True,
        )  # fmt: skip

    def on_step(self, update: int) -> None:
        if self.trainer.processes.rank > 0:
            return
        now = time.monotonic()
        if self.first is None:  # the first update, which takes longer than others, is no part of the pace
            self.first, self.began = update, now
        elif update == self.first + PACED < self.trainer.options.max_updates:
            updates, seconds = self._left()
            spent = f"about {in_words(seconds)} on {counted(self.threads, 'thread')}"
            self._write(f"janus-fast: {counted(updates, 'update')} left, {spent}")
            if update + updates < SHORT * self.trainer.options.max_updates:
                self._write(
                    f"janus-fast: warning: --max-minutes ends this call near update {update + updates:,} of "
                    f"{self.trainer.options.max_updates:,}; a schedule that fits has --max-updates {update + updates}"
                )
        self.bar.update(update - self.bar.n)
        last = update == self.trainer.options.max_updates
        if not self.terminal and (last or now - self.shown >= LINE_SECONDS):
            left = ""
            if update > self.first and not last:
                left = f"  about {in_words(self._left()[1])} left"
            self._write(line(update, self.record) + left)
            self.shown = now

    def on_log(self, record: dict) -> None:
        if record["kind"] == "valid":
            self._write(line(record["update"], record))
            return
        self.record = record
        if self.terminal:
            self.bar.set_postfix(loss=f"{record['loss']:.3f}", rate=f"{record['lr']:.1e}")

    def _left(self) -> tuple[int, float]:
        """The updates that are still to come, and the seconds that they take."""
        options, trainer = self.trainer.options, self.trainer
        pace = (time.monotonic() - self.began) / (trainer.update - self.first)
        allowed = max(0.0, options.max_minutes * 60 - trainer.seconds)
        seconds = min((options.max_updates - trainer.update) * pace, allowed)
        return round(seconds / pace), seconds

    def _write(self, text: str) -> None:
        with self.bar.external_write_mode(sys.stderr):
            write(text)


def line(update: int, figures: dict) -> str:
    """Figures of training, or of validation, in words."""
    training = figures.get("kind") == "train"
    names = {"loss": "loss" if training else "validation loss", "bleu_ar": "bleu_ar", "bleu_nar": "bleu_nar"}
    shown = [f"{text} {figures[name]:.2f}" for name, text in names.items() if name in figures]
    if training:
        shown += [f"rate {figures['lr']:.1e}", f"{figures['predictions_per_second']:,.0f} predictions/s"]
    return "  ".join([f"update {update:,}", *shown])


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_words(seconds: float) -> str:
    """A duration, as exact as an estimate is: 40 s, 25 min, 7 h, 3 days."""
    for unit, name, most in ((1, "s", 90), (60, "min", 90 * 60), (3600, "h", 48 * 3600)):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


@contextmanager
def stopping(trainer) -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and a terminal that closes stop ``trainer`` behind the update under way, with a checkpoint.

    A later signal stops it at once.

    Yields the signals that have come. What a process was told to ignore it ignores.
    """
    came, before, first = [], {}, math.inf
    text = b"\njanus-fast: the update under way is finished, and a checkpoint written; once more leaves at once\n"

    def stop(number, frame):
        nonlocal first
        if came:
            if time.monotonic() > first + 1:  # of one Ctrl-C the terminal tells each process, and so does torchrun
                signal.signal(number, before[number])
                signal.raise_signal(number)
            return
        came.append(number)
        first = time.monotonic()
        trainer.stop()
        if trainer.processes.rank == 0:
            with suppress(OSError):  # Ctrl-C ends `tee`, too
                os.write(2, text)  # print is not safe here: this may have interrupted one

    if threading.current_thread() is threading.main_thread():  # which alone may settle what signals do
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one of the processes that torchrun started speaks for all
        write(f"janus-fast: {message}")


def write(text: str) -> None:
    """A line of standard error. That its reader or terminal has gone stops nothing: there is a run to save."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())  # where later lines go, and what is left in buffers
        os.close(null)
