"""Trainings that are compared: each a directory of ``janus-fast train``, trained and evaluated once, alike in all but
what is compared.

Run again, the same command goes on where it was: what is trained and evaluated is not done again. The results are
written after each run, of all runs that ``--out`` holds, and of those that ``--results`` has from elsewhere, such as
another machine, if they were trained alike.
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.arguments import file_name, minutes, positive
from benchmarks.machine import RESULTS, machine
from benchmarks.training import side_by_side
from benchmarks.training.side_by_side import Job
from janus_fast import Translator, cli, engine, evaluate, load, save
from janus_fast.commands import train
from janus_fast.directory import FILES, WEIGHTS
from janus_fast.inputs import flag
from janus_fast.objectives import OBJECTIVES
from janus_fast.reading import read_text
from janus_fast.replacing import replacing
from janus_fast.text.lines import as_line
from janus_fast.text.vocabulary import DEFAULT_SIZE, Vocabulary
from janus_fast.training.checkpoints import latest_checkpoint, read_state
from janus_fast.training.code_switching import read_dictionary
from janus_fast.training.corruption import CorruptionOptions
from janus_fast.training.metrics import METRICS, read_records
from janus_fast.training.options import TrainingOptions, without_effect


@dataclass(frozen=True)
class Arm:
    """What is compared: ``options`` of ``janus-fast train``, ``pace`` times the updates that are asked for, the weights
    of another arm to begin with, by name, and whether it is pre-training, on monolingual text."""

    options: str
    pace: int = 1
    begins_with: str | None = None
    monolingual: bool = False

    @property
    def objective(self) -> str:
        return self.options.split()[1]


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
    "--data", "--out", "--device", "--pair", "--recipe", "--average", "--init", "--normalization", "--vocabulary",
    "--vocabulary-size", "--max-updates", "--masking", "--seed", "--with-auxiliary", "--source", "--target",
    "--valid-source", "--valid-target", "--monolingual", "--valid-monolingual",
)  # fmt: skip


def schedule(updates: int, validations: int) -> list[str]:
    """Of a run; with one validation it comes behind the last update, so that its time is not training's."""
    shares = {"warmup-updates": 10, "divergence-warmup-updates": 2, "decay-updates": 4, "save-interval": 40}
    shares["validate-interval"] = validations
    options = {name: max(1, updates // share) for name, share in shares.items()}
    options |= {"max-updates": updates, "masking": "uniform"}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def effective(options: list[str], arm: Arm) -> list[str]:
    """``options`` without those that change nothing in the training of an arm, which ``janus-fast train`` refuses."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("divergence-weight", 1.0), ("draft-weight", 0.0), ("suffix-share", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--dictionary")
    given = vars(parser.parse_known_args(options)[0])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    idle = {*without_effect({"objective": arm.objective, **given})}
    idle |= set() if arm.monolingual else {option.name for option in fields(CorruptionOptions)}
    for option in (option for option in fields(TrainingOptions) if option.name in idle):
        several = len(option.default) if isinstance(option.default, tuple) else None
        parser.add_argument(flag(option.name), nargs=several)
    return parser.parse_known_args(options)[1]


@dataclass
class Test:
    """What trained models are measured on and how; ``of``, JSON, tells it from another."""

    sources: list[str]
    references: list[str]
    metrics: tuple[str, ...]
    threads: int
    of: dict
    paired: str | None = None  # the decode whose translations are kept, to be compared between arms


@dataclass
class Run:
    """An arm with a seed: its training and its evaluations, each on record with what it was made ``of``."""

    arm: str
    seed: int
    directory: Path
    files: list[str]  # options of janus-fast train that are paths
    options: list[str]  # all others
    text: dict[str, str]  # checksums
    updates: int
    decodes: dict[str, dict]  # options of decoding, by name
    test: Test
    first: Path | None = None  # the model that it begins with
    say: Callable[[str], None] = field(default=print, repr=False)

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    def command(self) -> list[str]:
        """Of ``janus-fast``, to train or to go on."""
        files = [*self.files, "--out", str(self.directory)]
        return ["train", *files, *(["--init", str(self.first)] if self.first else []), *self.options]

    def recorded(self, status: int, device: str) -> int:
        """Puts a training that left with ``status`` on record, if it was made to its end; returns its status."""
        if status:
            return status
        state = read_state(latest_checkpoint(self.directory))
        if state["update"] != self.updates:  # such as by --max-minutes; arms compare after as many updates alone
            self.say(f"{self.name}: training must make {self.updates:,} updates to count, got {state['update']:,}")
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
        pairs = pairwise(self._logged("train"))
        # A training that was cut off and goes on from its last checkpoint logs the updates since then again.
        forward = [(a, b) for a, b in pairs if b["update"] > a["update"]]
        paces = [(b["seconds"] - a["seconds"]) / (b["update"] - a["update"]) for a, b in forward]
        return statistics.median(paces) if paces else 0.0

    def curve(self) -> list[dict]:
        """Its validations: the tokens seen until then, and what was measured."""
        return [{name: line[name] for name in CURVE if name in line} for line in self._logged("valid")]

    def _logged(self, kind: str) -> list[dict]:
        """What the training logged of this kind; nothing before it begins."""
        path = self.directory / METRICS
        records = read_records(self.name, path, "kind", "update", "seconds") if path.is_file() else []
        return [record for record in records if record["kind"] == kind]

    def evaluations(self) -> dict[str, dict]:
        """The records of the decodes that are done, of the model that is there."""
        found = {name: self._stored(f"test-{name}", self._decoded_of(name)) for name in self.decodes}
        return {name: record for name, record in found.items() if record}

    def evaluate(self, line: Callable[[str, dict], str]) -> bool:
        """Does what is still to do, and tells each in a ``line``; returns whether there was any."""
        done, test = self.evaluations(), self.test
        if not (missing := [name for name in self.decodes if name not in done]):
            return False
        translator = Translator(str(self.directory), backend="engine", intra_threads=test.threads)
        config = translator.config
        longest = config.max_source_positions - len(config.source_ids([]))
        for name in missing:
            own = {**self.decodes[name], "max_input_length": longest}
            record = evaluate.evaluate(
                translator, test.sources, test.references, metrics=test.metrics, resamples=RESAMPLES, **own
            )
            alone = evaluate.milliseconds_per_sentence(translator, test.sources[::EVERY], **own)
            record["milliseconds"] = {"1": alone, "32": 1000 * record["seconds"] / len(test.sources)}
            record |= {"isa": translator.isa, "compute_type": translator.compute_type}
            if name == test.paired:
                results = translator.translate(test.sources, **own)
                record["hypotheses"] = [as_line(result.hypotheses[0]) for result in results]
            self._store(f"test-{name}", {**record, "machine": machine(test.threads), "of": self._decoded_of(name)})
            self.say(f"{self.name}: {line(name, record)}")
        return True

    def record(self) -> dict:
        """Of the results, behind its training."""
        record = {"arm": self.arm, "seed": self.seed, "training": self.training(), "evaluations": self.evaluations()}
        return {**record, "options": " ".join(self.options), "curve": self.curve()}

    @property
    def _weights(self) -> Path:
        return self.directory / WEIGHTS

    @property
    def _trained_of(self) -> dict:
        weights = self.first and self.first / WEIGHTS
        first = {"first": weights.is_file() and checksum(weights)} if weights else {}
        return {"options": self.options, "text": self.text, **first}

    def is_of(self, record: dict) -> bool:
        """Whether this run made ``record`` of the results, or would have, but for the threads."""
        of = record["training"]["of"]
        found = record["arm"], record["seed"], of["options"], of["text"]
        test = {name: value for name, value in self.test.of.items() if name != "threads"}
        alike = all({**each["of"], **test} == each["of"] for each in record["evaluations"].values())
        return found == (self.arm, self.seed, self.options, self.text) and alike

    def _decoded_of(self, name: str) -> dict:
        return {**self.decodes[name], "weights": checksum(self._weights), **self.test.of}

    def _stored(self, name: str, of: dict) -> dict | None:
        path = self.directory / f"{name}.json"
        try:
            record = json.loads(read_text(self.name, path)) if path.is_file() else {}
            return record if record.get("of") == of else None
        except (json.JSONDecodeError, AttributeError):
            raise ValueError(f"{self.name}: {path} must hold a JSON object, got something else") from None

    def _store(self, name: str, record: dict) -> None:
        with replacing(self.directory) as folder:
            (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def trained_for(arm: Arm, decodes: dict[str, dict]) -> dict[str, dict]:
    """Those of ``decodes`` that an arm is trained for."""
    kind = OBJECTIVES[arm.objective]

    def trains(options: dict) -> bool:
        only = kind.validated.get(options["mode"], {})  # such as a single pass
        able = options["mode"] in kind.modes and all(options.get(name, value) == value for name, value in only.items())
        return able and ("ar" in kind.modes or not options.get("rerank"))

    return {name: options for name, options in decodes.items() if trains(options)}


def carry_out(
    make: Callable[[str, int], Run], arms: Iterable[str], arguments: argparse.Namespace,
    line: Callable[[str, dict], str], write: Callable[[dict], None],
) -> int:  # fmt: skip
    """Trains and evaluates what is chosen and not done; after each run ``write`` gets the results of all ``arms``.

    Returns the exit status: that of the first run that failed, which leaves the others their turn.
    """
    before = _results(arguments.results, arguments.name)
    seeds = {*arguments.seeds, *(int(path.name[5:]) for path in arguments.out.glob("seed-*"))}
    seeds |= {record["seed"] for record in before}
    everything = [make(arm, seed) for arm in arms for seed in sorted(seeds)]
    chosen = [make(arm, seed) for seed in arguments.seeds for arm in arguments.arms]
    device = arguments.device
    commands = {run.name: run.command() for run in chosen if not run.training()}
    statuses = _side_by_side(chosen, commands, arguments) if arguments.jobs > 1 else {}
    failed = 0
    for number, run in enumerate(chosen, 1):
        news, status = "trained already", 0
        if run.name in commands:
            news = ENDED.get(statuses[run.name], "failed") if statuses else "training"
        run.say(f"{run.name} (run {number} of {len(chosen)}): {news}")
        if run.name in commands:
            status = statuses[run.name] if statuses else cli.main(commands[run.name])
            status = run.recorded(status, device)
        if status in INTERRUPTED and not statuses:
            return status
        failed = status if status and failed in (0, *INTERRUPTED) else failed
        if (not status and run.evaluate(line)) or run is chosen[-1]:
            measured = _measured(everything, before)
            if measured["records"]:
                write(measured)
                run.say(f"the results are in {arguments.results}")
            if arguments.keep:
                _keep(everything, arguments.keep)
    return failed


def _side_by_side(runs: list[Run], commands: dict[str, list[str]], arguments: argparse.Namespace) -> dict[str, int]:
    """Trains in processes; returns how each of ``commands`` ended, or that it was not begun."""
    missing = [run for run in runs if run.name in commands]
    names = {run.directory: run.name for run in missing}
    jobs = [
        Job(
            run.name, ["janus_fast", *commands[run.name]], run.directory.with_suffix(".log"),
            [names[run.first]] if run.first in names else [],
        )
        for run in missing
    ]  # fmt: skip
    if jobs:
        said = f"{len(jobs)} trainings, {arguments.jobs} side by side; what they say is in {arguments.out}/seed-*/*.log"
        missing[0].say(said)
    ended = side_by_side.run(jobs, arguments.jobs, arguments.minutes)
    return {job.name: ended.get(job.name, side_by_side.IN_TIME) for job in jobs}  # the others were not begun


def _keep(runs: list[Run], directory: Path) -> None:
    """What is worth carrying from the machine that trained: figures, and weights in int8."""
    for run in runs:
        if run.training():
            folder = directory / run.directory.parent.name / run.arm
            model, vocabularies = load(run.directory)
            save(model, folder, vocabularies, quantization="int8")
            for path in (*run.directory.glob("*.json"), run.directory / METRICS):
                if path.is_file() and path.name not in FILES:  # which have those of the weights in int8
                    shutil.copy(path, folder)


def _results(directory: Path, name: str) -> list[dict]:
    """The records that were written there."""
    path = directory / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["records"] if path.is_file() else []
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--results must hold no other {path.name} than of this comparison, got {path}") from None


def _measured(runs: list[Run], before: list[dict]) -> dict:
    """The records of what was measured, also ``before``, and the names of what was not."""
    records, missing = [], []
    for run in runs:
        trained = run.training()
        if not trained and (kept := next((record for record in before if run.is_of(record)), None)):
            records.append(kept)
        elif trained:
            records.append(run.record())
            missing += [f"{run.name}: {name}" for name in run.decodes if name not in records[-1]["evaluations"]]
        else:
            missing.append(run.name)
    return {"records": records, "missing": missing}


def vocabulary(text: list[Path], arguments: argparse.Namespace) -> Path:
    """That of all runs, trained once."""
    name = f"sentencepiece-{arguments.vocabulary_size or DEFAULT_SIZE}"
    path = arguments.out.resolve() / f"{name}.model"
    if not path.is_file():
        with replacing(path.parent) as folder:
            Vocabulary.train(text, arguments.vocabulary_size).save(folder, name)
    return path


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def teller(topic: str) -> Callable[[str], None]:
    return lambda message: print(f"{topic}: {message}", file=sys.stderr, flush=True)


def parser(topic: str, about: str, arms: Iterable[str], seeds: list[int]) -> argparse.ArgumentParser:
    """Of the options that comparisons share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {topic}", description=about,
        epilog="Options behind -- are janus-fast train's, for every run: sizes, learning rate and the like.",
    )  # fmt: skip
    made.add_argument("--data", required=True, metavar="DIR", help="a folder of janus-fast corpus")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the runs are, and go on")
    made.add_argument("--validations", type=positive, default=1, metavar="N", help="in as many updates (default: 1)")
    shown = " ".join(map(str, seeds))
    made.add_argument("--seeds", type=positive, nargs="+", default=seeds, metavar="N", help=f"default: {shown}")
    made.add_argument("--arms", nargs="+", choices=arms, default=list(arms), help="default: all")
    made.add_argument("--vocabulary-size", type=positive, metavar="N", help="default: as janus-fast train has it")
    made.add_argument("--limit", type=positive, metavar="N", help="the first N sentences of the test set alone")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of training (default: cpu)")
    made.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="train N arms at once, each in a process (default: 1)"
    )
    made.add_argument(
        "--minutes", type=minutes, default=math.inf, metavar="M",
        help="with --jobs: end trainings after M minutes, each with a checkpoint; the same command goes on",
    )  # fmt: skip
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="write figures and int8 weights of what is trained there, too"
    )
    made.add_argument("--threads", type=positive, default=1, metavar="N", help="of decoding (default: 1)")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where tables and pictures go")
    made.add_argument(
        "--name", type=file_name, default=topic, help="which their files begin with (default: %(default)s)"
    )
    return made


