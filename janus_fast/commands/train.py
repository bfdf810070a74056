"""``janus-fast train``: from parallel or monolingual text to a model directory. Run again, it goes on where it was."""

import argparse
import dataclasses
import signal
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from ..config import JanusConfig
from ..directory import WEIGHTS, read_config, read_vocabularies
from ..holding import holding
from ..inputs import OptionError, flag
from ..text.lines import lines_of
from ..text.vocabulary import DEFAULT_SIZE, NORMALIZATIONS
from ..training.metrics import METRICS
from . import _settings
from ._decoding import count, positive
from ._progress import Progress, counted, line, say, stopping
from ._start import CURVES, SETTINGS, begin, checksum, init_model, run_before, text_files, versions, vocabulary_of_run

AVERAGE = ("best", "always", "never")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="the model directory; run again to go on in it")
    text = parser.add_argument_group("text, one sentence a line, UTF-8")
    text.add_argument("--data", metavar="DIR", help="a folder with train.en, train.de, valid.en, valid.de")
    text.add_argument("--pair", help="source and target language in --data (default: en-de)")
    for name in ("source", "target", "valid-source", "valid-target"):
        text.add_argument(f"--{name}", metavar="FILE", help="instead of --data")
    text.add_argument(
        "--monolingual", metavar="FILE",
        help="instead of --data: pre-training, in which each line is restored from what a corruption leaves of it",
    )  # fmt: skip
    text.add_argument("--valid-monolingual", metavar="FILE", help="validates that, by losses alone")
    text.add_argument(
        "--valid-sentences", type=count, default=200, metavar="N",
        help="translated to validate; 0 for losses alone (default: 200)",
    )  # fmt: skip
    text.add_argument("--vocabulary", metavar="FILE", help="a sentencepiece model (default: of --init, or of the text)")
    text.add_argument(
        "--vocabulary-size", type=positive, metavar="N",
        help=f"of the one to train (default: {DEFAULT_SIZE}, or the most that the text fills)",
    )  # fmt: skip
    text.add_argument(
        "--normalization", choices=NORMALIZATIONS,
        help="of the characters of both languages, by the vocabulary to train; identity leaves them as they are. "
        "nmt_nfkc, as Marian and T5 have it, makes one of characters that mean the same to most readers and all white "
        "space a space, so that few are unknown; but what it changes, such as full-width punctuation or the 2 of m², "
        "no translation will have (default: nmt_nfkc)",
    )  # fmt: skip
    text.add_argument(
        "--init", metavar="MODEL",
        help="begin with the weights, sizes and vocabulary of this model: a shipped name, a directory, or a checkpoint",
    )  # fmt: skip
    text.add_argument(
        "--average", choices=AVERAGE,
        help="whether the model is the mean of the last checkpoints; best: if it validates better than the last one "
        "alone, or there is no validation text (default: best)",
    )  # fmt: skip
    _settings.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..training.processes import started_processes

    with started_processes(arguments.device or "cpu") as processes, ExitStack() as held:
        return _run(arguments, processes, held)


def settings_of(
    arguments: argparse.Namespace, threads: int, before: dict | None = None, init: JanusConfig | None = None
) -> tuple[dict, dict, JanusConfig]:
    """Of the model and of the training, found to be right, and a configuration, but for the vocabulary's size.

    ``before`` and ``init`` as in ``_settings``. Nothing that is checked here depends on the text or the vocabulary.
    """
    from ..objectives import OBJECTIVES
    from ..training.options import TrainingOptions, check_text
    from ..training.trainer import objective_of

    model = _settings.model_settings(arguments, before, init)
    training = _settings.training_settings(arguments, before, threads, model["d_model"])
    options = TrainingOptions(**training)
    check_text(options, bool(arguments.monolingual), _settings.given(arguments, _settings.TRAINING))
    config = init or JanusConfig(DEFAULT_SIZE, DEFAULT_SIZE, **model)
    takers = [name for name, kind in OBJECTIVES.items() if kind.takes_one_stream]
    if not config.two_stream and options.objective not in takers:
        words = f"be {' or '.join(takers)} for a model of one stream"
        raise OptionError("--objective", words, options.objective)
    objective_of(options, config)  # refuses what does not suit
    return model, training, config


