"""Times speculative decoding beside greedy search of the same trained model, and draws quality against time.

Random weights would draft nothing that is right. So the model is a trained one, and larger sizes are its own function
stretched over more channels and layers (``stretched``): drafts are as good as its own, and take the time of those
sizes. Nothing is timed unless outputs and their log-probabilities are those of greedy search, to the bit, on the whole
test set.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.arguments import add_usual, positive
from benchmarks.report import markdown, place, publish, rounds, table, told
from benchmarks.turns import in_turn, spread
from benchmarks.workload import CONFIGURATIONS
from janus_fast import engine

OWN = "own"
SIZES = (OWN, "iwslt", "base")
DEFAULTS = {"sizes": OWN, "compute_type": "float32", "batch": 1}
CONTENDERS = {
    "greedy": {"mode": "ar", "beam_size": 1},
    "drafts": {"mode": "speculative", "drafter": "model"},
    "all drafts": {"mode": "speculative", "drafter": "model", "adaptive_drafts": False},
    "before an edit": {"mode": "speculative"},
}
LENGTHS, RANKED_LENGTHS = 3, 5  # tried in parallel, and where they are reranked
QUALITY = {
    "greedy": CONTENDERS["greedy"],
    "beam 5": {"mode": "ar", "beam_size": 5},
    "by drafts": CONTENDERS["drafts"],
    **{
        f"{n} pass{'es' if n > 1 else ''}": {"mode": "nar", "iterations": n, "length_beam": LENGTHS, "rerank": False}
        for n in (1, 4, 10)
    },
    **{
        f"{n} pass{'es' if n > 1 else ''}, reranked": {
            "mode": "nar",
            "iterations": n,
            "length_beam": RANKED_LENGTHS,
            "rerank": True,
        }
        for n in (1, 4, 10)
    },
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speculative", description=__doc__.splitlines()[0])
    group = parser.add_argument_group("one row instead of all (own sizes, float32, batch 1 where nothing is said)")
    row = [
        group.add_argument("--sizes", choices=SIZES, help="of the model, or stretched over those of a configuration"),
        group.add_argument("--compute-type", choices=engine.COMPUTE_TYPES),
        group.add_argument("--batch", type=positive, metavar="N", help="sentences decoded at once"),
    ]
    parser.add_argument("--model", default="en-de-small", help="a shipped name or a directory (default: en-de-small)")
    parser.add_argument("--limit", type=positive, default=60, metavar="N", help="test sentences timed (default: 60)")
    add_usual(parser, threads=1, json="the row's record")
    arguments = parser.parse_args(argv)
    selection = {a.dest: value for a in row if (value := getattr(arguments, a.dest)) is not None}
    if arguments.json and not selection:
        parser.error("--json must go with the options of one row; --results is for all rows")
    with tempfile.TemporaryDirectory(prefix="janus_fast-") as folder:
        bench = Bench(arguments, Path(folder))
        rows = [DEFAULTS | selection] if selection else list(table_rows())
        results = {"records": told(map(bench.measure, rows), line, arguments), "model": Path(arguments.model).name}
        if not selection:
            results["quality"] = bench.quality()
    return publish("speculative", results, arguments, page, alone=bool(selection), speculative=draw)


def table_rows() -> Iterator[dict]:
    for sizes in SIZES:
        for compute_type in ("float32", "int8"):
            for batch in (1, 32):
                yield {"sizes": sizes, "compute_type": compute_type, "batch": batch}


def stretched(model, name: str):
    """A ``JanusModel`` of the channels, layers and vocabulary of a configuration that computes what ``model`` does.

    Channels stand twice, which no norm sees, and products halve; hidden channels and layers that are new add zero, and
    tokens that are new are never said. A ValueError where ``model`` has other than norms before its blocks and half as
    many channels.
    """
    import torch

    from janus_fast import JanusModel

    old, sizes = model.config, CONFIGURATIONS[name]
    width, heads = old.d_model, old.attention_heads
    if not (old.normalize_before and sizes.channels == 2 * width and sizes.heads in (heads, 2 * heads)):
        rule = f"have norms before its blocks and half the channels of {name}"
        raise ValueError(
            f"stretched: model must {rule}, got {width} channels and normalize_before {old.normalize_before}"
        )
    config = dataclasses.replace(
        old, d_model=sizes.channels, attention_heads=sizes.heads, encoder_layers=sizes.layers, output_bias=True,
        decoder_layers=sizes.decoder_layers, encoder_ffn_dim=max(sizes.hidden, old.encoder_ffn_dim), dropout=0.0,
        decoder_ffn_dim=max(sizes.hidden, old.decoder_ffn_dim), source_vocab_size=sizes.vocabulary,
        target_vocab_size=sizes.vocabulary,
    )  # fmt: skip
    twice = torch.arange(width).repeat(2)
    of_heads = twice if sizes.heads == 2 * heads else torch.arange(width).view(heads, -1).repeat(1, 2).flatten()
    by_heads = 1.0 if sizes.heads == 2 * heads else 0.5**0.5  # of queries, whose heads are wider
    embedded = 0.5**0.5 if old.scale_embedding else 1.0
    new = JanusModel(config)
    with torch.no_grad():
        given, state = model.state_dict(), new.state_dict()
        for key, value in state.items():
            if key not in given:
                if key.endswith("output_projection.bias"):
                    value.zero_()[old.target_vocab_size :] = -1e4
                elif "out_proj" in key or "fc2" in key:
                    value.zero_()
                continue
            weight, block = given[key], key.split(".")[-2]
            if block in ("q_proj", "k_proj", "v_proj"):
                weight = weight[of_heads] if weight.dim() == 1 else weight[of_heads][:, twice] / 2
                weight = weight * by_heads if block == "q_proj" else weight
            elif block == "out_proj":
                weight = weight[twice] if weight.dim() == 1 else weight[twice][:, of_heads] / 2
            elif block == "fc1":
                weight = weight if weight.dim() == 1 else weight[:, twice] / 2
            elif block == "fc2":
                weight = weight[twice]
            elif block == "embed_length":
                weight = weight[:, twice] / 2
            elif block in ("embed_tokens", "output_projection"):
                weight = weight[:, twice] * embedded
            else:  # norms and positions
                weight = weight[..., twice]
                if key.startswith("decoder.layer_norm"):
                    weight = weight / (2 * embedded)
            value.zero_()[tuple(map(slice, weight.shape))] = weight
        new.load_state_dict(state)
    return new.eval()


class Bench:
    def __init__(self, arguments: argparse.Namespace, folder: Path):
        from janus_fast import Translator, models
        from janus_fast.data import test_set

        self.arguments, self.folder = arguments, folder
        texts, self.references = test_set("en-de")
        own = Translator(arguments.model, intra_threads=arguments.threads)
        self.texts = texts
        self.paths = {OWN: models.locate(arguments.model)}
        # What each was before it was edited: without a word in its middle.
        self.sources = [self.ids(own, text) for text in texts]
        before = [
            " ".join(text.split()[: len(text.split()) // 2] + text.split()[len(text.split()) // 2 + 1 :])
            for text in texts
        ]
        self.before = own.generate([self.ids(own, text) for text in before], beam_size=1)

    @staticmethod
    def ids(translator, text: str) -> list[int]:
        return translator.config.source_ids(translator.source_vocabulary.ids(translator.source_vocabulary.encode(text)))

    def translator(self, sizes: str, compute_type: str):
        from janus_fast import Translator, load, save

        if sizes not in self.paths:
            self.paths[sizes] = self.folder / sizes
            save(stretched(load(self.paths[OWN])[0], sizes), self.paths[sizes])
        return Translator(str(self.paths[sizes]), compute_type=compute_type, intra_threads=self.arguments.threads)

    def measure(self, row: dict) -> dict:
        translator, batch = self.translator(row["sizes"], row["compute_type"]), row["batch"]
        drafts = [result.hypotheses[0] for result in self.before]

        def decode(name: str, numbers: range) -> list:
            given = {"draft": [drafts[n] for n in numbers]} if name == "before an edit" else {}
            return translator.generate(
                [self.sources[n] for n in numbers], max_batch_size=batch, **CONTENDERS[name], **given
            )

        def turn(name: str) -> list[float]:
            began = time.perf_counter()
            for first in range(0, len(timed), batch):
                decode(name, timed[first : first + batch])
            return [(time.perf_counter() - began) / len(timed)]

        checked = range(len(self.sources)) if row["sizes"] == OWN else range(0, len(self.sources), 20)
        expected, passes = decode("greedy", checked), {}
        for name in CONTENDERS:
            found = decode(name, checked)
            same = all(
                (one.hypotheses, one.scores, one.token_scores) == (other.hypotheses, other.scores, other.token_scores)
                for one, other in zip(found, expected, strict=True)
            )
            if not same:
                return {**row, "wrong": f"{name}: outputs must be those of greedy search to the bit ({row})"}
        count = max(self.arguments.limit, 2 * batch)
        timed = range(0, len(self.sources), max(1, len(self.sources) // count))[:count]
        samples = {name: sum(times, []) for name, times in in_turn(
            {name: lambda name=name: turn(name) for name in CONTENDERS},
            lambda turns: len(turns) >= self.arguments.rounds + 1,
        ).items()}  # fmt: skip
        samples = {name: times[1:] for name, times in samples.items()}  # the first warms up
        for name in CONTENDERS:
            found = [
                result for first in range(0, len(timed), batch) for result in decode(name, timed[first : first + batch])
            ]
            tokens = sum(len(result.token_scores[0]) for result in found)
            passes[name] = tokens / sum(result.iterations[0] for result in found)
        seconds = {name: statistics.median(times) for name, times in samples.items()}
        return {**row, "checked": len(checked), "seconds": seconds, "tokens_a_pass": passes, "samples": samples}

    def quality(self) -> dict:
        """BLEU of the test set, and the median time of a sentence alone, of every way to decode."""
        from janus_fast import Translator
        from janus_fast.evaluate import scores

        translator = Translator(self.arguments.model, compute_type="float32", intra_threads=self.arguments.threads)
        sample = range(0, len(self.sources), max(1, len(self.sources) // self.arguments.limit))

        def turn(options: dict) -> list[float]:
            times = []
            for n in sample:
                began = time.perf_counter()
                translator.generate([self.sources[n]], **options)
                times.append(time.perf_counter() - began)
            return [statistics.mean(times)]

        turns = in_turn(
            {name: lambda options=options: turn(options) for name, options in QUALITY.items()},
            lambda turns: len(turns) >= self.arguments.rounds + 1,
        )
        found = {}
        for name, options in QUALITY.items():
            texts = [result.hypotheses[0] for result in translator.translate(self.texts, **options)]
            low, middle, high = spread(sum(turns[name][1:], []))
            found[name] = {"bleu": scores(texts, self.references)["bleu"], "seconds": middle, "p20": low, "p80": high}
        return found


def line(record: dict) -> str:
    if "wrong" in record:
        return record["wrong"]
    return "  ".join(_cells(record))


def _cells(record: dict) -> list[str]:
    seconds, passes = record["seconds"], record["tokens_a_pass"]
    cells = [record["sizes"], record["compute_type"], str(record["batch"]), f"{1e3 * seconds['greedy']:.2f}"]
    for name in list(CONTENDERS)[1:]:
        cells.append(f"{1e3 * seconds[name]:.2f} ({seconds['greedy'] / seconds[name]:.2f}x, {passes[name]:.1f})")
    return cells


def page(results: dict) -> str:
    records = [record for record in results["records"] if "wrong" not in record]
    header = ["sizes", "type", "batch", "greedy", *list(CONTENDERS)[1:]]
    quality = [[name, f"{q['bleu']:.1f}", f"{1e3 * q['seconds']:.1f}"] for name, q in results["quality"].items()]
    return markdown(
        "Speculative decoding",
        f"{place(results['machine'], 'python -m benchmarks speculative')}; medians of {rounds(records)} turns",
        "Milliseconds a sentence of the test set; in brackets how many times as fast as greedy search in the same "
        "turns, and tokens a pass. `own` are the sizes of "
        + str(results["model"])
        + "; the others are its function stretched "
        "over their channels, layers and vocabulary. `drafts` decides by itself whether to draft, `all drafts` always "
        "does, and `before an edit` is given the translation of the same sentence without one word.",
        table(header, map(_cells, records), "lllr"),
        f"Quality against time, float32, one sentence at a time. Passes in parallel try {LENGTHS} lengths, and "
        f"{RANKED_LENGTHS} where these are reranked:",
        table(["decoding", "BLEU", "ms a sentence"], quality, "lr"),
        "![BLEU against milliseconds](speculative.png)",
    )


def draw(results: dict, file: Path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    for name, q in results["quality"].items():
        colour = "#d9760b" if "reranked" in name else "#6f6f6f" if "pass" in name else "#1b6ca8"
        milliseconds = 1e3 * q["seconds"]
        axis.plot([1e3 * q["p20"], 1e3 * q["p80"]], [q["bleu"]] * 2, color=colour, linewidth=1.2)
        axis.plot(milliseconds, q["bleu"], "o", color=colour)
        below = name in ("by drafts", "4 passes, reranked")  # near to others
        axis.annotate(
            name, (milliseconds, q["bleu"]), xytext=(6, -12 if below else 4), textcoords="offset points", fontsize=8
        )
    highest = math.ceil(max(q["bleu"] for q in results["quality"].values()))
    axis.set(xlabel="ms a sentence, one at a time (logarithmic)", ylabel="BLEU", xscale="log", ylim=(None, highest + 1))
    low, high = axis.get_xlim()
    axis.set_xticks([ms for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= ms <= high], minor=False)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_xlim(low, high * 1.3)  # room for the last name
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    return figure