def parse(parser: argparse.ArgumentParser, argv: list[str], arms: dict[str, Arm]) -> argparse.Namespace:
    """With ``rest``, the options behind ``--``: none that an arm has, or that are the comparison's own."""
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    arguments.rest = argv[end + 1 :]
    for option in ("out", "results", "keep"):
        if (folder := getattr(arguments, option)) and folder.exists() and not folder.is_dir():
            parser.error(f"--{option} must be a folder, got the file {folder}")
    if arguments.jobs == 1 and arguments.minutes < math.inf:
        parser.error("--minutes must come with --jobs of 2 or more")
    own = dict.fromkeys(word for arm in arms.values() for word in arm.options.split() if word.startswith("--"))
    fixed = list(dict.fromkeys((*FIXED, *own)))
    names = ((word, word.partition("=")[0]) for word in arguments.rest if word.startswith("--"))
    if clash := next((word for word, name in names if any(option.startswith(name) for option in fixed)), None):
        parser.error(f"options behind -- must be other than {', '.join(fixed)}, got {clash}")
    languages = getattr(arguments, "pair", "en-de").split("-")
    names = [f"{part}.{language}" for part in ("train", "valid") for language in languages]
    if absent := next((name for name in names if not Path(arguments.data, name).is_file()), None):
        parser.error(f"--data must have {', '.join(names)}, got {arguments.data} without {absent}")
    if reason := engine.missing():
        parser.error(reason)
    return arguments


