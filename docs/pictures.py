"""Draws visibility.png, the gallery of attention patterns: ``python docs/pictures.py OUT.png``."""

import sys
from collections.abc import Sequence

import torch

from janus_fast.packing import offsets_of
from janus_fast.visibility import FOREVER, Visibility
from janus_fast.visibility_plot import COLOURS, HIDDEN, INK


def plot_times(
    visibility: Visibility, ax, key_colours: Sequence[str], key_labels: Sequence[str], moments: Sequence[str]
):
    """Keys as bars over time, which runs downwards: what a query sees is the slice at its own time."""
    end = len(moments)
    for moment in range(end):
        ax.axhspan(moment + 0.02, moment + 0.98, color=HIDDEN, linewidth=0)
    for j, colour in enumerate(key_colours):
        start, stop = int(visibility.visible_from[j]), int(visibility.visible_until[j])
        top, bottom = start + 0.08, min(stop - 0.08, end - 0.02)
        ax.bar(j + 0.5, bottom - top, 0.78, top, color=colour)
        if stop == FOREVER:
            ax.plot(j + 0.5, end + 0.1, marker="v", color=colour, markersize=7, clip_on=False)
    ax.set(xlim=(0, len(key_colours)), ylim=(end, 0))
    ax.set_title("keys come and go, a query looks at its time", fontsize=10, color=INK)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=3, labelsize=9, labelcolor=INK, labeltop=True, labelbottom=False)
    ax.set_xticks([j + 0.5 for j in range(len(key_labels))], key_labels)
    ax.set_yticks([moment + 0.5 for moment in range(end)], moments)


def gallery():
    """A figure of all patterns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 11), layout="constrained", dpi=130)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.62))
    colours = {"masks": COLOURS[1], "true": COLOURS[2]}

    times, mask, joint = top.subplots(1, 3, width_ratios=(1, 1.1, 1.2))
    janus, parts = Visibility.janus([3], [3]), [("visible", 3), ("masks", 3), ("true", 3)]
    keys = _names("y", 1, 4, 6) + _names("m", 2, 3, 5) + _names("y", 2, 3, 5)
    moments = [
        "time 0\n$y_1\\,y_4\\,y_6$\n$m_2\\,m_3\\,m_5$\n$q_2$",
        "time 1\n$y_2\\,q_3$",
        "time 2\n$y_3\\,q_5$",
        "time 3\n$y_5$",
    ]
    plot_times(janus, times, [COLOURS[j // 3] for j in range(9)], keys, moments)
    janus.plot(
        mask, title="JANUS, NAR + AUX", key_groups=parts, query_groups=[*parts, ("queries", 3)], key_labels=keys,
        query_labels=keys + _names("q", 2, 3, 5),
    )  # fmt: skip
    packed, _ = Visibility.concatenate([Visibility.autoregressive([5, 3]), Visibility.janus([3, 1], [2, 2])])
    content, queries = [("AR 1", 5), ("AR 2", 3), ("NAR 1", 7), ("NAR 2", 5)], [5, 3, 2, 2]
    streams = [(f"{name} queries", size) for (name, _), size in zip(content, queries, strict=True)]
    packed.plot(
        joint, title="two sentences, AR and NAR, one forward", key_groups=content, query_groups=content + streams
    )

    axes = iter(bottom.subplots(2, 4, width_ratios=(16, 16, 16, 12), subplot_kw={"anchor": "N"}).flat)
    for title, visibility, key_groups, queries, key_labels in (
        (
            "bidirectional: CMLM, CeMAT",
            Visibility.bidirectional(offsets_of(torch.tensor([12]))),
            [("tokens", 12)],
            0,
            None,
        ),
        ("causal: Transformer", Visibility.causal([12]), [("tokens", 12)], 0, None),
        ("JANUS, AR", Visibility.autoregressive([6]), [("content", 6)], 6, None),
        ("JANUS, drafts", Visibility.draft([5], [3], [3]), [("content", 5), ("masks", 3)], 5, None),
        ("ProphetNet", Visibility.prophetnet([6], 2), [("main", 6)], 11, None),
        ("BANG", Visibility.bang([4], 2), [("main", 4), ("stream 1", 4), ("stream 2", 3)], 4, None),
        ("MPNet", Visibility.mpnet([3], [3]), [("visible", 3), ("true", 3), ("masks", 3)], 3, None),
        ("XLNet, with ranks", Visibility.xlnet([8], [-1, 2, -1, 0, -1, 3, 1, -1]), [("content", 8)], 4, "·2·0·31·"),
    ):
        query_groups = key_groups + [("queries", queries)] * (queries > 0)
        visibility.plot(
            next(axes), title=title, key_groups=key_groups, query_groups=query_groups, key_labels=key_labels,
            colours=colours,
        )  # fmt: skip
    bottom.supxlabel("A row is a query, a column a key; a cell in colour is seen.", fontsize=10, color=INK)
    return figure


def _names(letter: str, *positions: int) -> list[str]:
    return [f"${letter}_{position}$" for position in positions]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures.py OUT.png")
    gallery().savefig(sys.argv[1])
