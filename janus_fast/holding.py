"""Files and directories that one process at a time may write."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .inputs import OptionError


@contextmanager
def holding(path: str | Path, argument: str) -> Iterator[None]:
    """Holds ``path``, which exists, for this process; an OptionError of ``argument`` where another one has it.

    The system lets go of it when the process ends, however that comes about, and nothing is left on disk.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(argument, "not be what another process is writing", str(path)) from None
        yield
    finally:
        os.close(descriptor)