def check_rest(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, arms: dict[str, Arm],
    options_of: Callable[[Arm, argparse.Namespace], list[str]],
) -> None:  # fmt: skip
    """Refuses options behind ``--`` that ``janus-fast train`` would refuse in an arm that is chosen, whose options are
    ``options_of`` it, and such as change nothing in any of them."""
    chosen = [arms[name] for name in arguments.arms]
    command = ["train", "--out", str(arguments.out), "--device", arguments.device]
    cli.parse([*command, *arguments.rest])  # ends with an error for what it does not know
    used = [word for arm in chosen for word in effective([*arguments.rest, *arm.options.split()], arm)]
    if idle := next((word for word in arguments.rest if word.startswith("--") and word not in used), None):
        parser.error(f"options behind -- must change something in an arm of {', '.join(arguments.arms)}, got {idle}")
    for name, arm in zip(arguments.arms, chosen, strict=True):
        text = ["--monolingual" if arm.monolingual else "--data", arguments.data]
        own = cli.parse([*command, *text, *options_of(arm, arguments)])
        try:
            if own.dictionary:
                read_dictionary(own.dictionary)
            train.settings_of(own, torch.get_num_threads())
        except cli.MISTAKES as error:
            parser.error(f"options behind -- must suit arm {name}: {cli.one_line(error, vars(own))}")
