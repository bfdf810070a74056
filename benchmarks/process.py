"""A decoder in a process of its own, driven line by line over its standard input and output.

The first line is its job, a JSON object; each line after it asks for one decode of all that the job names. The process
sleeps while it waits, so that processes can be timed in turn without disturbing each other.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.machine import ROOT, resident

# An environment in which malloc keeps freed memory, as allocators of training frameworks do.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class Refusal(Exception):
    """A decoder that cannot do its job here, and why."""


def serve(prepare: Callable[[dict], tuple]) -> None:
    """The process's side: ``prepare(job)`` -> (decode() -> the hypotheses of every source, facts for the record); and
    profile() -> where the time goes, if it can tell."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply

    def reply(value) -> None:
        print(json.dumps(value), file=replies, flush=True)

    try:
        decode, facts, *profile = prepare(json.loads(sys.stdin.readline()))
    except (ImportError, NotImplementedError, ValueError) as error:
        return reply({"refused": str(error)})
    reply({"facts": facts})
    for request in sys.stdin:
        if request == "profile\n":
            reply(profile[0]())
            continue
        began = time.perf_counter()
        hypotheses = decode()
        seconds = time.perf_counter() - began
        reply({"seconds": seconds} if request == "seconds\n" else {"seconds": seconds, "hypotheses": hypotheses})


class Process:
    """The other side: starts ``python -m module``, and ends it when the block ends."""

    def __init__(self, module: str, job: dict, environment: dict[str, str] | None = None):
        # each library is told its threads by the job
        own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self.module = module
        self.child = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**own, **(environment or {})},
        )  # fmt: skip
        try:
            answer = self._ask(json.dumps(job))
            if "refused" in answer:
                raise Refusal(f"{module.rpartition('.')[2]}: {answer['refused']}")
        except BaseException:
            self.__exit__()
            raise
        self.facts: dict = answer["facts"]

    def decode(self) -> tuple[list[list[list[int]]], float]:
        """The ids of every hypothesis of every source, and the seconds that it took."""
        answer = self._ask("decode")
        return [[list(map(int, ids)) for ids in group] for group in answer["hypotheses"]], answer["seconds"]

    def seconds(self) -> float:
        return self._ask("seconds")["seconds"]

    def profile(self) -> dict[str, list[float]]:
        return self._ask("profile")

    def peak_bytes(self) -> int:
        """The most that it has had resident so far."""
        return resident(self.child.pid, "VmHWM")

    def _ask(self, line: str) -> dict:
        try:
            print(line, file=self.child.stdin, flush=True)
        except BrokenPipeError:
            pass  # the missing answer tells
        if not (answer := self.child.stdout.readline()):
            raise RuntimeError(f"{self.module} ended with status {self.child.wait()}; its error is above")
        return json.loads(answer)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()
