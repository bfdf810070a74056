"""What becomes of the memory that a process frees while a model trains.

Each step allocates and frees the same large blocks. glibc's malloc gives some of them, those of more than 32 MiB and
what is free at the end of the heap, back to the system at once, and gets them back as pages that must be cleared and
mapped again, one fault for every 4 KiB. Where it keeps them all, they come to lie apart, with holes in between that
fit no other block: a step is faster, and holds more memory than it uses. Blocks that are kept may then as well lie in
pages of 2 MiB, which spare a virtual machine much looking up of addresses.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of <malloc.h>
# What a program that has freed large blocks comes to by itself.
USUAL = {M_TRIM_THRESHOLD: 64 * 2**20, M_MMAP_THRESHOLD: 32 * 2**20, M_MMAP_MAX: 65536}
KEEPING = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}  # the heap never shrinks, and every block comes from it
RETURNING = {M_TRIM_THRESHOLD: 2**20, M_MMAP_THRESHOLD: 2**20}  # larger blocks are no part of the heap

MADV_HUGEPAGE = 14  # of <sys/mman.h>
AHEAD = 2 * 2**30  # bytes by which the heap grows at once: addresses, which cost nothing until they are used


@contextmanager
def freed_memory(*, kept: bool) -> Iterator[bool]:
    """Lets malloc keep what the process frees, or return all large blocks at once, until the block ends.

    Yields whether it does, which takes glibc. The whole process is concerned. Elsewhere, under another allocator, and
    where the user has told malloc what to do (``MALLOC_...`` or ``GLIBC_TUNABLES`` in the environment) nothing changes.
    """
    libc = ctypes.CDLL(None)
    told = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if told or not hasattr(libc, "gnu_get_libc_version"):
        yield False
        return
    try:
        done = all([libc.mallopt(*option) for option in (KEEPING if kept else RETURNING).items()])
        if kept:
            _take_huge_pages(libc)
        yield done
    finally:
        for option in USUAL.items():
            libc.mallopt(*option)
        libc.malloc_trim(0)


def _take_huge_pages(libc: ctypes.CDLL) -> None:
    """Asks for pages of 2 MiB in the heap and what it grows by next, where Linux has them for who asks."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(AHEAD))  # stays at the heap's end, which no longer shrinks
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            libc.madvise(begin, end - begin, MADV_HUGEPAGE)
