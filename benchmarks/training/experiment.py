"""Trains JANUS beside its parts, on the same text in the same order, and compares what they reach and how fast.

Every run is a directory of ``janus-fast train`` in ``--out``. Run again, the same command goes on where it was: what is
trained and evaluated is not done again. After each run the results are written, of all runs that ``--out`` holds, and
of those that ``--results`` has from elsewhere, such as another machine, if they were trained alike.
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from benchmarks.arguments import positive
from benchmarks.machine import RESULTS, machine
from benchmarks.training import experiment_report, side_by_side
from benchmarks.training.side_by_side import Job
from janus_fast import Translator, cli, engine, evaluate, load, save
from janus_fast.data import test_set
from janus_fast.directory import WEIGHTS
from janus_fast.objectives import OBJECTIVES
from janus_fast.replacing import replacing
from janus_fast.text.lines import as_line
from janus_fast.text.vocabulary import DEFAULT_SIZE, Vocabulary
from janus_fast.training.checkpoints import latest_checkpoint, read_state
from janus_fast.training.options import without_effect


@dataclass(frozen=True)
class Arm:
    """What is compared: ``options`` of ``janus-fast train``, ``pace`` times the updates that are asked for, the weights
    of another arm to begin with."""

    options: str
    pace: int = 1
    begins_with: str | None = None

    @property
    def objective(self) -> str:
        return self.options.split()[1]


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
CURVE = "update", "seconds", "tokens", "ar_nll", "nar_nll", "bleu_ar", "bleu_nar"  # of a validation
INTERRUPTED = 130, 143  # the exit statuses of janus-fast for it: Ctrl-C, SIGTERM
ENDED = {0: "trained", side_by_side.IN_TIME: "to be gone on with"}  # by exit status, side by side
RESAMPLES = 1000  # of the bootstrap
EVERY = 5  # each so manieth test sentence is also decoded alone, by the clock
# What all arms share; it is the paper's where nothing is named. What stands behind -- comes later on the command line
# of janus-fast train, and wins.
SIZES = """--recipe paper --average always
    --d-model 256 --encoder-layers 5 --decoder-layers 3 --encoder-ffn-dim 1024 --decoder-ffn-dim 768 --normalize-before
    --max-tokens 1024 --learning-rate 6e-4 --weight-decay 0.01 --keep 5"""
FIXED = (
    "--data", "--out", "--device", "--recipe", "--average", "--init", "--normalization", "--vocabulary",
    "--vocabulary-size", "--max-updates", "--masking", "--seed", "--with-auxiliary",
    *dict.fromkeys(word for arm in ARMS.values() for word in arm.options.split() if word.startswith("--")),
)  # fmt: skip


def schedule(updates: int, validations: int) -> list[str]:
    """Of a run; with one validation it comes behind the last update, so that its time is not training's."""
    shares = {"warmup-updates": 10, "divergence-warmup-updates": 2, "decay-updates": 4, "save-interval": 40}
    shares["validate-interval"] = validations
    options = {name: max(1, updates // share) for name, share in shares.items()}
    options |= {"max-updates": updates, "masking": "uniform"}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def effective(options: list[str], objective: str) -> list[str]:
    """``options`` without those that change nothing in a training, which ``janus-fast train`` refuses."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("divergence-weight", 1.0), ("draft-weight", 0.0), ("suffix-share", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    given = vars(parser.parse_known_args(options)[0])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in without_effect({"objective": objective, **given}):
        parser.add_argument("--" + name.replace("_", "-"))
    return parser.parse_known_args(options)[1]


@dataclass
class Run:
    """An arm with a seed: its training and its evaluations, each on record with what it was made ``of``."""

    arm: str
    seed: int
    directory: Path
    options: list[str]  # of janus-fast train, but for paths
    text: dict[str, str]  # checksums
    updates: int
    limit: int | None
    threads: int
    first: Path | None = None  # the model that it begins with

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    def command(self, data: str, vocabulary: Path, device: str) -> list[str]:
        """Of ``janus-fast``, to train or to go on."""
        files = ["--data", data, "--vocabulary", str(vocabulary), "--out", str(self.directory), "--device", device]
        return ["train", *files, *(["--init", str(self.first)] if self.first else []), *self.options]

    def recorded(self, status: int, device: str) -> int:
        """Puts a training that left with ``status`` on record, if it was made to its end; returns its status."""
        if status:
            return status
        state = read_state(latest_checkpoint(self.directory))
        if state["update"] != self.updates:  # such as by --max-minutes; arms compare after as many updates alone
            _say(f"{self.name}: training must make {self.updates:,} updates to count, got {state['update']:,}")
            return 1
        record = {name: state[name] for name in ("update", "seconds", "tokens_seen", "precision")}
        where = {"device": torch.cuda.get_device_name()} if device == "cuda" else {}
        where |= machine(torch.get_num_threads())
        self._store("training", {**record, "machine": where, "of": self._trained_of})
        return 0

    def training(self) -> dict | None:
        """The record of a training that is done."""
        record = self._stored("training", self._trained_of) if self._weights.is_file() else None
        return record and {**record, "seconds_at_median_pace": self._pace() * record["update"] or record["seconds"]}

    def _pace(self) -> float:
        """Seconds an update, the median over all log lines; 0 where there are too few to tell."""
        path = self.directory / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        pairs = pairwise(line for line in lines if line["kind"] == "train")
        # A training that was cut off and goes on from its last checkpoint logs the updates since then again.
        forward = [(a, b) for a, b in pairs if b["update"] > a["update"]]
        paces = [(b["seconds"] - a["seconds"]) / (b["update"] - a["update"]) for a, b in forward]
        return statistics.median(paces) if paces else 0.0

    def curve(self) -> list[dict]:
        """Its validations: the tokens seen until then, and what was measured."""
        path = self.directory / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        return [{name: line[name] for name in CURVE if name in line} for line in lines if line["kind"] == "valid"]

    @property
    def decodes(self) -> list[str]:
        """Those that this arm is trained for."""
        modes = OBJECTIVES[ARMS[self.arm].objective].modes
        able = {name: options for name, options in DECODES.items() if options["mode"] in modes}
        return [name for name, options in able.items() if "ar" in modes or not options.get("rerank")]

    def evaluations(self) -> dict[str, dict]:
        """The records of the decodes that are done, of the model that is there."""
        found = {name: self._stored(f"test-{name}", self._decoded_of(name)) for name in self.decodes}
        return {name: record for name, record in found.items() if record}

    def evaluate(self) -> bool:
        """Does what is still to do; returns whether there was any."""
        done = self.evaluations()
        if not (missing := [name for name in self.decodes if name not in done]):
            return False
        translator = Translator(str(self.directory), backend="engine", intra_threads=self.threads)
        sources, references = (side[: self.limit] for side in test_set())
        for name in missing:
            record = evaluate.evaluate(translator, sources, references, resamples=RESAMPLES, **DECODES[name])
            alone = evaluate.milliseconds_per_sentence(translator, sources[::EVERY], **DECODES[name])
            record["milliseconds"] = {"1": alone, "32": 1000 * record["seconds"] / len(sources)}
            record |= {"isa": translator.isa, "compute_type": translator.compute_type}
            results = translator.translate(sources, **DECODES[name])
            record["hypotheses"] = [as_line(result.hypotheses[0]) for result in results]
            self._store(f"test-{name}", {**record, "machine": machine(self.threads), "of": self._decoded_of(name)})
            _say(f"{self.name}: {experiment_report.line(name, record)}")
        return True

    @property
    def _weights(self) -> Path:
        return self.directory / WEIGHTS

    @property
    def _trained_of(self) -> dict:
        weights = self.first and self.first / WEIGHTS
        first = {"first": weights.is_file() and _checksum(weights)} if weights else {}
        return {"options": self.options, "text": self.text, **first}

    def is_of(self, record: dict) -> bool:
        """Whether this run made ``record`` of the results, or would have."""
        of = record["training"]["of"]
        found = record["arm"], record["seed"], of["options"], of["text"]
        return found == (self.arm, self.seed, self.options, self.text)

    def _decoded_of(self, name: str) -> dict:
        return {**DECODES[name], "weights": _checksum(self._weights), "limit": self.limit, "threads": self.threads}

    def _stored(self, name: str, of: dict) -> dict | None:
        path = self.directory / f"{name}.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return record if record.get("of") == of else None

    def _store(self, name: str, record: dict) -> None:
        with replacing(self.directory) as folder:
            (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        _say("interrupted: run the same command again to go on")
        return INTERRUPTED[0]


def _run(arguments: argparse.Namespace) -> int:
    text = [Path(arguments.data, f"train.{language}") for language in ("en", "de")]
    vocabulary = _vocabulary(text, arguments)
    checksums = {path.name: _checksum(path) for path in (*text, vocabulary)}

    def run(arm: str, seed: int) -> Run:
        own, folder = ARMS[arm], arguments.out / f"seed-{seed}"
        pace = 1 if arguments.same_updates else own.pace
        updates = arguments.updates * pace
        words = [*SIZES.split(), *schedule(updates, arguments.validations * pace), *arguments.rest]
        options = [*effective([*words, *own.options.split()], own.objective), "--seed", str(seed)]
        first = own.begins_with and folder / own.begins_with
        return Run(arm, seed, folder / arm, options, checksums, updates, arguments.limit, arguments.threads, first)

    before = _results(arguments.results)
    seeds = {*arguments.seeds, *(int(path.name[5:]) for path in arguments.out.glob("seed-*"))}
    seeds |= {record["seed"] for record in before}
    everything = [run(arm, seed) for arm in ARMS for seed in sorted(seeds)]
    chosen = [run(arm, seed) for seed in arguments.seeds for arm in arguments.arms]
    device = arguments.device
    commands = {each.name: each.command(arguments.data, vocabulary, device) for each in chosen if not each.training()}
    statuses = _side_by_side(chosen, commands, arguments) if arguments.jobs > 1 else {}
    failed = 0  # one run that fails, by diverging for one, leaves the others their turn
    for number, each in enumerate(chosen, 1):
        news, status = "trained already", 0
        if each.name in commands:
            news = ENDED.get(statuses[each.name], "failed") if statuses else "training"
        _say(f"{each.name} (run {number} of {len(chosen)}): {news}")
        if each.name in commands:
            status = statuses[each.name] if statuses else cli.main(commands[each.name])
            status = each.recorded(status, device)
        if status in INTERRUPTED and not statuses:
            return status
        failed = failed or status
        if (not status and each.evaluate()) or each is chosen[-1]:
            measured = _measured(everything, before)
            if measured["records"]:
                experiment_report.write(measured, arguments.results)
                _say(f"the results are in {arguments.results}")
            if arguments.keep:
                _keep(everything, arguments.keep)
    return failed


def _side_by_side(runs: list[Run], commands: dict[str, list[str]], arguments: argparse.Namespace) -> dict[str, int]:
    """Trains in processes; returns how each of ``commands`` ended, or that it was not begun."""
    missing = [each for each in runs if each.name in commands]
    names = {each.directory: each.name for each in missing}
    jobs = [
        Job(
            each.name, ["janus_fast", *commands[each.name]], each.directory.with_suffix(".log"),
            [names[each.first]] if each.first in names else [],
        )
        for each in missing
    ]  # fmt: skip
    if jobs:
        _say(f"{len(jobs)} trainings, {arguments.jobs} side by side; what they say is in {arguments.out}/seed-*/*.log")
    ended = side_by_side.run(jobs, arguments.jobs, arguments.minutes)
    return {job.name: ended.get(job.name, side_by_side.IN_TIME) for job in jobs}  # the others were not begun


def _keep(runs: list[Run], directory: Path) -> None:
    """What is worth carrying from the machine that trained: figures, and weights in int8."""
    for run in runs:
        if run.training():
            folder = directory / run.directory.parent.name / run.arm
            model, vocabularies = load(run.directory)
            save(model, folder, vocabularies, quantization="int8")
            for path in (*run.directory.glob("*.json"), run.directory / "metrics.jsonl"):
                if path.is_file() and not (folder / path.name).exists():
                    shutil.copy(path, folder)


def _results(directory: Path) -> list[dict]:
    """The records that were written there."""
    path = directory / "experiment.json"
    return json.loads(path.read_text(encoding="utf-8"))["records"] if path.is_file() else []


def _measured(runs: list[Run], before: list[dict]) -> dict:
    """The records of what was measured, also ``before``, and the names of what was not."""
    records, missing = [], []
    for run in runs:
        training = run.training()
        if not training and (kept := next((record for record in before if run.is_of(record)), None)):
            records.append(kept)
        elif training:
            done = run.evaluations()
            record = {"arm": run.arm, "seed": run.seed, "training": training, "evaluations": done}
            records.append({**record, "options": " ".join(run.options), "curve": run.curve()})
            missing += [f"{run.name}: {name}" for name in run.decodes if name not in done]
        else:
            missing.append(run.name)
    _compare(records)
    return {"records": records, "missing": missing}


def _compare(records: list[dict]) -> None:
    """Adds to each record with AR what its BLEU has more than that of the baseline of the same seed, and how often a
    paired bootstrap would have found as much by chance; takes the translations out."""
    systems = {}
    for record in records:
        for name, evaluation in record["evaluations"].items():
            lines = evaluation.pop("hypotheses", None)
            if name == "ar" and lines:
                systems.setdefault(record["seed"], {})[record["arm"]] = lines
    for record in records:
        own, others = record["arm"], systems.get(record["seed"], {})
        if own != BASELINE and own in others and BASELINE in others:
            lines = others[BASELINE]
            named = [(name, others[name]) for name in (BASELINE, own)]
            metrics, references = {"BLEU": BLEU()}, [test_set()[1][: len(lines)]]
            before, after = PairedTest(named, metrics, references, test_type="bs", n_samples=RESAMPLES)()[1]["BLEU"]
            record["paired"] = {"bleu": round(after.score - before.score, 2), "p": round(after.p_value, 4)}


def _vocabulary(text: list[Path], arguments: argparse.Namespace) -> Path:
    """That of all runs, trained once."""
    name = f"sentencepiece-{arguments.vocabulary_size or DEFAULT_SIZE}"
    path = arguments.out.resolve() / f"{name}.model"
    if not path.is_file():
        _say("training a vocabulary")
        with replacing(path.parent) as folder:
            Vocabulary.train(text, arguments.vocabulary_size).save(folder, name)
    return path


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _say(message: str) -> None:
    print(f"experiment: {message}", file=sys.stderr, flush=True)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks experiment", description=__doc__.splitlines()[0],
        epilog="Options behind -- are janus-fast train's, for every run: sizes, learning rate and the like.",
    )  # fmt: skip
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of janus-fast corpus")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the runs are, and go on")
    parser.add_argument(
        "--updates", type=positive, default=10_000, metavar="N", help="of an arm of pace 1 (default: 10000)"
    )
    parser.add_argument("--same-updates", action="store_true", help="of every arm, whatever its pace")
    parser.add_argument("--validations", type=positive, default=1, metavar="N", help="in as many updates (default: 1)")
    parser.add_argument("--seeds", type=positive, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--vocabulary-size", type=positive, metavar="N", help="default: as janus-fast train has it")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N sentences of the test set alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of training (default: cpu)")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="train N arms at once, each in a process (default: 1)"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M",
        help="with --jobs: end trainings after M minutes, each with a checkpoint; the same command goes on",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write figures and int8 weights of what is trained there, too"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of decoding (default: 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where tables and pictures go")
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    arguments.rest = argv[end + 1 :]
    if arguments.jobs == 1 and arguments.minutes < math.inf:
        parser.error("--minutes must come with --jobs of 2 or more")
    if clash := next((word for word in arguments.rest if word.split("=")[0] in FIXED), None):
        parser.error(f"options behind -- must be other than {', '.join(FIXED)}, got {clash}")
    names = [f"{part}.{language}" for part in ("train", "valid") for language in ("en", "de")]
    if absent := next((name for name in names if not Path(arguments.data, name).is_file()), None):
        parser.error(f"--data must have {', '.join(names)}, got {arguments.data} without {absent}")
    if reason := engine.missing():
        parser.error(reason)
    return arguments
