"""Results of training steps for people: a line, a table, and where the time goes."""

import json
from pathlib import Path

KINDS = {  # of operators, by words in their names; the first that fits
    "joint loss": ("janus_fast::joint_loss",),
    "attention": ("janus_fast::attention",),
    "dropout and residuals": ("janus_fast::dropout_add",),
    "matrix products": ("::mm", "::addmm", "::linear", "::bmm"),
    "norms": ("layer_norm",),
    "Adam and clipping": ("adam", "linalg_vector_norm", "::mul_", "::stack"),
    "activations": ("threshold", "clamp_min", "relu", "gelu", "silu"),
    "sums of bias gradients": ("aten::sum",),
    "copies, casts and filling": ("copy_", "::fill_", "zero_", "::cat", "clone"),
}
ABOUT = """\
An update on 39 sentence pairs in which each stream could predict 1,014 target tokens: forward and backward pass,
clipping, Adam; dropout 0.3, random weights, a Transformer with 6+6 layers, width 512, feed-forward 1,024, 4 heads and
10,000 words. The peer is the authors' way in plain PyTorch, in float32 (`benchmarks/peers/padded_janus.py`): padded
batches and dense masks, two passes of the encoder, two of the decoder, logits of all rows. It runs as it comes and with
an allocator that keeps memory between steps, as janus_fast's trainer does but where activations are computed again.
Times are medians of {rounds} steps, of processes that run in turn; memory is the most that such a process has resident,
from its start on, above an interpreter with torch; PyTorch's with the allocator as it comes.
"""


def line(record: dict) -> str:
    mib = {name: record[name] / 2**20 for name in ("peak_bytes", "eager_peak_bytes")}
    return (
        f"{record['config']}, {label(record)}: {record['seconds']:.2f} s an update, PyTorch "
        f"{record['eager_seconds']:.2f} s, {record['speedup']:.2f} times as fast; "
        f"{mib['peak_bytes']:,.0f} MiB, PyTorch {mib['eager_peak_bytes']:,.0f} MiB"
    )


def label(record: dict) -> str:
    return record["dtype"] + (", activations computed again" if record["checkpoint_activations"] else "")


def by_kind(profile: list) -> dict[str, float]:
    """Seconds of each kind of operator, the longest first."""
    seconds = {}
    for name, _, own in profile:
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "everything else")
        seconds[kind] = seconds.get(kind, 0.0) + own
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def write(results: dict, directory: Path) -> None:
    """training.json, which holds everything, and training.md, which is made of it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "training.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "training.md").write_text(markdown(results))


def markdown(results: dict) -> str:
    machine, records = results["machine"], [r for r in results["records"] if "seconds" in r]
    rounds = " or ".join(map(str, sorted({len(times) for r in records for times in r["samples"].values()})))
    lines = [
        "# A training step", "", *ABOUT.format(rounds=rounds).splitlines(), "",
        f"{machine['processor']}, {machine['threads']} threads; commit {machine['commit']}; PyTorch {machine['torch']}",
        "",
        "| janus_fast in | s an update | PyTorch | x | PyTorch, memory kept | x | MiB | PyTorch | x |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for record in records:
        cells = [label(record), f"{record['seconds']:.2f}"]
        for name in ("eager", "eager_keeping"):
            seconds = record["peers"][name]["seconds"]
            cells += [f"{seconds:.2f}", f"{seconds / record['seconds']:.1f}"]
        peaks = [record[name] / 2**20 for name in ("peak_bytes", "eager_peak_bytes")]
        cells += [*(f"{peak:,.0f}" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for record in (r for r in records if not r["checkpoint_activations"]):
        kinds = by_kind(record["profile"])
        total = sum(kinds.values())
        lines += [
            "",
            f"Where the time goes in {label(record)}, under a profiler:",
            "",
            "| | ms | |",
            "|---|---:|---:|",
        ]
        lines += [f"| {kind} | {1e3 * own:.0f} | {100 * own / total:.0f} % |" for kind, own in kinds.items()]
    return "\n".join([*lines, ""])
