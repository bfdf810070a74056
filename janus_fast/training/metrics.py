"""What a run writes down of itself on the way, in ``metrics.jsonl``."""

import json
import time
from pathlib import Path

import torch

from ..reading import read_bytes, read_text
from ..replacing import replacing
from .processes import Processes

METRICS = "metrics.jsonl"
SHOWN = 80  # characters of a line that is no record


def read_records(owner: str, metrics: str | Path, *fields: str) -> list[dict]:
    """What a run wrote down, a record a line; a ValueError of ``owner`` for a line without one of ``fields``."""
    records = []
    for number, line in enumerate(read_text(owner, metrics).splitlines(), 1):
        try:
            record = json.loads(line)
            records.append({name: record[name] for name in fields} | record)
        except (ValueError, KeyError, TypeError):
            rule = f"hold a JSON object with {' and '.join(fields)} a line"
            raise ValueError(f"{owner}: {metrics} must {rule}, got {line[:SHOWN]!r} in line {number:,}") from None
    return records


def drop_records_behind(directory: Path, update: int) -> None:
    """Leaves out what a run wrote behind the update that it goes on from, which it is about to write again.

    Damaged lines go, too.
    """
    path = directory / METRICS
    if not path.exists():
        return
    lines = read_bytes(path).decode(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _is_record(line, update)]
    if kept != lines:
        with replacing(directory) as folder:
            (folder / METRICS).write_text("".join(kept), encoding="utf-8")


def _is_record(line: str, last: int) -> bool:
    """Whether a line is a record of update ``last`` or an earlier one."""
    try:
        return json.loads(line)["update"] <= last
    except (ValueError, KeyError, TypeError):
        return False


class Window:
    """Means of loss terms over the updates since the last log line."""

    def __init__(self):
        self.sums, self.count, self.tokens, self.epoch, self.began = {}, 0, 0, 0, time.monotonic()
        self.norms: dict[str, float] = {}  # of the gradients of terms, where they were asked for

    def add(self, loss, terms) -> None:
        """Those of a batch, weighed by its part of the update."""
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()

    def count_update(self, tokens: int, epoch: int) -> None:
        self.count, self.tokens, self.epoch = self.count + 1, self.tokens + tokens, epoch

    def means(self, processes: Processes) -> dict:
        elapsed = time.monotonic() - self.began
        sums = processes.add_up(torch.stack([torch.as_tensor(value) for value in self.sums.values()]))
        means = {name: round(value / self.count, 5) for name, value in zip(self.sums, sums.tolist(), strict=True)}
        norms = {"gradient_norms": self.norms} if self.norms else {}
        return {"epoch": self.epoch, **means, **norms, "predictions_per_second": round(self.tokens / elapsed, 1)}
