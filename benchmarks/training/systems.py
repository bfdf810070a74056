"""Trains every system on the same text in the same order, with and without pre-training, and compares what each reaches
in its own modes of decoding, and how fast."""

import argparse
import sys
from pathlib import Path

from benchmarks.arguments import positive
from benchmarks.training import runs, systems_report
from benchmarks.training.runs import SIZES, Arm, Run, checksum, effective, schedule
from janus_fast.data import test_set, test_set_pairs
from janus_fast.evaluate import METRICS, USUAL, check_metrics
from janus_fast.text.lines import lines_of

SYSTEMS = {
    "transformer": "--objective autoregressive --no-two-stream",
    **{name: f"--objective {name}" for name in ("autoregressive", "r_drop", "xlnet", "prophetnet")},
    **{name: f"--objective {name}" for name in ("cmlm", "mpnet", "cemat", "bang", "janus")},
    "janus-without-aux": "--objective janus --without-auxiliary",
}
# Of these it is also asked what they gain by being trained on monolingual text first, with the same objective.
BEGUN = "xlnet", "prophetnet", "cmlm", "mpnet", "cemat", "bang", "janus", "janus-without-aux"
ARMS = {name: Arm(options) for name, options in SYSTEMS.items()}
for _name in BEGUN:
    ARMS[f"{_name}-pretraining"] = Arm(SYSTEMS[_name], monolingual=True)
    ARMS[f"{_name}-pretrained"] = Arm(SYSTEMS[_name], begins_with=f"{_name}-pretraining")
ARMS["bart-pretraining"] = Arm("--objective bart", monolingual=True)
ARMS["bart-pretrained"] = Arm(SYSTEMS["autoregressive"], begins_with="bart-pretraining")
# As many updates as with pre-training, without it.
ARMS["autoregressive-longer"] = Arm(SYSTEMS["autoregressive"], begins_with="autoregressive")
NAR = {"mode": "nar", "length_beam": 3, "adaptive": False}
DECODES = {"greedy": {"mode": "ar", "beam_size": 1}, "beam": {"mode": "ar", "beam_size": 5}}
DECODES |= {f"nar-{passes}": {**NAR, "iterations": passes, "rerank": False} for passes in (1, 4, 10)}
DECODES |= {f"nar-{passes}-reranked": {**NAR, "iterations": passes, "rerank": True} for passes in (1, 4)}
DECODES |= {f"semi-nar-{words}": {"mode": "semi_nar", "block_length": words} for words in (2, 4)}
DECODES |= {"speculative": {"mode": "speculative", "draft_length": 3}}  # as bang trains it by default
say = runs.teller("systems")


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted: run the same command again to go on")
        return runs.INTERRUPTED[0]


def _run(arguments: argparse.Namespace) -> int:
    data, languages = Path(arguments.data), arguments.pair.split("-")
    text = [data / f"train.{language}" for language in languages]
    vocabulary = runs.vocabulary(text, arguments)
    checksums = {path.name: checksum(path) for path in (*text, vocabulary)}
    shared = ["--vocabulary", str(vocabulary), "--device", arguments.device]
    parallel = ["--data", arguments.data, "--pair", arguments.pair, *shared]
    monolingual = ["--monolingual", str(arguments.monolingual), *shared]
    test = _test(arguments, [data / f"test.{language}" for language in languages])

    def make(arm: str, seed: int) -> Run:
        own, folder = ARMS[arm], arguments.out / f"seed-{seed}"
        updates, options = _updates(own, arguments), [*_options(own, arguments), "--seed", str(seed)]
        first, decodes = own.begins_with and folder / own.begins_with, runs.trained_for(own, DECODES)
        files, sums = parallel, checksums
        if own.monolingual:
            files, decodes = monolingual, {}
            sums = {"monolingual": checksum(arguments.monolingual), vocabulary.name: checksums[vocabulary.name]}
        return Run(arm, seed, folder / arm, files, options, sums, updates, decodes, test, first, say)

    def write(results: dict) -> None:
        systems_report.write(arguments.name, {"metrics": arguments.metric, **results}, arguments.results)

    possible = [name for name, arm in ARMS.items() if arguments.monolingual or not _pretrains(arm)]
    return runs.carry_out(make, possible, arguments, systems_report.line, write)


def _test(arguments: argparse.Namespace, files: list[Path]) -> runs.Test:
    """The test text of the folder; where it has none, the committed test set."""
    sides = [lines_of(file) for file in files] if files[0].is_file() else test_set(arguments.pair)
    sums = [checksum(file) for file in files] if files[0].is_file() else arguments.pair
    sources, references = (side[: arguments.limit] for side in sides)
    of = {"limit": arguments.limit, "threads": arguments.threads, "text": sums, "metrics": list(arguments.metric)}
    return runs.Test(sources, references, tuple(arguments.metric), arguments.threads, of)


def _updates(arm: Arm, arguments: argparse.Namespace) -> int:
    return arguments.pretraining_updates or arguments.updates if arm.monolingual else arguments.updates


def _options(arm: Arm, arguments: argparse.Namespace) -> list[str]:
    """Those of ``janus-fast train`` in an arm, but for the seed."""
    own = schedule(_updates(arm, arguments), arguments.validations)
    return effective([*SIZES.split(), *own, *arguments.rest, *arm.options.split()], arm)


def _pretrains(arm: Arm) -> bool:
    return arm.monolingual or arm.begins_with is not None and ARMS[arm.begins_with].monolingual


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = runs.parser("systems", " ".join(__doc__.split()), ARMS, seeds=[1])
    parser.add_argument("--pair", default="en-de", help="the endings of the files in --data (default: en-de)")
    parser.add_argument("--updates", type=positive, default=1000, metavar="N", help="of every arm (default: 1000)")
    parser.add_argument("--monolingual", type=Path, metavar="FILE", help="text of the arms that are pre-trained")
    parser.add_argument(
        "--pretraining-updates", type=positive, metavar="N", help="before those of --updates (default: as many)"
    )
    parser.add_argument(
        "--metric", choices=METRICS, nargs="+", default=list(USUAL),
        help="of the table; the first is drawn (default: bleu chrf)",
    )  # fmt: skip
    parser.set_defaults(arms=None)
    arguments = runs.parse(parser, argv, ARMS)
    if arguments.arms is None:
        arguments.arms = [name for name, arm in ARMS.items() if arguments.monolingual or not _pretrains(arm)]
    first = [ARMS[name].begins_with for name in arguments.arms if ARMS[name].begins_with]
    arguments.arms = sorted({*first, *arguments.arms}, key=list(ARMS).index)
    if not arguments.monolingual and (named := [name for name in arguments.arms if _pretrains(ARMS[name])]):
        parser.error(f"--monolingual must name the text to pre-train on, got none for {named[0]}")
    if arguments.monolingual and not arguments.monolingual.is_file():
        parser.error(f"--monolingual must be a file, got {arguments.monolingual}")
    runs.check_rest(parser, arguments, ARMS, _options)
    if not Path(arguments.data, f"test.{arguments.pair.split('-')[0]}").is_file():
        if arguments.pair not in test_set_pairs():
            parser.error(f"--data must have test text for --pair {arguments.pair}, got {arguments.data} without")
    try:
        check_metrics(arguments.metric)
    except ModuleNotFoundError as error:
        parser.error(str(error))
    return arguments
