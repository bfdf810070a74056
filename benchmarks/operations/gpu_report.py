"""What ``make gpu`` measured on a card, for people: ``<card>.md``, of ``<card>.json`` and ``<card>-decode.json``."""

import argparse
import json
from pathlib import Path

from benchmarks.decode.gpu_decode import PEERS as DECODERS
from benchmarks.machine import RESULTS
from benchmarks.operations.operations import PEERS

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
    lines = [f"# {machine['device']}", "", *ABOUT.splitlines(), ""]
    lines += [f"Commit {machine['commit']}, torch {machine['torch']}, {machine['processor']}.", "", "## Decodes", ""]
    return "\n".join([*lines, *decode_table(decodes["records"]), "", "## Operations", "", *table(operations), ""])


def decode_table(records: list[dict]) -> list[str]:
    lines = [
        _row("model", "decoding", "batch", "type", "janus_fast", *DECODERS.values(), "floor"),
        "|---|---|---:|---|---:|" + "---:|" * (len(DECODERS) + 1),
    ]
    for record in records:
        cells = [record["config"], record["decoding"], record["batch"], record["compute_type"]]
        if "wrong" in record:
            lines.append(_row(*cells, f"wrong: {record['wrong']}", *[""] * (len(DECODERS) + 1)))
            continue
        peers = [
            f"{1e3 * record[name]:.1f} ({record[name] / record['seconds']:.1f})" if name in record else ""
            for name in DECODERS
        ]
        lines.append(_row(*cells, f"{1e3 * record['seconds']:.2f}", *peers, f"{1e3 * record['floor_seconds']:.2f}"))
    return lines


def table(operations: dict) -> list[str]:
    lines = [_row("operation", "call", "sentences", "type", *PEERS, "kernel", "time", "x"), "|---" * 2 + "|---:|---|"]
    lines[1] += "---:|" * len(PEERS) + "---|---:|---:|"
    groups: dict[tuple, dict[str, dict]] = {}
    for record in operations["records"]:
        case = record["operation"], record["label"], record["sentences"], record["dtype"]
        groups.setdefault(case, {})[record["backend"]] = record
    for case, group in groups.items():
        peers = [_time(group[name]) if name in group else "" for name in PEERS]
        for backend in [name for name in group if name not in PEERS]:
            faster = f"{group[backend]['speedup']:.2f}" if "speedup" in group[backend] else ""
            lines.append(_row(*case, *peers, backend, _time(group[backend]), faster))
    return lines


def _time(record: dict) -> str:
    return f"{1e3 * record['ms']:.1f}" if record["correct"] else "wrong"


def _row(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"
