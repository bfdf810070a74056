"""Results of the comparison of systems for people: a line, one table and one picture of quality against time."""

from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks import report
from benchmarks.training.experiment_report import circumstances, colours, missing, score, training
from janus_fast.evaluate import METRICS

LABELS = {"greedy": "greedy", "beam": "beam 5", "speculative": "drafts, verified"}
LABELS |= {"nar-1": "1 pass", "nar-4": "4 passes", "nar-10": "10 passes"}
LABELS |= {"semi-nar-2": "blocks of 2", "semi-nar-4": "blocks of 4"}
LABELS |= {"nar-1-reranked": "1, reranked", "nar-4-reranked": "4, reranked"}
BASELINE = "autoregressive", "beam"  # how many times as fast as this
ABOUT = """\
All arms have the same sizes and vocabulary and as many updates of the same text in the same order; those called
pretrained were trained on monolingual text first, with the same objective. Scores are of test text; after ± stands half
the width of the 95% confidence interval over its sentences, which says nothing about what another seed would do. Passes
are those of the decoder for one sentence, a mean. Milliseconds a sentence are those of the native engine: at batch 1
the median over every fifth test sentence, at batch 32 the mean over all; in parentheses, how many times as fast as the
beam search of `autoregressive` with the same seed.
"""


def line(name: str, record: dict) -> str:
    found = ", ".join(f"{title} {score(record, figure)}" for figure, title in _figures(record["signatures"]).items())
    times = ", ".join(f"{ms:.1f} ms at batch {batch}" for batch, ms in record["milliseconds"].items())
    return f"{LABELS[name]}: {found}; {record['passes']:.1f} passes, {times}"


def write(name: str, results: dict, directory: Path) -> None:
    report.write(name, results, directory, partial(markdown, name), **{name: draw})


def markdown(name: str, results: dict) -> str:
    records, figures, rows = results["records"], _figures(results["metrics"]), []
    baselines = {r["seed"]: r["evaluations"].get(BASELINE[1]) for r in records if r["arm"] == BASELINE[0]}
    for record in records:
        for decode, found in record["evaluations"].items():
            scores = [score(found, figure) for figure in figures]
            times = [_time(found, batch, baselines.get(record["seed"])) for batch in ("1", "32")]
            rows.append([record["arm"], record["seed"], LABELS[decode], *scores, f"{found['passes']:.1f}", *times])
    header = "arm", "seed", "decoding", *figures.values(), "passes", "ms, batch 1", "ms, batch 32"
    signatures, places = circumstances(records)
    return report.markdown(
        "Systems compared", ABOUT, missing(results), report.table(header, rows, "lllr"), signatures, places,
        f"![Quality against milliseconds a sentence]({name}.png)", *training(records),
    )  # fmt: skip


def _figures(metrics) -> dict[str, str]:
    return {figure: title for name in metrics for figure, title in METRICS[name].items()}


def _time(record: dict, batch: str, baseline: dict | None) -> str:
    own = record["milliseconds"][batch]
    return f"{own:.1f} ({baseline['milliseconds'][batch] / own:.1f}x)" if baseline else f"{own:.1f}"


def draw(results: dict, file: Path):
    """The first figure against milliseconds a sentence, means over seeds: a star for what is decoded left to right, a
    dot for a number of passes in parallel, a triangle where these are ranked left to right, a square for drafts, a
    diamond for lengths of blocks.

    Returns the figure, which it saves, too.
    """
    from matplotlib.figure import Figure

    (name, title), *_ = _figures(results["metrics"]).items()
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    axes[0].set_ylabel(title)
    for axis, batch in zip(axes, ("1", "32"), strict=True):
        axis.set_xlabel(f"ms a sentence, batch {batch}")
        axis.set_xscale("log")
        for arm, colour in colours(results["records"]).items():
            found = [record["evaluations"] for record in results["records"] if record["arm"] == arm]
            label = arm
            for marker, decodes in _markers().items():
                runs = [of for decode in decodes if (of := [each[decode] for each in found if decode in each])]
                places = [mean(record["milliseconds"][batch] for record in of) for of in runs]
                quality = [mean(record[name] for record in of) for of in runs]
                if runs:
                    axis.plot(places, quality, marker=marker, color=colour, linewidth=0.8, label=label)
                    label = None
    axes[0].set_ylim(0, None)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file)
    return figure


def _markers() -> dict[str, list[str]]:
    parallel = [name for name in LABELS if name.startswith("nar") and name[-1].isdigit()]
    return {
        "*": ["greedy", "beam"], "o": parallel, "^": [name for name in LABELS if name.endswith("reranked")],
        "s": ["speculative"], "D": [name for name in LABELS if name.startswith("semi")],
    }  # fmt: skip
