"""``janus-fast evaluate``: BLEU, chrF, ROUGE and speed of a model, on the committed test set or on files."""

import argparse
import json
import sys
import textwrap

from ..decoding.modes import MODES
from ..evaluate import METRICS, USUAL, check_metrics
from ..inputs import check_input, flag
from ..text.lines import STANDARD, lines_of
from . import _decoding
from ._table import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _decoding.add_model_arguments(parser)
    parser.add_argument("--source", metavar="FILE", help="text to translate; -: standard input (default: the test set)")
    parser.add_argument("--reference", metavar="FILE", help="its translation, line by line")
    parser.add_argument("--pair", help="languages of the test set (default: en-de)")
    parser.add_argument("--limit", type=_decoding.positive, metavar="N", help="use the first N sentences alone")
    parser.add_argument(
        "--metric", choices=METRICS, nargs="+", default=USUAL,
        help="what is measured; rouge is for English, such as summaries (default: bleu chrf)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _decoding.add_decoding_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    options = _decoding.decoding_options(arguments)
    check_metrics(arguments.metric)
    sources, references, data = _text(arguments)
    translator = _decoding.translator(arguments)

    from .. import evaluate

    sources, references = sources[: arguments.limit], references[: arguments.limit]
    with tqdm(total=len(sources), unit=" sentences", leave=False, disable=not sys.stderr.isatty()) as bar:
        measured = evaluate.evaluate(
            translator, sources, references, max_batch_size=arguments.batch_size, on_batch=bar.update,
            metrics=arguments.metric, **options,
        )  # fmt: skip
    record = {"model": arguments.model, "data": data, **measured, **_circumstances(translator)}
    print(json.dumps(record, ensure_ascii=False) if arguments.json else _shown(record))
    return 0


def _text(arguments) -> tuple[list[str], list[str], str]:
    if bool(arguments.source) != bool(arguments.reference):
        raise ValueError("--source and --reference must be given together, got one of them")
    if not arguments.source:
        from ..data import test_set

        pair = arguments.pair or "en-de"
        return *test_set(pair), f"test set {pair}"
    if arguments.pair:
        raise ValueError(f"--pair must be left out with --source, got {arguments.pair}")
    for name in ("source", "reference"):
        if (file := getattr(arguments, name)) != STANDARD:
            check_input(flag(name), file)
    sides = [lines_of(file) for file in (arguments.source, arguments.reference)]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(
            "--source and --reference must have the same number of lines, at least one, "
            f"got {len(sides[0]):,} and {len(sides[1]):,}"
        )
    return *sides, arguments.source


def _circumstances(translator) -> dict:
    from .info import processor

    return {
        "device": translator.device,
        "backend": translator.backend,
        "compute_type": translator.compute_type,
        "threads": translator.intra_threads * (1 if translator.inter_threads == "auto" else translator.inter_threads),
        "processor": processor(),
        "isa": translator.isa,
    }


def _shown(record: dict) -> str:
    figures = {figure: title for name in record["signatures"] for figure, title in METRICS[name].items()}
    header = ["mode", *figures.values(), "sentences", "seconds", "sentences/s", "tokens/s"]
    row = [MODES[record["mode"]].title, *(f"{record[figure]:.2f}" for figure in figures), f"{record['sentences']:,}"]
    row += [f"{record[name]:,.1f}" for name in ("seconds", "sentences_per_second", "tokens_per_second")]
    options = textwrap.fill(" ".join(f"{name}={value}" for name, value in record["options"].items()), 100)
    kernels = f"{record['backend']}, {record['compute_type']}, kernels: {record['isa'] or 'reference'}"
    where = f"{record['processor']}, threads: {record['threads']}, {kernels}"
    signatures = "\n".join(f"{name}: {value}" for name, value in record["signatures"].items())
    return f"{record['model']} on {record['data']}\n{options}\n\n{table(header, [row])}\n\n{signatures}\n{where}"
