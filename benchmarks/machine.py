"""The circumstances that go with every measurement, where its results go, and how much memory a process has."""

import os
import subprocess
from pathlib import Path

from janus_fast.commands.info import information

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def machine(threads: int) -> dict:
    return {**information(), "threads": threads, "load_average": os.getloadavg()[0], "commit": commit()}


def commit() -> str | None:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def resident(process: int | str = "self", field: str = "VmRSS") -> int:
    """Bytes of a process in memory, of Linux; "VmHWM": the most there were, "RssFile": those of mapped files."""
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:")) * 1024
