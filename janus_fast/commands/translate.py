"""``janus-fast translate``: a translation for each line, in order, as soon as it is there."""

import argparse
import dataclasses
import json
import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from ..decoding.modes import MODES
from ..inputs import OptionError, TooLong, check_input, check_output, check_output_folder
from ..reading import naming
from ..text.lines import STANDARD, arriving, as_line, decoded, opened
from ..uninterrupted import uninterrupted
from . import _decoding

MOST_TRACED = 100  # translations that a page shows
# Ends of lines to some readers that JSON leaves as they are.
SEPARATORS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _decoding.add_model_arguments(parser)
    parser.add_argument(
        "files", metavar="FILE", nargs="*", default=[], help="text, one sentence a line (default: -, standard input)"
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument("--output-dir", metavar="DIR", help="instead: where each FILE is written to, by its name")
    parser.add_argument("--json", action="store_true", help="write one JSON object a line, with scores")
    parser.add_argument(
        "--processes", type=_decoding.positive, default=1, metavar="N",
        help="translate with so many processes, each with its share of the processors (default: 1)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on behind the lines that the output holds already")
    parser.add_argument(
        "--skip-errors", action="store_true",
        help="a line that is too long or fails becomes an empty one, and is named on standard error",
    )  # fmt: skip
    parser.add_argument(
        "--trace", metavar="FILE",
        help=f"write a page of HTML, too, that shows how the first {MOST_TRACED} translations came about",
    )  # fmt: skip
    _decoding.add_decoding_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .. import files as texts
    from ..backend import most_at_once

    options = _decoding.decoding_options(arguments)
    if not arguments.json and options.get("num_hypotheses", 1) > 1:
        raise ValueError(f"--num-hypotheses must be 1 without --json, got {options['num_hypotheses']}")
    files, outputs = arguments.files or [STANDARD], _outputs(arguments)
    trace = Trace(arguments, options) if arguments.trace else None
    made_by, skip = _decoding.made_by(arguments), arguments.skip_errors
    at_once = most_at_once(**{name: value for name, value in made_by.items() if name != "model"})
    ahead = 4 * arguments.batch_size * at_once
    options |= {"max_batch_size": arguments.batch_size, "read_batch_size": ahead}
    report, job = texts.Report(), None
    began = time.monotonic()
    with ExitStack() as stack:
        # options that are wrong are refused before a file is opened
        translate = stack.enter_context(texts.translating(made_by, options, arguments.processes, skip))
        if trace:
            stack.enter_context(trace)
        groups = [[file] for file in files] if arguments.output_dir else [files]
        jobs = []
        for group, output in zip(groups, outputs, strict=True):
            name = ", ".join(map(str, group))
            with naming(output):
                jobs.append(texts.job_of(name, _lines(group, skip), output, arguments.resume))
        hidden = not sys.stderr.isatty() or (outputs == [None] and sys.stdout.isatty())
        bar = stack.enter_context(tqdm(total=_count_lines(files), unit=" sentences", disable=hidden))
        bar.update(sum(job.begin for job in jobs))
        try:
            for job, first, results in translate(jobs, ahead):
                number = first
                if not skip:
                    results = _explained(results, first, job.name if outputs[1:] else None)
                results = texts.started(results)  # which may find the first line too long
                with naming(job.output or "standard output"), _written(job.output) as written:
                    for source, result in results:
                        job.cut(written)
                        number += 1
                        if isinstance(result, Exception):
                            why = _told(result, number, job.name if outputs[1:] else None)
                            report.skipped.append((job.name, number, why))
                            bar.write(f"janus-fast: passed over: {why}", file=sys.stderr)
                        elif trace:
                            result = trace.take(source, result)
                        # An interruption waits until the line is written, unless a reader may keep it waiting.
                        with uninterrupted() if job.output else nullcontext():
                            written.write(_line(result, arguments.json) + "\n")
                            written.flush()
                            report.lines += 1
                        bar.update()
                report.bytes, report.seconds = sum(job.bytes for job in jobs), time.monotonic() - began
                bar.set_postfix_str(f"{report.megabytes_per_minute:.2f} MB/minute", refresh=False)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the first {report.lines:,} translations are written") from None
    if arguments.output_dir or arguments.processes > 1 or skip:
        print(f"janus-fast: {report}", file=sys.stderr)
    return 0


def _explained(results: Iterator, number: int, file: str | None) -> Iterator:
    """``results`` of lines behind the first ``number``; an error that ends them says how to go on without its line."""
    from ..files import FAULTS

    try:
        for result in results:
            number += 1
            yield result
    except OptionError:  # of no line
        raise
    except FAULTS as error:
        why = _told(error, number + 1, file) if isinstance(error, TooLong) else error
        raise ValueError(f"{why}; --skip-errors passes over such lines") from None


def _told(error: Exception, number: int, file: str | None) -> str:
    """What is wrong with a line, in terms of the command; ``file`` where there are several outputs."""
    what = f"{file}, line {number:,}" if file else f"line {number:,}"
    if isinstance(error, TooLong):
        return error.named(what, "--max-input-length {} cuts such lines")
    return f"{what}: {error}"


def _outputs(arguments: argparse.Namespace) -> list[str | None]:
    """Where to write, once or for each file; None is standard output."""
    files, folder = arguments.files or [STANDARD], arguments.output_dir
    output = None if arguments.output == STANDARD else arguments.output
    _check_files(files, output)
    if output:
        check_output("--output", output)
    if folder is None:
        if arguments.resume and not output:
            raise ValueError("--resume must go with --output FILE or --output-dir, got standard output")
        return [output]
    if arguments.output:
        raise ValueError(f"--output-dir must be given without --output, got {arguments.output}")
    if STANDARD in files:
        raise ValueError("--output-dir must go with files that have names, got standard input")
    names: dict[str, str] = {}
    for file in files:
        if (name := os.path.basename(file)) in names:
            raise ValueError(f"--output-dir must go with files of different names, got {names[name]} and {file}")
        names[name] = file
    check_output_folder("--output-dir", folder)
    os.makedirs(folder, exist_ok=True)
    outputs = [os.path.join(folder, name) for name in names]
    from ..files import check_pairs

    check_pairs("--output-dir", files, outputs)
    return outputs


@contextmanager
def _written(output: str | None) -> Iterator:
    if output is None:
        yield sys.stdout
        return
    with open(output, "a", encoding="utf-8", newline="\n") as stream:
        yield stream


class Trace:
    """The page of ``--trace``, written when its context ends, however that is; ``options`` get what it needs."""

    def __init__(self, arguments: argparse.Namespace, options: dict):
        self.file, self.asked = arguments.trace, options.get("num_hypotheses", 1)
        check_output("--trace", self.file)
        if any(_same(file, self.file) for file in arguments.files or [STANDARD]) or _same(self.file, arguments.output):
            raise ValueError(f"--trace must be another file than those that are read and written, got {self.file}")
        fields = MODES[arguments.mode].fields
        if "return_history" in fields:
            options["return_history"] = True
        if "length_beam" in fields:  # all lengths that are tried
            options["num_hypotheses"] = options.get("length_beam", fields["length_beam"].default)
        self.sources: list[str] = []
        self.results: list = []
        self.count = 0
        self.called = f"{arguments.model}, {MODES[arguments.mode].title}"

    def take(self, source: str, result):
        """Keeps a source and its result, and returns what was asked for of it."""
        self.count += 1
        if len(self.results) < MOST_TRACED:
            self.sources.append(source)
            self.results.append(result)
        cut = {name: getattr(result, name)[: self.asked] for name in ("hypotheses", "scores", "iterations")}
        return dataclasses.replace(result, **cut)

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_) -> None:
        from ..trace import page

        shown = len(self.results)
        note = f"The first {shown} of {self.count:,} translations." if shown < self.count else ""
        text = page(self.sources, self.results, title=self.called, note=note)
        with naming(self.file):
            Path(self.file).write_bytes(text.encode("utf-8", "replace"))