def _run(arguments: argparse.Namespace, processes, held: ExitStack) -> int:
    import torch

    from .. import checkpoint, installation
    from ..model import JanusModel
    from ..training.checkpoints import latest_checkpoint
    from ..training.code_switching import CodeSwitching
    from ..training.corruption import Corruption
    from ..training.data import ParallelData, aligned_lines
    from ..training.options import TrainingOptions, check_processes
    from ..training.trainer import Trainer

    # What the user can have got wrong comes before anything that takes long, as far as it needs no vocabulary.
    out, files = Path(arguments.out), text_files(arguments)
    begun = out.is_dir()
    if processes.rank == 0 and begun:
        held.enter_context(holding(out, "--out"))
    given = {"monolingual": files["source"]} if arguments.monolingual else files
    text = {name: checksum(given[name]) for name in ("monolingual", "source", "target") if name in given}
    before = run_before(out, text, filter(None, files.values()))
    processes.require_same("the text", text, "be the same on all machines")
    seen = before, str(latest_checkpoint(out) or "").rpartition("/")[2]
    processes.require_same("--out", seen, "be a folder that all machines share, as the run in it goes on in all")
    if before:
        _settings.check_goes_on(arguments, before, str(out))
    for source, target in (("source", "target"), ("valid_source", "valid_target")):
        if files[source]:
            aligned_lines(files[source], files[target])
    init = init_model(arguments) if arguments.init and not before else None
    threads = torch.get_num_threads() * processes.count
    model, training, config = settings_of(arguments, threads, before, init.config if init else None)
    options = TrainingOptions(**training)
    check_processes(options, processes)
    dictionary, words = _dictionary(options.dictionary, before, out) if options.dictionary else (None, None)
    processes.require_same("--dictionary", words, "be the same on all machines")

    if before:
        config, vocabularies = read_config(latest_checkpoint(out)), read_vocabularies(out)
    elif init:
        config, vocabularies = dataclasses.replace(config, dropout=model["dropout"]), init.vocabularies
    else:
        shared = processes.of_first(vocabulary_of_run(arguments, files) if processes.rank == 0 else None)
        config, vocabularies = JanusConfig(len(shared), len(shared), **model), (shared, shared)
    torch.manual_seed(options.seed)
    model = JanusModel(config)
    if init:
        checkpoint.load_unique_state(model, checkpoint.read_state(init.weights, config), init.weights)
    corruption = Corruption(options, config, vocabularies[1].tokens) if arguments.monolingual else None
    switching = CodeSwitching(options, dictionary, config, vocabularies[1], bool(corruption)) if dictionary else None
    data = ParallelData.read(files["source"], files["target"], vocabularies, config, corruption, switching)
    if switching:
        switching.check(data.sources, data.targets)
    if options.device == "cpu" and (warning := installation.slow()):
        say(f"warning: {warning}")
    by_threads = not before and _settings.are_batches_by_threads(arguments)
    _say_what_is_there(model, data, vocabularies, options, threads if by_threads else None)
    validation = _validation(arguments, files, vocabularies, config, corruption, switching)
    trainer = Trainer(model, data, out, options, validation, processes=processes)
    if processes.rank == 0:
        start = before["start"] if before else {name: getattr(arguments, name) for name in _settings.START}
        start["average"] = arguments.average = arguments.average or start.get("average") or AVERAGE[0]
        settings = {"model": _settings.of_model(config), "training": dataclasses.asdict(options), "text": text}
        settings |= {"start": start, **({"dictionary": words} if words else {})}
        settings = {**before, **settings} if before else {**settings, "versions": versions()}
        if not begun:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(holding(out, "--out"))
            if (out / SETTINGS).exists():
                raise OptionError("--out", "not be what another training has begun meanwhile", out)
        begin(out, settings, None if before else vocabularies)
    ended = _train(trainer, threads)
    if ended or processes.rank > 0:
        return ended
    if trainer.update < options.max_updates:
        done = f"{trainer.update:,} of {options.max_updates:,} updates"
        say(f"stopped behind {done}, as --max-minutes says; the same command with more of them goes on")
    _finish(arguments, trainer, vocabularies)
    return 0


def _finish(arguments, trainer, vocabularies) -> None:
    """Writes the model that the run ends in, and says how good it is."""
    from .. import checkpoint

    out, config, validation = trainer.directory, trainer.model.config, trainer.validate
    state, what = _final(trainer, arguments.average)
    checkpoint.check_state(config, state, out)
    # another model than the trainer's, of which other processes may have a part
    model = checkpoint.model_of(config, state, out).to(trainer.options.device)
    checkpoint.save(model.eval(), out, vocabularies)
    figures = validation(model, trainer.objective) if validation else {}
    say(f"{line(trainer.update, figures)}  ({what})")
    metrics, curves = out / METRICS, out / CURVES
    if find_spec("matplotlib") and metrics.exists():
        from ..training.plot import plot_losses

        plot_losses(metrics, curves)
        say(f"its losses are drawn in {curves}")
    say(f"the model is in {out}")
    for mode, options in trainer.objective.validated.items():
        words = " ".join(f"{flag(name)} {value}" for name, value in options.items())
        say(f"in mode {mode} it was trained for {words}")


