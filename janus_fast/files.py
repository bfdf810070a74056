"""Text files translated line by line: many of them, by several processes, on from where an earlier run ended."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import IO

from . import inputs
from .backend import most_at_once
from .decoding.declared import FEWEST_ROWS, MOST_ROWS
from .engine import MOST_THREADS, check_inter_threads
from .reading import naming
from .text.lines import as_line, decoded
from .translator import Translator

FAULTS = (ValueError, FloatingPointError)  # of a line, which may be passed over
AHEAD = 2  # chunks of lines that each process may have to do


@dataclass
class Report:
    """What became of files: how many lines are translated, those that were passed over, as (file, line, why), and how
    much text it was."""

    lines: int = 0
    skipped: list[tuple[str, int, str]] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0

    @property
    def megabytes_per_minute(self) -> float:
        """How fast it was, in text that was read."""
        return self.bytes / 1e6 / max(self.seconds, 1e-9) * 60

    def __str__(self) -> str:
        text = f"{self.lines:,} lines in {self.seconds:.1f} s: {self.lines / max(self.seconds, 1e-9):.1f} lines/s, "
        text += f"{self.megabytes_per_minute:.2f} MB/minute"
        return text + (f"; {len(self.skipped):,} passed over" if self.skipped else "")


@dataclass
class Job:
    """``lines`` to translate, of which the first ``begin`` are done; None among them: the next is not there yet.

    The done ones are the first ``end`` bytes of the output; ``half``: a line half written stands behind them. ``old``:
    what the output holds is of another run, and goes once there is a line to translate, not for a source that cannot
    be read.
    """

    name: str
    lines: Iterable[str | Exception | None]
    output: str | Path | None
    begin: int = 0
    end: int = 0
    half: bool = False
    old: bool = False
    bytes: int = 0

    def empty(self) -> None:
        """The output, of what another run wrote."""
        if self.old:
            Path(self.output).write_bytes(b"")
            self.old = False

    def chunks(self, size: int) -> Iterator[tuple[int, list | None]]:
        """Up to ``size`` lines, or as many as are there, with the first one's number; None where others must wait."""
        lines, number = iter(self.lines), self.begin
        there = (line for line in lines if line is not None)
        done, current = sum(1 for _ in islice(there, self.begin)), list(islice(there, int(self.half)))
        if done < self.begin or len(current) < self.half:
            raise ValueError(
                f"resume: {self.output} must hold no more lines than {self.name}, which it is the translation of"
            )
        chunk: list = []
        for line in _ending_with_its_error(chain(current, lines)):
            if line is not None:
                chunk.append(line)
                self.bytes += 0 if isinstance(line, Exception) else len(line.encode()) + 1
            if isinstance(line, str):
                self.empty()
            if chunk and (line is None or len(chunk) == size):
                yield number, chunk
                number, chunk = number + len(chunk), []
            if line is None:
                yield number, None
        if not chunk:
            self.empty()
        yield number, chunk

    def cut(self, output: IO) -> None:
        """Removes the line half written, once there is a line to write instead."""
        self.empty()
        if self.half:
            output.truncate(self.end)
            self.half = False