def _line(result, as_json: bool) -> str:
    if isinstance(result, Exception):
        return json.dumps({"hypotheses": [], "scores": [], "iterations": [], "error": str(result)}) if as_json else ""
    if not as_json:
        return as_line(result.hypotheses[0])
    scores = [score if math.isfinite(score) else None for score in result.scores]
    record = {"hypotheses": result.hypotheses, "scores": scores, "iterations": result.iterations}
    return json.dumps(record, ensure_ascii=False, allow_nan=False).translate(SEPARATORS)


def _check_files(files: list[str], output: str | None) -> None:
    """Refuses what cannot be read, and to read what is written."""
    for file in files:
        if file != STANDARD:
            check_input("FILE", file)
        if file == STANDARD and sys.stdin is None:
            raise ValueError("standard input must be open, got a closed one")
        if _same(file, output):
            name = output or "standard output"
            raise ValueError(f"--output must be another file than the one that is read, got {name}")


def _same(file: str, output: str | None) -> bool:
    """Whether ``file`` is what would be written; standard streams may be files, too."""
    if output and not os.path.exists(output):  # nor is the other, if it is the same
        return os.path.realpath(output) == os.path.realpath(file)
    try:
        source = os.stat(sys.stdin.fileno() if file == STANDARD else file)
        target = os.stat(output or sys.stdout.fileno())
    except OSError:  # one of them is in memory, or not there yet
        return False
    return stat.S_ISREG(target.st_mode) and os.path.samestat(source, target)


def _lines(files: list[str], failing: bool = False) -> Iterator[str | None | ValueError]:
    """The lines of files one after another; None where the next one is not there yet."""
    for file in files:
        with opened(file) as stream:
            yield from decoded(arriving(stream), file, failing)


def _count_lines(files: list[str]) -> int | None:
    """How many there are, for the progress bar; None when that cannot be told without reading a pipe."""
    if STANDARD in files or not all(Path(file).is_file() for file in files):
        return None
    total = 0
    for file in files:
        with naming(file), open(file, "rb") as stream:
            total += sum(1 for _ in stream)
    return total
