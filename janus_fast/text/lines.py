"""Text files as lines: UTF-8, in which a line feed alone ends a line, so that aligned files stay aligned.

A carriage return before it and a byte-order mark at the beginning of a file are no text.
"""

import io
import select
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from ..reading import naming

STANDARD = "-"  # as the name of a file: standard input, or output


def as_line(text: str) -> str:
    """``text`` in one line: whatever ends a line to some reader (:meth:`str.splitlines`) becomes a space."""
    return " ".join(text.splitlines())


def lines_of(path: str | Path) -> list[str]:
    """The lines of a file, or of standard input."""
    with opened(path) as stream:
        return list(decoded(stream, path))


def opened(path: str | Path):
    """The bytes of a file, or of standard input, in a context."""
    if path != STANDARD:
        return open(path, "rb")
    if sys.stdin is None:
        raise ValueError("standard input must be open, got a closed one")
    return nullcontext(sys.stdin.buffer)


def named(path: str | Path) -> str | Path:
    """``path`` in messages."""
    return "standard input" if path == STANDARD else path


def decoded(
    lines: Iterable[bytes | None], name: str | Path, failing: bool = False
) -> Iterator[str | None | ValueError]:
    """The text of lines of bytes, which are those of the file ``name``; None stays None. Of a line that is no UTF-8 the
    error is raised, or, with ``failing``, stands in its place."""
    number = 0
    with naming(named(name)):
        for line in lines:
            if line is None:
                yield None
                continue
            number += 1
            if number == 1 and not (line := line.removeprefix(BOM_UTF8)):
                continue
            try:
                yield line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                what = f"byte 0x{line[error.start]:02x} in line {number:,}"
                wrong = ValueError(f"{named(name)} must be UTF-8 text, got {what}")
                if not failing:
                    raise wrong from None
                yield wrong


def arriving(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """The lines of a stream as they come: None where the next one is not there yet."""
    line = b""
    while True:
        if not _ready(stream, wait=False):
            yield None
            _ready(stream, wait=True)
        if not (block := stream.read1(1 << 16)):
            break
        first, *rest = block.split(b"\n")
        line += first
        for part in rest:
            yield line + b"\n"
            line = part
    if line:
        yield line


def _ready(stream: io.BufferedIOBase, wait: bool) -> bool:
    """Whether ``stream`` has bytes or ends; with ``wait``, as soon as it does."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # it lies in memory
        return True
    poll = select.poll()  # not select, which takes no descriptor above 1,023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if wait else 0))