def _final(trainer, average: str) -> tuple[dict, str]:
    """The parameters that a run ends in, and which they are."""
    from .. import checkpoint
    from ..training.checkpoints import average as mean_of
    from ..training.checkpoints import checkpoints

    kept = checkpoints(trainer.directory)[-trainer.options.keep :]
    mean, last = mean_of(kept), checkpoint.read_tensors(kept[-1] / WEIGHTS)
    names = f"mean of the last {len(kept)} checkpoints", "the last checkpoint"
    if average == "never" or len(kept) == 1:
        return last, names[1]
    if average == "always" or not trainer.validate:
        return mean, names[0]
    losses = []
    for state in (mean, last):
        checkpoint.check_state(trainer.model.config, state, trainer.directory)
        model = checkpoint.model_of(trainer.model.config, state, trainer.directory).to(trainer.options.device)
        losses.append(trainer.validate.losses(model.eval(), trainer.objective)["loss"])
    better = int(losses[1] < losses[0])
    compared = f"{names[better]}; validation loss {losses[better]:.3f}, of {names[1 - better]} {losses[1 - better]:.3f}"
    return (mean, last)[better], compared


def _say_what_is_there(model, data, vocabularies, options, threads: int | None) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    sizes = " and ".join(dict.fromkeys(f"{len(vocabulary):,}" for vocabulary in vocabularies))
    what = "lines" if data.corruption else "sentence pairs"
    say(f"{parameters:,} parameters, {len(data):,} {what}, a vocabulary of {sizes} tokens")
    limits = model.config.max_source_positions, model.config.max_target_positions
    if data.empty + data.too_long:
        reasons = f"{data.empty:,} empty on a side, {data.too_long:,} longer than {limits[0]} or {limits[1]} tokens"
        say(f"{data.empty + data.too_long:,} pairs are left out: {reasons}")
    why = f", for {counted(threads, 'thread')} and width {model.config.d_model} (--max-tokens)" if threads else ""
    say(f"batches of {options.max_tokens:,} tokens{why}")


def _dictionary(file: str, before: dict | None, out: Path) -> tuple[dict[str, list[str]], str]:
    """The translations by word, and the checksum, of a file that a run can begin or go on with."""
    from ..training.code_switching import read_dictionary

    dictionary, words = read_dictionary(file), checksum(Path(file))
    if before and before["dictionary"] != words:
        raise ValueError(f"--dictionary must hold the words that the run in {out} began with; it has changed")
    return dictionary, words


def _validation(arguments, files, vocabularies, config, corruption, switching):
    from ..training.data import ParallelData
    from ..training.validation import Validation

    if not files["valid_source"]:
        names = "--valid-monolingual" if corruption else "--valid-source, --valid-target"
        say(f"no validation text ({names}): the loss on the training text is all that is shown")
        return None
    sides = files["valid_source"], files["valid_target"]
    data = ParallelData.read(*sides, vocabularies, config, corruption, switching)
    if corruption:
        return Validation(data, [], [], vocabularies)
    lines = [lines_of(files[name]) for name in ("valid_source", "valid_target")]
    chosen = data.kept[: arguments.valid_sentences]
    sources, references = ([side[number] for number in chosen] for side in lines)
    return Validation(data, sources, references, vocabularies)


def _train(trainer, threads: int) -> int:
    """Trains, and shows how; returns the exit status of a run that was told to stop, else 0."""
    if start := trainer.latest:
        say(f"going on from update {start:,}")
    progress = Progress(trainer, threads)
    trainer.on_step, trainer.on_log = progress.on_step, progress.on_log
    try:
        with progress.bar, stopping(trainer) as came:
            trainer.train()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_go_on(trainer)) from None
    # a signal may also have come behind the last update: while it was validated, or its checkpoint written
    if not (trainer.stopped or trainer.agreed(trainer.seconds)[1]):
        return 0
    if signal.SIGINT in came and trainer.processes.rank == 0:
        raise KeyboardInterrupt(_go_on(trainer))
    say(f"ended: {_go_on(trainer)}")
    return 128 + (came or [signal.SIGTERM])[0]


def _go_on(trainer) -> str:
    return f"run the same command again to go on from update {trainer.latest:,}"
