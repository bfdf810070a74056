"""Trains JANUS beside its parts, on the same text in the same order, and compares what they reach and how fast."""

import argparse
import sys
from pathlib import Path

from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from benchmarks.arguments import positive
from benchmarks.training import experiment_report, runs
from benchmarks.training.runs import SIZES, Arm, Run, checksum, effective, schedule
from janus_fast.data import test_set

JANUS = "--objective janus --divergence-weight"
ARMS = {
    "transformer": Arm("--objective autoregressive --no-two-stream"),
    "autoregressive": Arm("--objective autoregressive"),
    "r_drop": Arm("--objective r_drop"),
    "cmlm": Arm("--objective cmlm", 3),
    "janus": Arm(f"{JANUS} 1", 3),
    "janus-without-aux": Arm(f"{JANUS} 1 --without-auxiliary", 3),
    # What might spare AR: divergences that leave it alone while NAR knows little; NAR of little weight and without
    # them, from the start or behind an AR that is trained; AR of more weight.
    "janus-detached": Arm(f"{JANUS} 1 --without-auxiliary --detach 0.5", 3),
    "janus-light": Arm(f"{JANUS} 0 --without-auxiliary --nar-weight 0.3", 3),
    "janus-after-ar": Arm(f"{JANUS} 0 --without-auxiliary --nar-weight 0.3", 2, begins_with="autoregressive"),
    # What as many updates more bring to AR alone.
    "autoregressive-longer": Arm("--objective autoregressive", 2, begins_with="autoregressive"),
    "janus-two-passes": Arm(f"{JANUS} 1 --encoder-passes 2", 3),
}
NAR = {"mode": "nar", "length_beam": 3, "adaptive": False}
DECODES = {"ar": {"mode": "ar", "beam_size": 5}}
DECODES |= {f"nar-{passes}": {**NAR, "iterations": passes, "rerank": False} for passes in (1, 4, 10)}
DECODES |= {f"nar-{passes}-reranked": {**NAR, "iterations": passes, "rerank": True} for passes in (4, 10)}
BASELINE = "autoregressive"  # with which the AR of the others is compared
say = runs.teller("experiment")


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("interrupted: run the same command again to go on")
        return runs.INTERRUPTED[0]


def _run(arguments: argparse.Namespace) -> int:
    text = [Path(arguments.data, f"train.{language}") for language in ("en", "de")]
    vocabulary = runs.vocabulary(text, arguments)
    checksums = {path.name: checksum(path) for path in (*text, vocabulary)}
    sources, references = (side[: arguments.limit] for side in test_set())
    of = {"limit": arguments.limit, "threads": arguments.threads}
    test = runs.Test(sources, references, ("bleu", "chrf"), arguments.threads, of, paired="ar")
    files = ["--data", arguments.data, "--vocabulary", str(vocabulary), "--device", arguments.device]

    def make(arm: str, seed: int) -> Run:
        own, folder = ARMS[arm], arguments.out / f"seed-{seed}"
        updates, options = arguments.updates * _pace(own, arguments), [*_options(own, arguments), "--seed", str(seed)]
        first, decodes = own.begins_with and folder / own.begins_with, runs.trained_for(own, DECODES)
        return Run(arm, seed, folder / arm, files, options, checksums, updates, decodes, test, first, say)

    def write(results: dict) -> None:
        _compare(results["records"])
        experiment_report.write(arguments.name, results, arguments.results)

    return runs.carry_out(make, ARMS, arguments, experiment_report.line, write)


def _pace(arm: Arm, arguments: argparse.Namespace) -> int:
    return 1 if arguments.same_updates else arm.pace


def _options(arm: Arm, arguments: argparse.Namespace) -> list[str]:
    """Those of ``janus-fast train`` in an arm, but for the seed."""
    pace = _pace(arm, arguments)
    own = schedule(arguments.updates * pace, arguments.validations * pace)
    return effective([*SIZES.split(), *own, *arguments.rest, *arm.options.split()], arm)


def _compare(records: list[dict]) -> None:
    """Adds to each record with AR what its BLEU has more than that of the baseline of the same seed, and how often a
    paired bootstrap would have found as much by chance; takes the translations out."""
    systems = {}
    for record in records:
        if lines := record["evaluations"].get("ar", {}).pop("hypotheses", None):
            systems.setdefault(record["seed"], {})[record["arm"]] = lines
    for record in records:
        own, others = record["arm"], systems.get(record["seed"], {})
        if own != BASELINE and own in others and BASELINE in others:
            lines = others[BASELINE]
            named = [(name, others[name]) for name in (BASELINE, own)]
            metrics, references = {"BLEU": BLEU()}, [test_set()[1][: len(lines)]]
            options = {"test_type": "bs", "n_samples": runs.RESAMPLES}
            before, after = PairedTest(named, metrics, references, **options)()[1]["BLEU"]
            record["paired"] = {"bleu": round(after.score - before.score, 2), "p": round(after.p_value, 4)}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = runs.parser("experiment", __doc__.splitlines()[0], ARMS, seeds=[1, 2])
    parser.add_argument(
        "--updates", type=positive, default=10_000, metavar="N", help="of an arm of pace 1 (default: 10000)"
    )
    parser.add_argument("--same-updates", action="store_true", help="of every arm, whatever its pace")
    arguments = runs.parse(parser, argv, ARMS)
    runs.check_rest(parser, arguments, ARMS, _options)
    return arguments
