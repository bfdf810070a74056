"""Results of decodes for people: a line, a table in Markdown, a picture."""

import json
from pathlib import Path

from benchmarks import memory

NAMES = {"janus_fast": "janus_fast", "ctranslate2": "CTranslate2", "pytorch": "PyTorch, eager"}

ABOUT = """\
Milliseconds a batch: the median, and the 20th and 80th percentiles in parentheses. Sources of 20 to 30 tokens,
outputs of 25; random weights. Each decoder is a process of its own, at the best of its settings, and they run in
turn. `x` says how many times as long as janus_fast a peer takes. CTranslate2 decodes an ordinary Transformer of the
same sizes from left to right; PyTorch does what janus_fast does. In parallel one length is tried. Peers without the
compute type use the one in brackets. The floor is what reading the weights and multiplying takes on this machine at
least (`benchmarks/floors.py`); beside it is its share of janus_fast's time.
"""


def line(record: dict) -> str:
    what = f"{record['config']}, {record['decoding']}, batch {record['batch']}, {record['compute_type']}"
    if "wrong" in record:
        return f"{what}: wrong"
    parts = [f"{1e3 * record['seconds']:.1f} ms"]
    for name, peer in _timed(record).items():
        parts.append(f"{NAMES[name]} ({peer['compute_type']}) {1e3 * peer['seconds']:.1f}")
    if record["floor_seconds"]:
        parts.append(f"floor {1e3 * record['floor_seconds']:.1f}")
    return f"{what}: {', '.join(parts)}"


def write(results: dict, directory: Path) -> None:
    """decode.json, which holds everything, and decode.md and decode.png, which are made of it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "decode.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "decode.md").write_text(markdown(results))
    if any("seconds" in record for record in results["records"]):
        draw(results, directory / "decode.png")


def markdown(results: dict) -> str:
    machine, records = results["machine"], results["records"]
    versions = {NAMES[n]: peer["version"] for r in records for n, peer in _timed(r).items()}
    lines = [
        "# Whole decodes",
        "",
        *ABOUT.splitlines(),
        "",
        f"{machine['processor']}, {machine['threads']} threads; commit {machine['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "",
        "| model | decoding | batch | type | janus_fast | CTranslate2 | x | PyTorch | x | floor | |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        cells = [record["config"], record["decoding"], str(record["batch"]), record["compute_type"]]
        if "wrong" in record:
            lines.append(_cells([*cells, f"wrong: {record['wrong']}", *[""] * 6]))
            continue
        cells.append(_time(record))
        for name in ("ctranslate2", "pytorch"):
            peer = _timed(record).get(name)
            other = f" [{peer['compute_type']}]" if peer and peer["compute_type"] != record["compute_type"] else ""
            cells += [_time(peer) + other, f"{peer['seconds'] / record['seconds']:.1f}"] if peer else ["", ""]
        floor = record["floor_seconds"]
        cells += [f"{1e3 * floor:.1f}", f"{100 * floor / record['seconds']:.0f} %"] if floor else ["", ""]
        lines.append(_cells(cells))
    return "\n".join([*lines, "", f"Memory: {memory.line(results['memory'])}.", ""])


def _timed(record: dict) -> dict[str, dict]:
    return {name: peer for name, peer in record.get("peers", {}).items() if "seconds" in peer}


def _time(record: dict) -> str:
    middle, low, high = (1e3 * record[name] for name in ("seconds", "seconds_p20", "seconds_p80"))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(results: dict, file: Path) -> None:
    """A panel a model and batch: bars of every decoder, and a mark at the floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [record for record in results["records"] if "seconds" in record]
    panels = list(dict.fromkeys((record["config"], record["batch"]) for record in records))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 6), squeeze=False, layout="constrained")
    colours = dict(zip(NAMES, ("#1b6ca8", "#e08a1e", "#9a9a9a"), strict=True))
    for axis, panel in zip(axes[0], panels, strict=True):
        shown = [record for record in records if (record["config"], record["batch"]) == panel]
        for place, record in enumerate(shown):
            bars = {"janus_fast": record, **_timed(record)}
            height = 0.8 / len(bars)
            for number, (name, bar) in enumerate(bars.items()):
                axis.barh(
                    place - 0.4 + (number + 0.5) * height, 1e3 * bar["seconds"], 0.9 * height, color=colours[name]
                )
            if record["floor_seconds"]:
                axis.plot([1e3 * record["floor_seconds"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        labels = [f"{record['decoding']}\n{record['compute_type']}" for record in shown]
        axis.set(xscale="log", yticks=range(len(shown)), yticklabels=labels, xlabel="ms a batch")
        axis.set_title(f"{panel[0]}, batch {panel[1]}")
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    handles.append(plt.Line2D([], [], color="black", linewidth=1.5))
    figure.legend(handles, [*NAMES.values(), "floor"], loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
