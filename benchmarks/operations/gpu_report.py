"""What ``make gpu`` measured on a card, for people: ``<card>.md``, of ``<card>.json`` and ``<card>-decode.json``."""

import argparse
import json
from pathlib import Path

from benchmarks import report
from benchmarks.decode import gpu_decode
from benchmarks.machine import RESULTS
from benchmarks.operations.operations import PEERS, grouped

ABOUT = """\
Median times. Operations: microseconds of the device, on a cold cache, without the host's time for launching, at the
sizes of `wmt16_enro` (width 512, 8 heads, 35,000 words); `x` is the time of the fastest peer over the kernel's. What
is `wrong` is further from the definition than its budget, and not timed; what is blank was not run. `torch` is eager
PyTorch and, for attention, SDPA with a dense mask. `update_mask` and the peers of `predict_lengths` ask the device
for numbers on the way, so the host's time is in theirs. Decodes: milliseconds of the host's clock, from ids to ids,
of a post-norm model with random weights (`base`: width 512, 6 + 6 layers, 32,000 words), sources of 20 to 30 tokens,
outputs of 25; in parentheses how many times as long as janus_fast. Transformers decodes an ordinary Transformer of
the same sizes from left to right, PyTorch does what janus_fast does: in parallel with one length. The floor is what
reading the weights and multiplying takes on that card at least.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_report", description=__doc__.partition("\n")[0])
    parser.add_argument("card", help="as its files are named, such as nvidia-h200")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are (default: benchmarks/results)")
    arguments = parser.parse_args(argv)
    write(arguments.results, arguments.card)
    return 0


def write(directory: Path, card: str) -> None:
    operations, decodes = (
        json.loads((directory / f"{card}{part}.json").read_text(encoding="utf-8")) for part in ("", "-decode")
    )
    (directory / f"{card}.md").write_text(markdown(operations, decodes), encoding="utf-8")


def markdown(operations: dict, decodes: dict) -> str:
    machine = operations["machine"]
    return report.markdown(
        machine["device"], ABOUT, f"Commit {machine['commit']}, torch {machine['torch']}, {machine['processor']}.",
        "## Decodes", report.table(gpu_decode.HEADER, gpu_decode.rows_of(decodes["records"]), "llrlr"),
        "## Operations", table(operations),
    )  # fmt: skip


def table(operations: dict) -> list[str]:
    rows = []
    for case, group in grouped(operations["records"], "operation", "label", "sentences", "dtype"):
        peers = [_time(group[name]) if name in group else "" for name in PEERS]
        for backend in [name for name in group if name not in PEERS]:
            faster = f"{group[backend]['speedup']:.2f}" if "speedup" in group[backend] else ""
            rows.append([*case, *peers, backend, _time(group[backend]), faster])
    header = "operation", "call", "sentences", "type", *PEERS, "kernel", "time", "x"
    return report.table(header, rows, "llrl" + "r" * len(PEERS) + "lr")


def _time(record: dict) -> str:
    return f"{1e3 * record['ms']:.1f}" if record["correct"] else "wrong"
