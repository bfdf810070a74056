"""Results of the experiment for people: a line, tables in Markdown, two pictures."""

from functools import partial
from pathlib import Path
from statistics import mean

from benchmarks import report

LABELS = {"ar": "AR, beam 5", "nar-1": "1 pass", "nar-4": "4 passes", "nar-10": "10 passes"}
LABELS |= {"nar-4-reranked": "4, reranked", "nar-10-reranked": "10, reranked"}
ABOUT = """\
All arms have the same sizes and vocabulary and saw the same sentences in the same order. Scores are those of the
committed test set; after ± stands half the width of the 95% confidence interval (bootstrap over its sentences, which
says nothing about what another seed would do). Passes are those of parallel decoding with three lengths, all of them
made. docs/experiment.md explains the rest.
"""
TRAINING = """\
Seconds of training by the clock, in which validation counts where it came before the last update; beside them the
median seconds of an update times their number, on which pauses and short loads have little effect. Tokens are those
that an arm learned to predict from left to right or, of `cmlm`, the masked ones among them.
"""
SPEED = """\
Milliseconds a sentence, with the native engine: at batch 1 the median over every fifth test sentence, at batch 32 the
mean over all. In parentheses, how many times as fast as the same model's beam search.
"""


PAIRED = """\
BLEU of AR less that of `autoregressive` with the same seed. p: how often resampled test sentences would show as much
if both were the same (sacreBLEU's paired bootstrap; it calls identical translations significant, so look at the size
first).
"""
CURVES = (
    "Validation on the way. Nats are the mean negative log-probability of a target's token; BLEU is greedy decoding's."
)


def line(name: str, record: dict) -> str:
    times = ", ".join(f"{ms:.1f} ms at batch {batch}" for batch, ms in record["milliseconds"].items())
    return f"{LABELS[name]}: BLEU {score(record, 'bleu')}, chrF {score(record, 'chrf')}; {times}"


def write(name: str, results: dict, directory: Path) -> None:
    pictures = {
        f"{name}-{picture}": lambda results, file, panels=panels: draw(results["records"], panels, file)
        for picture, panels in PANELS.items()
    }
    if any(record["curve"] for record in results["records"]):
        pictures[f"{name}-curves"] = lambda results, file: draw_curves(results["records"], file)
    report.write(name, results, directory, partial(markdown, name), **pictures)


def markdown(name: str, results: dict) -> str:
    scores, paired, speed = [], [], []
    for record in results["records"]:
        found, run = record["evaluations"], [record["arm"], record["seed"]]
        for metric, title in (("bleu", "BLEU"), ("chrf", "chrF")):
            scores.append([*run, title, *(score(found.get(decode), metric) for decode in LABELS)])
        if "paired" in record:
            paired.append([*run, f"{record['paired']['bleu']:+.1f}", f"{record['paired']['p']:.3f}"])
        for batch in ("1", "32"):
            speed.append([*run, batch, *(_time(found, decode, batch) for decode in LABELS)])
    signatures, places = circumstances(results["records"])
    drawn = f"![Validation nats and BLEU over tokens]({name}-curves.png)"
    curves = (CURVES, drawn) if any(record["curve"] for record in results["records"]) else ()
    return report.markdown(
        "JANUS beside its parts", ABOUT, missing(results),
        "## Test scores", report.table(["arm", "seed", "", *LABELS.values()], scores, "l"), signatures,
        *(("## Against AR alone", PAIRED, report.table(["arm", "seed", "BLEU", "p"], paired, "l")) if paired else ()),
        *training(results["records"]), *curves,
        "## Decoding speed", SPEED, report.table(["arm", "seed", "batch", *LABELS.values()], speed, "l"), places,
    )  # fmt: skip


def missing(results: dict) -> list[str]:
    return ["Not done:", "", *(f"* {name}" for name in results["missing"])] if results["missing"] else []


def training(records: list[dict]) -> tuple:
    """The part of a page about it: its heading, what it says, a table, and the options of each arm."""
    header, rows = ("arm", "seed", "updates", "seconds", "at median pace", "tokens", "precision", "machine"), []
    for record in records:
        done = record["training"]
        times = [f"{done[name]:,.0f}" for name in ("seconds", "seconds_at_median_pace")]
        figures = [f"{done['update']:,}", *times, f"{done['tokens_seen']:,}"]
        rows.append([record["arm"], record["seed"], *figures, done["precision"], where(done["machine"])])
    options = [f"* {arm}: `{words}`" for arm, words in {r["arm"]: r["options"] for r in records}.items()]
    about = "Options of each (the later ones count; of the last seed):"
    return "## Training", TRAINING, report.table(header, rows, "l"), about, options


