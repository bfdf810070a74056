"""Processes side by side: so many at once, in order, until a time has come."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL = 0.2  # seconds
IN_TIME = 143  # what a process that SIGTERM asked to end leaves with, when it has written its checkpoint


@dataclass(frozen=True)
class Job:
    """``python -m`` ``words``, whose output goes to the end of ``log``, once none of the jobs ``after`` is left."""

    name: str
    words: list[str]
    log: Path
    after: Sequence[str] = ()


def run(jobs: list[Job], at_once: int, minutes: float = math.inf) -> dict[str, int]:
    """The exit status of each job that was started. After ``minutes`` those that run are asked to end, by SIGTERM,
    and no other is started; so it is, too, when this is interrupted."""
    waiting, running, statuses = list(jobs), {}, {}
    end = time.monotonic() + 60 * minutes
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    try:
        while waiting or running:
            if time.monotonic() > end:
                break
            left = {job.name for job in waiting} | set(running)
            ready = [job for job in waiting if not left & set(job.after)]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with job.log.open("ab") as log:
                    command = [sys.executable, "-m", *job.words]
                    running[job.name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            time.sleep(POLL)
            statuses |= {name: process.poll() for name, process in running.items() if process.poll() is not None}
            running = {name: process for name, process in running.items() if name not in statuses}
    finally:
        for process in running.values():
            process.terminate()
        # one that had no time to say what SIGTERM means to it has nothing to keep
        ended = {name: process.wait() for name, process in running.items()}
        statuses |= {name: IN_TIME if status == -signal.SIGTERM else status for name, status in ended.items()}
    return statuses
