"""A machine that others use, too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# Says that it runs; then looks now and then whether its parent, which ends it, is still there to do so.
LOOP = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**6): pass
"""


@contextmanager
def loops(count: int) -> Iterator[list[subprocess.Popen]]:
    """So many processes that compute without end, on this process's processors, until the block ends."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            command = [sys.executable, "-c", LOOP, str(os.getpid())]
            started.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)))
            stack.callback(started[-1].kill)
        for loop in started:
            loop.stdout.readline()
        yield started
