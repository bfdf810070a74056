"""Files and directories that one process at a time may write."""

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .inputs import OptionError


@contextmanager
def holding(path: str | Path, argument: str) -> Iterator[None]:
    """Holds ``path``, which exists, for this process; an OptionError of ``argument`` where another one has it.

    The system lets go of it when the process ends, however that comes about, and nothing is left on disk. Warns where
    the file system cannot hold it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(argument, "not be what another process is writing", str(path)) from None
        except OSError as error:  # NFS does not lock what is open for reading alone; other file systems lock nothing
            why = f"this file system does not hold it ({error.strerror})"
            warnings.warn(f"{argument}: no other process may write {path} meanwhile: {why}", stacklevel=3)
        yield
    finally:
        os.close(descriptor)
