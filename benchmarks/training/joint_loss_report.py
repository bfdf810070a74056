"""Results of the joint loss for people: a line and a table."""

import json
from pathlib import Path

ABOUT = """\
The loss of three streams over a shared output matrix, forward and backward: three cross-entropies with label smoothing,
three symmetric divergences. PyTorch gets the same numbers in float32, whatever the type of janus_fast. Times are
medians of {rounds} steps, of processes that run in turn and keep memory between steps; memory is the most that a step
has resident above its inputs and gradients, with the allocator as it comes.
"""


def line(record: dict) -> str:
    mib = {name: record[name] / 2**20 for name in ("peak_bytes", "eager_peak_bytes")}
    return (
        f"{record['rows']:,} rows a stream, {record['vocabulary']:,} tokens, {record['dtype']}: "
        f"{record['seconds']:.3f} s, PyTorch ({record['better_peer']}) {record['eager_seconds']:.3f} s, "
        f"{record['speedup']:.2f} times as fast; {mib['peak_bytes']:.1f} MiB, PyTorch {mib['eager_peak_bytes']:.1f} MiB"
    )


def write(results: dict, directory: Path) -> None:
    """joint_loss.json, which holds everything, and joint_loss.md, which is made of it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "joint_loss.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "joint_loss.md").write_text(markdown(results))


def markdown(results: dict) -> str:
    machine, records = results["machine"], [record for record in results["records"] if "seconds" in record]
    peers = list(dict.fromkeys(name for record in records for name in record["peers"]))
    rounds = " or ".join(map(str, sorted({len(times) for record in records for times in record["samples"].values()})))
    header = ["rows a stream", "vocabulary", "channels", "janus_fast in", "s"]
    header += [cell for name in peers for cell in (f"PyTorch, {name}", "x")]
    header += ["MiB", *(f"PyTorch, {name}" for name in peers)]
    rows = []
    for record in records:
        cells = [f"{record[name]:,}" for name in ("rows", "vocabulary", "channels")]
        cells += [record["dtype"], f"{record['seconds']:.3f}"]
        for name in peers:
            seconds = record["peers"][name]["seconds"]
            cells += [f"{seconds:.3f}", f"{seconds / record['seconds']:.2f}"]
        peaks = [record["peak_bytes"], *(record["peers"][name]["peak_bytes"] for name in peers)]
        rows.append(cells + [f"{peak / 2**20:,.0f}" for peak in peaks])
    place = f"{machine['processor']}, {machine['threads']} threads"
    versions = f"commit {machine['commit']}; PyTorch {machine['torch']}"
    table = [f"| {' | '.join(row)} |" for row in (header, ["---:"] * len(header), *rows)]
    about = ABOUT.format(rounds=rounds).splitlines()
    return "\n".join(["# The joint loss", "", *about, "", f"{place}; {versions}", "", *table, ""])