def circumstances(records: list[dict]) -> tuple[list[str], list[str]]:
    """The signatures of all scores, and where all decodes were timed."""
    evaluations = [each for record in records for each in record["evaluations"].values()]
    signatures = sorted({f"* {name}: `{s}`" for each in evaluations for name, s in each["signatures"].items()})
    places = sorted({f"* {where(each['machine'])}, {each['isa']}, {each['compute_type']}" for each in evaluations})
    return signatures, places


def score(record: dict | None, metric: str) -> str:
    if not record:
        return ""
    interval = record.get(f"{metric}_ci")
    return f"{record[metric]:.1f}" + (f" ± {interval:.1f}" if interval is not None else "")


def _time(found: dict, name: str, batch: str) -> str:
    if name not in found:
        return ""
    milliseconds = found[name]["milliseconds"][batch]
    times = f" ({found['ar']['milliseconds'][batch] / milliseconds:.1f}x)" if "ar" in found and name != "ar" else ""
    return f"{milliseconds:.1f}{times}"


def where(machine: dict) -> str:
    return f"{machine['processor']}, threads: {machine['threads']}, commit {machine['commit']}"


PANELS = {  # of a picture: what BLEU is drawn against, of a record
    "passes": {"passes": lambda record: record["options"].get("iterations")},
    "speed": {
        f"ms a sentence, batch {batch}": lambda record, batch=batch: record["milliseconds"][batch]
        for batch in ("1", "32")
    },
}


def draw(records: list[dict], panels: dict, file: Path):
    """BLEU against the figure of each panel, means over seeds; beam search is a star, or a level where it has none.

    Returns the figure, which it saves, too.
    """
    from matplotlib.figure import Figure

    of_arms = colours(records)
    figure = Figure(figsize=(3 + 4 * len(panels), 4.5), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    axes[0].set_ylabel("BLEU")
    for axis, (label, place) in zip(axes, panels.items(), strict=True):
        axis.set_xlabel(label)
        for arm, colour in of_arms.items():
            found = [record["evaluations"] for record in records if record["arm"] == arm]
            lines = ["ar"], [n for n in LABELS if n[-1].isdigit()], [n for n in LABELS if n.endswith("reranked")]
            labels = f"{arm}, AR", arm, f"{arm}, reranked"
            for names, marker, name in zip(lines, "*o^", labels, strict=True):
                runs = [of for decode in names if (of := [each[decode] for each in found if decode in each])]
                bleu = [mean(record["bleu"] for record in of) for of in runs]
                places = [mean(place(record) for record in of) for of in runs if place(of[0])]
                shown = {"color": colour, "label": name if axis is axes[0] else None}
                if places:
                    axis.plot(places, bleu, marker=marker, **shown)
                elif bleu:
                    axis.axhline(*bleu, linestyle="--", **shown)
        axis.set_xlim(0, None)
    axes[0].set_ylim(0, None)  # once all is drawn: it ends the scaling of all panels
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file)
    return figure


def colours(records: list[dict]) -> dict:
    from matplotlib import colormaps

    return dict(zip(dict.fromkeys(record["arm"] for record in records), colormaps["tab20"].colors, strict=False))


CURVE_PANELS = {"AR, nats": "ar_nll", "NAR, nats": "nar_nll", "AR, BLEU": "bleu_ar", "NAR, BLEU": "bleu_nar"}


def draw_curves(records: list[dict], file: Path):
    """What each validation measured over the target tokens seen until then, a line for each run.

    Returns the figure, which it saves, too.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    axes = list(figure.subplots(2, 2).flat)
    of_arms = colours(records)
    for axis, (label, name) in zip(axes, CURVE_PANELS.items(), strict=True):
        axis.set_xlabel("million target tokens")
        axis.set_ylabel(label)
        for record in records:
            points = [(each["tokens"] / 1e6, each[name]) for each in record["curve"] if name in each]
            if points:
                first = record["seed"] == min(other["seed"] for other in records if other["arm"] == record["arm"])
                shown = {"color": of_arms[record["arm"]], "label": record["arm"] if first else None}
                axis.plot(*zip(*points, strict=True), linestyle="-" if first else "--", linewidth=1.2, **shown)
    handles = {text: handle for axis in axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file)
    return figure
