"""Results of decodes for people: a line, a table in Markdown, a picture."""

from pathlib import Path

from benchmarks import report
from benchmarks.decode import memory

NAMES = {"janus_fast": "janus_fast", "ctranslate2": "CTranslate2", "pytorch": "PyTorch, eager"}

ABOUT = """\
Milliseconds a batch: the median, and the 20th and 80th percentiles in parentheses. Sources of 20 to 30 tokens,
outputs of 25; random weights. Each decoder is a process of its own, at the best of its settings, and they run in
turn. `x` says how many times as long as janus_fast a peer takes. CTranslate2 decodes an ordinary Transformer of the
same sizes from left to right, with instructions and products of its own choice (docs/log.md has others); PyTorch does
what janus_fast does. In parallel one length is tried. Peers without the compute type use the one in brackets. The floor
is what reading the weights and multiplying takes on this machine at least (`benchmarks/decode/floors.py`); beside it is
its share of janus_fast's time.
"""


def line(record: dict) -> str:
    what = f"{record['config']}, {record['decoding']}, batch {record['batch']}, {record['compute_type']}"
    what += f", {record['busy']} loops beside it" if record["busy"] else ""
    if "wrong" in record:
        return f"{what}: wrong"
    parts = [f"{1e3 * record['seconds']:.1f} ms{_high(record, record)}"]
    for name, peer in _timed(record).items():
        parts.append(
            f"{NAMES.get(name, name)} ({peer['compute_type']}) {1e3 * peer['seconds']:.1f}{_high(record, peer)}"
        )
    if record["floor_seconds"]:
        parts.append(f"floor {1e3 * record['floor_seconds']:.1f}")
    return "\n".join([f"{what}: {', '.join(parts)}", *profile(record.get("profile", {}))])


def profile(stages: dict) -> list[str]:
    """Of each stage the work and the waiting for other threads, of all threads together, in ms a batch, and its share
    of both; the longest first."""
    total = sum(map(sum, stages.values()))
    longest = sorted(stages.items(), key=lambda item: -sum(item[1]))
    return [
        f"  {stage:<34}{1e3 * work:8.2f}{1e3 * waiting:8.2f}{100 * (work + waiting) / total:6.1f} %"
        for stage, (work, waiting) in longest
    ]


def _high(record: dict, decoder: dict) -> str:
    """What goes with a median that was measured on a busy machine."""
    return f" (80th percentile {1e3 * decoder['seconds_p80']:.1f})" if record["busy"] else ""


def markdown(results: dict) -> str:
    records, rows = results["records"], []
    versions = {NAMES[n]: peer["version"] for r in records for n, peer in _timed(r).items()}
    for record in records:
        cells = [record["config"], record["decoding"], record["batch"], record["compute_type"]]
        rows.append(cells)
        if "wrong" in record:
            cells.append(f"wrong: {record['wrong']}")
            continue
        cells.append(_time(record))
        for name in ("ctranslate2", "pytorch"):
            peer = _timed(record).get(name)
            other = f" [{_other_type(record, peer)}]" if peer and _other_type(record, peer) else ""
            cells += [_time(peer) + other, f"{peer['seconds'] / record['seconds']:.1f}"] if peer else ["", ""]
        floor = record["floor_seconds"]
        cells += [f"{1e3 * floor:.1f}", f"{100 * floor / record['seconds']:.0f} %"] if floor else []
    header = "model", "decoding", "batch", "type", "janus_fast", "CTranslate2", "x", "PyTorch", "x", "floor", ""
    return report.markdown(
        "Whole decodes", ABOUT,
        report.place(results["machine"], ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))),
        report.table(header, rows, "llrlr"), f"Memory: {memory.line(results['memory'])}.",
    )  # fmt: skip


def _timed(record: dict) -> dict[str, dict]:
    return {name: peer for name, peer in record.get("peers", {}).items() if "seconds" in peer}


def _other_type(record: dict, decoder: dict) -> str:
    """The type that a decoder computes in where it is not the one asked for."""
    return "" if decoder["compute_type"] == record["compute_type"] else decoder["compute_type"]


def _time(record: dict) -> str:
    middle, low, high = (1e3 * record[name] for name in ("seconds", "seconds_p20", "seconds_p80"))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def draw(results: dict, file: Path):
    """A panel a model and batch: a dot for every decoder, hollow where it computes in another type, and the floor.

    Dots, because times lie decades apart: on a logarithmic axis a bar's length says nothing. Returns the figure, which
    it saves, too.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    records = [record for record in results["records"] if "seconds" in record]
    panels = list(dict.fromkeys((record["config"], record["batch"]) for record in records))
    height = -(-len(panels) // 2)
    figure = Figure(figsize=(13, 5.2 * height), dpi=110, layout="constrained")
    axes = figure.subplots(height, 2, squeeze=False)
    looks = dict(zip(NAMES, (("#1b6ca8", "o"), ("#d9760b", "D"), ("#6f6f6f", "s")), strict=True))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        shown = [record for record in records if (record["config"], record["batch"]) == panel]
        for place, record in enumerate(shown):
            for name, decoder in {"janus_fast": record, **_timed(record)}.items():
                colour, marker = looks[name]
                other = _other_type(record, decoder)
                low, middle, high = (1e3 * decoder[n] for n in ("seconds_p20", "seconds", "seconds_p80"))
                axis.plot([low, high], [place, place], color=colour, linewidth=1.5)
                face = "white" if other else colour
                axis.plot(middle, place, marker, markersize=7, color=colour, markerfacecolor=face)
                offset = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 7.5}
                axis.annotate(other, (middle, place), color=colour, **offset)
            if record["floor_seconds"]:
                axis.plot(1e3 * record["floor_seconds"], place, "|", color="black", markersize=15, markeredgewidth=1.6)
        labels = [f"{record['decoding']}, {record['compute_type']}" for record in shown]
        axis.set(xscale="log", yticks=range(len(shown)), yticklabels=labels, xlabel="ms a batch (logarithmic)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(f"{panel[0]}, batch {panel[1]}")
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.grid(color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    about = {"ctranslate2": " (an ordinary Transformer, left to right)"}
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, marker in looks.values()]
    names = [name + about.get(key, "") for key, name in NAMES.items()]
    handles.append(Line2D([], [], color="black", marker="|", markersize=13, markeredgewidth=1.6, linestyle=""))
    handles.append(Line2D([], [], color="#6f6f6f", marker="o", markerfacecolor="white", linestyle=""))
    handles.append(Line2D([], [], color="#6f6f6f", linewidth=1.5))
    names += ["floor", "hollow: computes in the type written above it", "20th to 80th percentile"]
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file)
    return figure