def translate_files(
    model, source_paths: Sequence[str | Path], output_paths: Sequence[str | Path], *, processes: int = 1,
    resume: bool = False, skip_errors: bool = False, max_batch_size: int = 32, read_batch_size: int = 0,
    device: str = "cpu", compute_type: str = "default", intra_threads: int = 0, inter_threads: int | str = 1,
    backend: str = "auto", **options,
) -> Report:  # fmt: skip
    """Translates text files line by line, each into a file of its own, in order.

    Args:
        model: the name of a shipped model, or a model directory.
        source_paths: UTF-8 text, one sentence a line.
        output_paths: where the translations of each go, one a line.
        processes: how many translate; each has its share of the processors for itself, and loads the model. They are
            started by "spawn", so a program that asks for more than one must be importable: what it does stands behind
            ``if __name__ == "__main__"``.
        resume: go on behind the whole lines that outputs hold already, from a run with the same model and options.
        skip_errors: a line that is too long for the model, is no UTF-8 or fails gets an empty line, and the report
            says why; without, it ends the run.
        max_batch_size, read_batch_size: as in ``Translator.translate_file``.
        device, compute_type, intra_threads, inter_threads, backend: those of ``Translator``; ``intra_threads`` 0 is as
            many as a process has processors.
        options: those of ``Translator.translate_iterable``, but ``first_number``.
    Raises:
        ValueError: an argument out of range, or a line that cannot be translated.
        OSError: a file cannot be read or written, or a process was killed.
    """
    processes = inputs.integer("translate_files: processes", processes, 1, MOST_THREADS)
    intra_threads = inputs.integer("translate_files: intra_threads", intra_threads, 0, MOST_THREADS)
    inter_threads = check_inter_threads("translate_files: inter_threads", inter_threads)
    source_paths = inputs.list_of("translate_files: source_paths", source_paths, "paths", "a path", (str, Path))
    output_paths = inputs.list_of("translate_files: output_paths", output_paths, "paths", "a path", (str, Path))
    if len(source_paths) != len(output_paths):
        raise ValueError(
            f"translate_files: output_paths must have one entry a source = {len(source_paths)}, got {len(output_paths)}"
        )
    check_pairs("translate_files: output_paths", source_paths, output_paths)
    for name, value in (("resume", resume), ("skip_errors", skip_errors)):
        inputs.choice(f"translate_files: {name}", value, (True, False))
    made_by = {
        "model": model, "device": device, "compute_type": compute_type, "intra_threads": intra_threads,
        "inter_threads": inter_threads, "backend": backend,
    }  # fmt: skip
    size = inputs.batch_limit(max_batch_size, options.get("batch_type", "examples"), 32)
    at_once = most_at_once(backend, device, compute_type, intra_threads, inter_threads)
    ahead = read_batch_size or 4 * at_once * min(size, MOST_ROWS // FEWEST_ROWS)
    options = {"max_batch_size": size, "read_batch_size": ahead, **options}
    with translating(made_by, options, processes, skip_errors) as translate:
        return write(translate, list(zip(source_paths, output_paths, strict=True)), ahead, resume, skip_errors)


def write(translate: Callable, pairs: list[tuple], ahead: int, resume: bool, skip_errors: bool) -> Report:
    """Writes the translations of files, by pairs of a source and an output."""
    report, began = Report(), time.monotonic()
    jobs = [job_of(str(source), _lines_of(source, skip_errors), output, resume) for source, output in pairs]
    for job, first, results in translate(jobs, ahead):
        results = started(results)
        with naming(job.output), open(job.output, "a", encoding="utf-8", newline="\n") as output:
            for number, (_, result) in enumerate(results, first + 1):
                job.cut(output)
                failed = isinstance(result, Exception)
                output.write(("" if failed else as_line(result.hypotheses[0])) + "\n")
                if failed:
                    report.skipped.append((str(job.name), number, str(result)))
                report.lines += 1
    report.bytes, report.seconds = sum(job.bytes for job in jobs), time.monotonic() - began
    return report


def check_pairs(name: str, sources: Sequence, outputs: Sequence) -> None:
    """Refuses sources that are not there, and outputs that cannot be written or are somebody else's."""
    taken: dict[str, object] = {os.path.realpath(source): source for source in sources}
    for source in sources:
        inputs.check_input(f"{name.rpartition(':')[0] or name}: each of the sources", source, regular=True)
    for output in outputs:
        inputs.check_output(name, output)
        if (other := taken.setdefault(os.path.realpath(output), output)) is not output:
            raise ValueError(f"{name} must each be another file than sources and outputs, got {output} and {other}")


def job_of(name: str, lines: Iterable, output: str | Path | None, resume: bool) -> Job:
    """Goes on in the output, or begins it anew."""
    if resume and os.path.exists(output):
        return Job(name, lines, output, *begun(output))
    return Job(name, lines, output, old=output is not None)


def _lines_of(source: str | Path, skip_errors: bool) -> Iterator:
    with open(source, "rb") as stream:
        yield from decoded(stream, source, failing=skip_errors)


def started(results: Iterator) -> Iterator:
    """``results`` of which the first is there already, so that what fails with it leaves no output behind."""
    return chain(list(islice(results, 1)), results)


def begun(output: str | Path) -> tuple[int, int, bool]:
    """How many whole lines ``output`` holds, in how many bytes, and whether a line half written follows."""
    lines, end = 0, 0
    with naming(output), open(output, "rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return lines, end, True
            lines, end = lines + 1, end + len(line)
    return lines, end, False


def _ending_with_its_error(lines: Iterator) -> Iterator:
    """So that what comes before an error is translated first."""
    try:
        yield from lines
    except Exception as error:
        yield error


@contextmanager
def translating(made_by: dict, options: dict, processes: int = 1, skip_errors: bool = False, translator=None):
    """A function of jobs and a number of lines, which yields of each chunk of so many the job, the number of the first
    line, and an iterator of its lines, each with its result: a translation, or, where errors are passed over, what is
    wrong with the line.

    It is there when the model and the options are found to be right; one process is this one.
    """
    refuse_numbers(options)
    if processes == 1:
        translator = translator or Translator(**made_by)
        translator.translate_iterable([], **options)

        def here(jobs: Iterable[Job], size: int) -> Iterator[tuple[Job, int, Iterator]]:
            for job in jobs:
                for first, lines in job.chunks(size):
                    if lines is not None:
                        results = results_of(translator, lines, first, options, skip_errors)
                        yield job, first, zip(lines, results, strict=True)

        yield here
        return
    context, shares = _Spawning(), _shares(processes)
    if not made_by.get("intra_threads"):
        made_by = {**made_by, "intra_threads": min(map(len, shares))}
    started = made_by, options, skip_errors, shares, context.Value("i", 0)
    executor = ProcessPoolExecutor(processes, context, _begin, started)
    try:
        with _naming_the_killed():
            executor.submit(_work, [], 0).result()

        def pooled(jobs: Iterable[Job], size: int) -> Iterator[tuple[Job, int, Iterator]]:
            waiting: deque = deque()
            for job in jobs:
                for first, lines in job.chunks(size):
                    if lines is not None:
                        with _naming_the_killed():
                            waiting.append((job, first, lines, executor.submit(_work, lines, first)))
                    while waiting and (lines is None or len(waiting) > AHEAD * processes):
                        yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())

        yield pooled
        executor.shutdown()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in context.started:
            if process.is_alive():
                process.terminate()


class _Spawning(SpawnContext):
    """Knows the processes that it started."""

    def __init__(self):
        super().__init__()
        self.started: list = []

    def Process(self, *arguments, **options):  # noqa: N802
        self.started.append(process := super().Process(*arguments, **options))
        return process


def _done(job: Job, first: int, lines: list, future) -> tuple[Job, int, Iterator]:
    with _naming_the_killed():
        results, error = future.result()

    def all_of_them():
        yield from results
        if error is not None:
            raise error

    return job, first, zip(lines, all_of_them(), strict=True)


@contextmanager
def _naming_the_killed():
    try:
        yield
    except BrokenProcessPool:
        raise OSError(
            "processes must live until all is translated, but one was killed, as for want of memory; what is written "
            "stays, and a run that resumes goes on from there"
        ) from None


def _shares(processes: int) -> list[list[int]]:
    """The processors of each process; some have the same one where there are too few."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if len(own) < processes:
        return [[own[n % len(own)]] for n in range(processes)]
    return [own[n * len(own) // processes : (n + 1) * len(own) // processes] for n in range(processes)]


# What a process that was started to translate has.
_made_by: dict = {}
_options: dict = {}
_skip_errors = False
_translator: Translator | None = None


def _begin(made_by: dict, options: dict, skip_errors: bool, shares: list[list[int]], counter) -> None:
    global _made_by, _options, _skip_errors
    _made_by, _options, _skip_errors = made_by, options, skip_errors
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, shares[number % len(shares)])
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(lines: list, first: int) -> tuple[list, Exception | None]:
    """The results of lines, and what ended them."""
    global _translator
    if _translator is None:
        _translator = Translator(**_made_by)
        _translator.translate_iterable([], **_options)
    results: list = []
    try:
        for result in results_of(_translator, lines, first, _options, _skip_errors):
            results.append(result)
    except Exception as error:
        return results, error
    return results, None


def refuse_numbers(options: dict) -> None:
    """Refuses the option of ``translate_iterable`` that ``results_of`` says itself."""
    if "first_number" in options:
        raise ValueError(f"first_number must be left out, as lines are numbered here, got {options['first_number']!r}")


def results_of(translator, lines: list, first: int, options: dict, skip_errors: bool) -> Iterator:
    """The translations of lines, the first of which has the number ``first``; with ``skip_errors`` an error for one
    that has none."""
    if not skip_errors:
        yield from translator.translate_iterable(_raising(lines), first_number=first, **options)
        return
    done = 0
    while done < len(lines):
        rest, found = lines[done:], []
        try:
            for result in translator.translate_iterable(_raising(rest), first_number=first + done, **options):
                found.append(result)
            error = None
        except FAULTS as fault:
            error = fault
        yield from found
        done += len(found)
        if error is None:
            continue
        rest = lines[done:]
        told = isinstance(error, inputs.TooLong) or rest[0] is error
        if told or len(rest) == 1:  # then all before it were translated
            yield error
            done += 1
        else:
            half = len(rest) // 2
            for part in (rest[:half], rest[half:]):
                yield from results_of(translator, part, first + done, options, skip_errors)
                done += len(part)


def _raising(lines: list) -> Iterator[str]:
    for line in lines:
        if isinstance(line, Exception):
            raise line
        yield line
