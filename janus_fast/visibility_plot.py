"""Pictures of attention patterns."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .installation import absence
from .visibility import Visibility

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
