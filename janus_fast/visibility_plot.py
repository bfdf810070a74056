"""Pictures of attention patterns; ``python -m janus_fast.visibility_plot OUT.png`` draws them all."""

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .installation import absence
from .visibility import FOREVER, Visibility

INK, HIDDEN = "#333333", "#ececec"
# Okabe and Ito's palette, made to be told apart by colour-blind eyes.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

Groups = Sequence[tuple[str, int]]


def plot(
    visibility: Visibility, ax=None, title: str | None = None, query_groups: Groups | None = None,
    key_groups: Groups | None = None, query_labels: Sequence[str] | None = None,
    key_labels: Sequence[str] | None = None, colours: Mapping[str, str] | None = None,
):  # fmt: skip
    """``Visibility.plot``, which documents it."""
    try:
        from matplotlib import pyplot
        from matplotlib.colors import ListedColormap
    except ImportError as error:
        raise ImportError(f"Visibility.plot needs {absence('matplotlib')}") from error

    query_groups = _sequences("queries", visibility.query_offsets) if query_groups is None else query_groups
    key_groups = _sequences("keys", visibility.key_offsets) if key_groups is None else key_groups
    for name, rows, found in (
        ("query_groups", visibility.num_queries, sum(size for _, size in query_groups)),
        ("key_groups", visibility.num_keys, sum(size for _, size in key_groups)),
        ("query_labels", visibility.num_queries, visibility.num_queries if query_labels is None else len(query_labels)),
        ("key_labels", visibility.num_keys, visibility.num_keys if key_labels is None else len(key_labels)),
    ):
        if rows != found:
            raise ValueError(f"Visibility.plot: {name} must cover {rows} rows, got {found}")

    if ax is None:
        ax = pyplot.figure(layout="constrained").subplots()
    names = list(dict.fromkeys(name for name, _ in key_groups))  # one colour a name
    palette = [(colours or {}).get(name, COLOURS[number % len(COLOURS)]) for number, name in enumerate(names)]
    number_of_key = [names.index(name) + 1 for name, size in key_groups for _ in range(size)]
    cells = torch.where(visibility.dense().cpu(), torch.tensor(number_of_key, dtype=torch.int32), 0).numpy()
    grid = {"edgecolors": "white", "linewidth": 0.8} if max(cells.shape) <= 80 else {}
    if cells.size:
        ax.pcolormesh(cells, cmap=ListedColormap([HIDDEN, *palette]), vmin=0, vmax=len(palette), **grid)
    ax.set(xlim=(0, max(visibility.num_keys, 1)), ylim=(max(visibility.num_queries, 1), 0), aspect="equal")
    ax.set_title(title, fontsize=10, color=INK)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2, labelsize=7, labelcolor=INK, labeltop=True, labelbottom=False)
    ax.set_xticks([j + 0.5 for j in range(visibility.num_keys)] if key_labels else [], key_labels or [])
    ax.set_yticks([i + 0.5 for i in range(visibility.num_queries)] if query_labels else [], query_labels or [])
    colour_of = dict(zip(names, palette, strict=True))
    _draw_groups(ax, key_groups, colour_of, of_keys=True)
    _draw_groups(ax, query_groups, colour_of, of_keys=False)
    return ax


def _sequences(name: str, offsets: Tensor) -> list[tuple[str, int]]:
    sizes = offsets.diff().tolist()
    return [(f"{name} {number}" if len(sizes) > 1 else name, size) for number, size in enumerate(sizes)]


def _draw_groups(ax, groups: Groups, colour_of: dict[str, str], of_keys: bool) -> None:
    """A bar and a name for each group, below the matrix or to its right, and lines across between groups."""
    from matplotlib.transforms import ScaledTranslation

    side, edge, right, down = (0, ax.get_xaxis_transform(), 0, 1) if of_keys else (1, ax.get_yaxis_transform(), 1, 0)
    beside = edge + ScaledTranslation(4 / 72 * right, -4 / 72 * down, ax.figure.dpi_scale_trans)
    style = {"ha": "center", "va": "top"} if of_keys else {"ha": "left", "va": "center"}
    begin = 0
    for name, size in groups:
        if begin:
            (ax.axvline if of_keys else ax.axhline)(begin, color=INK, linewidth=0.8)
        ends, middle = [begin + 0.12, begin + size - 0.12], begin + size / 2
        bar = {"color": colour_of.get(name, INK), "linewidth": 3, "solid_capstyle": "butt", "clip_on": False}
        ax.plot(*((ends, [side, side]) if of_keys else ([side, side], ends)), transform=beside, **bar)
        ax.annotate(
            name, (middle, side) if of_keys else (side, middle), (7 * right, -8 * down), xycoords=edge,
            textcoords="offset points", annotation_clip=False, fontsize=8, color=INK, **style,
        )  # fmt: skip
        begin += size


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
        ("bidirectional: CMLM, CeMAT", Visibility.cemat([12]), [("tokens", 12)], 0, None),
        ("causal: Transformer", Visibility.causal([12]), [("tokens", 12)], 0, None),
        ("prefix language model", Visibility.prefix([12], [5]), [("prefix", 5), ("tokens", 7)], 0, None),
        ("JANUS, AR", Visibility.autoregressive([6]), [("content", 6)], 6, None),
        ("ProphetNet", Visibility.prophetnet([4], 2), [("main", 4), ("stream 0", 4), ("stream 1", 4)], 0, None),
        ("BANG", Visibility.bang([4], 2), [("main", 4), ("stream 1", 4), ("stream 2", 4)], 0, None),
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
        sys.exit("usage: python -m janus_fast.visibility_plot OUT.png")
    gallery().savefig(sys.argv[1])
