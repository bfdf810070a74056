"""Files that take the place of older ones all together, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .uninterrupted import uninterrupted


@contextmanager
def replacing(directory: str | Path, removed: Iterable[str] = (), *, last: str | None = None) -> Iterator[Path]:
    """A temporary directory whose files take the places of their namesakes in ``directory``, ``last`` last.

    They do so once all of them are safely on disk: a failure before leaves everything as it was. Then the names in
    ``removed`` go, and the files are renamed one by one. An interruption from the keyboard waits until that is done;
    if the machine stops in between, what is half replaced lacks the files that were removed and not yet renamed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=directory))
    try:
        yield temporary
        files = sorted(temporary.iterdir(), key=lambda file: file.name == last)
        for path in files:
            _sync(path)
        with uninterrupted():
            for name in removed:
                (directory / name).unlink(missing_ok=True)
            for path in files:
                os.replace(path, directory / path.name)
            _sync(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
