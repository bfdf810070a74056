"""The losses of a run as a picture."""

from itertools import cycle
from pathlib import Path

from ..visibility_plot import COLOURS, INK
from .metrics import read_records

NOT_LOSSES = ("update", "seconds", "tokens", "kind", "lr", "epoch", "gradient_norms", "predictions_per_second")
SMOOTHED = "_ce"  # cross-entropies with label smoothing, which run beside the "_nll" without
GREY = "#999999"
BLEU = {"bleu_ar": "o", "bleu_nar": "s"}


def plot_losses(metrics: str | Path, picture: str | Path):
    """Draws what a ``janus_fast.training.Trainer`` wrote to ``metrics``; returns the figure, which it saves, too.

    The losses of training are solid lines, those of validation dashed; BLEU has an axis of its own. Divergences that
    training leaves out, and validation measures, have no solid line.
    """
    from matplotlib.figure import Figure

    curves = read_curves(metrics)
    names = list(dict.fromkeys(name for _, name in curves if name not in BLEU and not name.endswith(SMOOTHED)))
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    losses = figure.subplots()
    for name, colour in zip(names, cycle((INK, *COLOURS, GREY)), strict=False):
        for kind, style in (("train", "-"), ("valid", "--")):
            if points := curves.get((kind, name)):
                label = "" if kind == "valid" and ("train", name) in curves else name
                losses.plot(*zip(*points, strict=True), style, marker=".", ms=3, lw=1, color=colour, label=label)
    losses.set_title("losses: training solid, validation dashed", fontsize=10, color=INK)
    losses.set(xlabel="update", ylabel="nats", ylim=(0, None))
    handles, labels = losses.get_legend_handles_labels()
    if scored := [name for name in BLEU if ("valid", name) in curves]:
        quality = losses.twinx()
        quality.set(ylabel="BLEU")
        for name in scored:
            points = curves["valid", name]
            quality.plot(*zip(*points, strict=True), ":", marker=BLEU[name], color=INK, markersize=4, label=name)
        quality.set_ylim(0, None)
        handles, labels = (a + b for a, b in zip((handles, labels), quality.get_legend_handles_labels(), strict=True))
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(picture)
    return figure


def read_curves(metrics: str | Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(update, figure) by (kind, name); of updates that a resumed run did twice, what it wrote last. A ValueError for
    a file of other lines."""
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for record in read_records("plot_losses", metrics, "kind", "update"):
        for name, value in record.items():
            if name not in NOT_LOSSES:
                curves.setdefault((record["kind"], name), {})[record["update"]] = value
    return {curve: sorted(points.items()) for curve, points in curves.items()}
