"""``janus-fast translate``: a translation for each line, in order, as soon as it is there."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from ..uninterrupted import uninterrupted
from . import _decoding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _decoding.add_model_arguments(parser)
    parser.add_argument(
        "files", metavar="FILE", nargs="*", default=[], help="text, one sentence a line (default: standard input)"
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument("--json", action="store_true", help="write one JSON object a line, with scores")
    _decoding.add_decoding_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    options = _decoding.decoding_options(arguments)
    if not arguments.json and options.get("num_hypotheses", 1) > 1:
        raise ValueError(f"--num-hypotheses must be 1 without --json, got {options['num_hypotheses']}")
    for file in arguments.files:
        if not Path(file).exists():
            raise ValueError(f"FILE must exist, got {file}")
        if arguments.output and Path(arguments.output).exists() and Path(arguments.output).samefile(file):
            raise ValueError(f"--output must be another file than the one that is read, got {arguments.output}")
    total = _count_lines(arguments.files)
    translator = _decoding.translator(arguments)
    # Somebody who types wants an answer to each line; everything else is faster in batches of similar lengths.
    batch_size = 1 if not arguments.files and sys.stdin.isatty() else arguments.batch_size
    ahead = 1 if batch_size == 1 else 4 * batch_size * arguments.inter_threads
    done = 0
    with ExitStack() as stack:
        stack.enter_context(_naming(arguments.output or "standard output"))
        output = sys.stdout
        if arguments.output:
            output = stack.enter_context(open(arguments.output, "w", encoding="utf-8", newline="\n"))
        bar = stack.enter_context(
            tqdm(total=total, unit=" sentences", disable=not sys.stderr.isatty() or output.isatty())
        )
        try:
            lines = _short_enough(read_lines(arguments.files), translator, options.get("max_input_length"))
            results = translator.translate_iterable(lines, max_batch_size=batch_size, read_batch_size=ahead, **options)
            for result in results:
                # An interruption waits until the line is written and counted, unless a reader may keep it waiting.
                with uninterrupted() if arguments.output else nullcontext():
                    output.write(_line(result, arguments.json) + "\n")
                    output.flush()
                    done += 1
                bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the first {done:,} translations are written") from None
    return 0


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """A fault that the system reports without a file, such as a full disk, is one of ``file``."""
    try:
        yield
    except OSError as error:
        if error.filename or not error.strerror:
            raise
        raise OSError(error.errno, error.strerror, file) from None


def _line(result, as_json: bool) -> str:
    if not as_json:
        return result.hypotheses[0]
    scores = [score if math.isfinite(score) else None for score in result.scores]
    record = {"hypotheses": result.hypotheses, "scores": scores, "iterations": result.iterations}
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def read_lines(files: list[str]) -> Iterator[str]:
    """The lines of files, or of standard input, one after another; only a line feed ends a line."""
    if not files:
        sys.stdin.reconfigure(encoding="utf-8", newline="\n")
        yield from _lines_of(sys.stdin, "standard input")
    for file in files:
        with open(file, encoding="utf-8", newline="\n") as stream:
            yield from _lines_of(stream, file)


def _lines_of(stream, name: str) -> Iterator[str]:
    try:
        for line in stream:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be UTF-8 text, got {error}") from None


def _short_enough(lines: Iterator[str], translator, cut: int | None) -> Iterator[str]:
    config = translator.config
    limit, ends = config.max_source_positions, len(config.source_ids([]))
    for number, line in enumerate(lines, 1):
        length = len(translator.source_vocabulary.encode(line))
        if min(length, cut or length) + ends > limit:
            raise ValueError(
                f"line {number:,} must have at most {limit} tokens, bos and eos included, got {length + ends}; "
                f"--max-input-length {limit - ends} cuts such lines"
            )
        yield line


def _count_lines(files: list[str]) -> int | None:
    """How many there are, for the progress bar; None when that cannot be told without reading a pipe."""
    if not files or not all(Path(file).is_file() for file in files):
        return None
    total = 0
    for file in files:
        with open(file, "rb") as stream:
            total += sum(1 for _ in stream)
    return total
