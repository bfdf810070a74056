"""The circumstances that go with every measurement."""

import os
import subprocess

from janus_fast.commands.info import information


def machine(threads: int) -> dict:
    return {**information(), "threads": threads, "load_average": os.getloadavg()[0], "commit": commit()}


def commit() -> str | None:
    command = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None
