"""Files as they are read: what the system refuses, or what is no UTF-8, is told with the name of the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """A fault that the system reports without a file, such as a failing or a full disk, is one of ``file``."""
    try:
        yield
    except OSError as error:
        if error.filename or not error.strerror:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from None


def read_bytes(file: str | Path) -> bytes:
    with naming(file):
        return Path(file).read_bytes()


def read_text(owner: str, file: str | Path) -> str:
    """The text of a file that is all UTF-8, else a ValueError of ``owner``; ends of lines become line feeds."""
    with naming(file):
        try:
            return Path(file).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{owner}: {file} must be UTF-8 text, got {error}") from None
