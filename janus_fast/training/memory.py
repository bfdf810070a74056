"""Keeping freed memory in the process while a model trains.

Each step allocates and frees the same large blocks. glibc's malloc returns such blocks to the system at once, and gets
them back as pages that must be cleared and mapped again, one fault for every 4 KiB.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# From <malloc.h>, and what each is unless a program or its environment says otherwise.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65536}
KEEPING = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}  # the heap never shrinks, and every block comes from it


@contextmanager
def keeping_freed_memory() -> Iterator[bool]:
    """Lets malloc keep what the process frees, until the block ends; yields whether it does, which takes glibc.

    The whole process is concerned. Elsewhere, and under another allocator, nothing changes.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        yield False
        return
    try:
        yield all([libc.mallopt(option, value) for option, value in KEEPING.items()])
    finally:
        for option, value in DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
