"""``janus-fast train``: from parallel text to a model directory. Run again, it goes on where it was."""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ..config import JanusConfig
from ..text.vocabulary import DEFAULT_SIZE, SPECIAL_TOKENS, Vocabulary
from ._decoding import positive

SETTINGS, VOCABULARY = "train.json", "sentencepiece.model"
MODEL_HELP = {
    "d_model": "width of the model",
    "encoder_layers": "layers of the encoder",
    "decoder_layers": "layers of the decoder",
    "attention_heads": "heads of every attention",
    "encoder_ffn_dim": "width of the encoder's feed-forward blocks",
    "decoder_ffn_dim": "width of the decoder's feed-forward blocks",
    "max_source_positions": "longest source, in tokens",
    "max_target_positions": "longest target, in tokens",
    "length_classes": "target lengths that the length predictor tells apart",
    "activation": "relu, gelu or silu",
    "positions": "learned or sinusoidal",
    "normalize_before": "norms before each block instead of behind it",
    "dropout": "share of activations dropped in training",
}
TRAINING_HELP = {
    "objective": "janus, autoregressive or cmlm",
    "max_tokens": "tokens in a batch",
    "accumulate": "batches to an update",
    "max_updates": "updates in all",
    "max_minutes": "stop after this long, resumably",
    "learning_rate": "highest learning rate",
    "warmup_updates": "updates until the highest learning rate",
    "decay_updates": "updates at the end in which the rate falls to zero",
    "without_auxiliary": "leave JANUS's auxiliary stream out",
    "divergence_weight": "factor of JANUS's divergences",
    "encoder_passes": "1, or 2: the AR and NAR streams read the source under dropouts of their own",
    "autoregressive_every": "each so manieth sentence of a batch also trains JANUS's AR streams",
    "divergence_warmup_updates": "updates until the divergences have their full weight",
    "adam_betas": "Adam's decay rates",
    "weight_decay": "AdamW's weight decay",
    "clip_norm": "longest gradient",
    "label_smoothing": "share of the target given to all tokens alike",
    "masking": "span or uniform (the objective's own)",
    "seed": "of weights, order, masks and dropout",
    "precision": "auto, float32, bfloat16, or on GPUs float16",
    "device": "cpu or cuda",
    "checkpoint_activations": "compute activations again in the backward pass instead of storing them",
    "fsdp": "each process holds a share of parameters, gradients and Adam's moments (FSDP2)",
    "save_interval": "updates between checkpoints",
    "validate_interval": "updates between validations",
    "keep": "checkpoints kept, and averaged at the end",
    "log_interval": "updates between lines of metrics.jsonl",
}
# What may differ when a run is taken up again: how long it goes on, and what it writes on the way.
CHANGEABLE = (
    "max_updates", "max_minutes", "decay_updates", "save_interval", "validate_interval", "keep", "log_interval",
    "device", "checkpoint_activations", "fsdp",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..training.trainer import TrainingOptions

    parser.add_argument("--out", required=True, metavar="DIR", help="the model directory; run again to go on in it")
    text = parser.add_argument_group("text, one sentence a line, UTF-8")
    text.add_argument("--data", metavar="DIR", help="a folder with train.en, train.de, valid.en, valid.de")
    text.add_argument("--pair", default="en-de", help="source and target language in --data (default: en-de)")
    for name in ("source", "target", "valid-source", "valid-target"):
        text.add_argument(f"--{name}", metavar="FILE", help="instead of --data")
    text.add_argument("--valid-sentences", type=int, default=200, metavar="N", help="translated to validate")
    text.add_argument("--vocabulary", metavar="FILE", help="a sentencepiece model (default: of --init, or of the text)")
    text.add_argument(
        "--vocabulary-size", type=positive, metavar="N",
        help=f"of the one to train (default: {DEFAULT_SIZE}, or the most that the text fills)",
    )  # fmt: skip
    text.add_argument("--init", metavar="DIR", help="begin with the weights of this model directory or checkpoint")
    for title, owner, texts in (("model", JanusConfig, MODEL_HELP), ("training", TrainingOptions, TRAINING_HELP)):
        group = parser.add_argument_group(title)
        for field in dataclasses.fields(owner):
            if field.name in texts:
                _add_field(group, field.name, field.default, texts[field.name])


def _add_field(group, name: str, default, text: str) -> None:
    if default is dataclasses.MISSING or isinstance(default, bool):
        settings = {"action": "store_true"}
    elif isinstance(default, tuple):
        settings = {"type": float, "nargs": len(default), "metavar": "X", "default": default}
    else:
        settings = {"type": str if default is None else type(default), "metavar": "X", "default": default}
    shown = settings.get("default")
    suffix = "" if shown is None or shown == math.inf else f" (default: {shown})"
    group.add_argument("--" + name.replace("_", "-"), help=text + suffix, **settings)


def run(arguments: argparse.Namespace) -> int:
    from ..training.processes import started_processes

    with started_processes(arguments.device) as processes:
        return _run(arguments, processes)


def _run(arguments: argparse.Namespace, processes) -> int:
    import torch

    from .. import checkpoint, installation
    from ..model import JanusModel
    from ..training.data import ParallelData
    from ..training.trainer import Trainer, TrainingOptions, average, check_processes, checkpoints

    files = _files(arguments)
    options = TrainingOptions(**{name: getattr(arguments, name) for name in TRAINING_HELP})
    check_processes(options, processes)
    out = Path(arguments.out)
    settings = {
        "model": {name: getattr(arguments, name) for name in MODEL_HELP},
        "training": dataclasses.asdict(options),
        "text": {name: _checksum(files[name]) for name in ("source", "target")},
        "start": {name: getattr(arguments, name) for name in ("vocabulary", "vocabulary_size", "init")},
    }
    resumed = _goes_on(out, settings)
    if resumed:
        vocabulary = Vocabulary.from_sentencepiece(out / VOCABULARY)
    else:
        vocabulary = processes.of_first(_vocabulary(arguments, files) if processes.rank == 0 else None)
    config = JanusConfig(len(vocabulary), len(vocabulary), **settings["model"])

    torch.manual_seed(options.seed)
    model = JanusModel(config)
    if arguments.init and not resumed:
        weights = Path(arguments.init) / checkpoint.WEIGHTS
        checkpoint.load_unique_state(model, checkpoint.read_state(weights, config), weights)
    vocabularies = (vocabulary, vocabulary)
    data = ParallelData.read(files["source"], files["target"], vocabularies, config)
    parameters = sum(p.numel() for p in model.parameters())
    if options.device == "cpu" and (warning := installation.slow()):
        _say(f"warning: {warning}")
    _say(f"{parameters:,} parameters, {len(data):,} sentence pairs, a vocabulary of {len(vocabulary):,} tokens")
    validation = _validation(arguments, files, vocabularies, config)
    trainer = Trainer(model, data, out, options, validation, processes=processes)
    if not resumed and processes.rank == 0:
        _begin(out, settings, vocabulary)
    _train(trainer)
    if processes.rank > 0:
        return 0

    mean = average(kept := checkpoints(out)[-options.keep :])
    checkpoint.check_state(config, mean, out)
    model = checkpoint.model_of(config, mean, out).to(options.device)  # of the one before, some may be elsewhere
    checkpoint.save(model.eval(), out, vocabularies)
    figures = validation(model, trainer.objective) if validation else {}
    _say(_line(trainer.update, figures) + f"  (mean of the last {len(kept)} checkpoints)")
    metrics, curves = out / "metrics.jsonl", out / "loss.png"
    if find_spec("matplotlib") and metrics.exists():  # none before the first log interval
        from ..training.plot import plot_losses

        plot_losses(metrics, curves)
        _say(f"its losses are drawn in {curves}")
    _say(f"the model is in {out}")
    return 0


def _files(arguments) -> dict[str, Path | None]:
    """Where the text is, by role; every file is there."""
    given = {name: getattr(arguments, name) for name in ("source", "target", "valid_source", "valid_target")}
    if arguments.data:
        if clash := [name for name, file in given.items() if file]:
            raise ValueError(f"--{clash[0].replace('_', '-')} must be left out with --data, got {given[clash[0]]}")
        languages = arguments.pair.split("-")
        if len(languages) != 2:
            raise ValueError(f"--pair must be two languages such as en-de, got {arguments.pair}")
        splits = ("train", languages[0]), ("train", languages[1]), ("valid", languages[0]), ("valid", languages[1])
        paths = [Path(arguments.data) / f"{split}.{language}" for split, language in splits]
        given = dict(zip(given, paths, strict=True))
        if not given["valid_source"].exists() and not given["valid_target"].exists():
            given["valid_source"] = given["valid_target"] = None
    if not given["source"] or not given["target"]:
        raise ValueError("--data, or --source and --target, must name the text to train on, got none")
    if bool(given["valid_source"]) != bool(given["valid_target"]):
        raise ValueError("--valid-source and --valid-target must be given together, got one of them")
    for file in filter(None, given.values()):
        if not Path(file).is_file():
            raise ValueError(f"text must be in files that exist, got {file}")
    return {name: Path(file) if file else None for name, file in given.items()}


def _goes_on(out: Path, settings: dict) -> bool:
    """Whether ``out`` holds a run to go on with, which must be made of the same things."""
    from ..checkpoint import WEIGHTS

    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory, got the file {out}")
    path, settings = out / SETTINGS, json.loads(json.dumps(settings))
    if not any(out.glob("checkpoints/[0-9]*")):
        if (out / WEIGHTS).exists():
            raise ValueError(
                "--out must be a new directory or one with a run to go on with, "
                f"got {out}, which holds a finished model"
            )
        return False
    if not path.exists():
        raise ValueError(f"--out must be a directory of this command, got {out}, which has checkpoints of another")
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["text"] != settings["text"]:
        raise ValueError(f"--source and --target must hold the text that the run in {out} began with; it has changed")
    for part in ("model", "training", "start"):
        for name, value in settings[part].items():
            expected = before[part].get(name)
            if name not in CHANGEABLE and expected != value:
                flag, rule = name.replace("_", "-"), "left out" if expected is None else expected
                given = "none" if value is None else value
                raise ValueError(f"--{flag} must be {rule}, as when the run in {out} began, got {given}")
    return True


def _begin(out: Path, settings: dict, vocabulary: Vocabulary) -> None:
    """Writes what a run begins with, once nothing but training can fail."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.jsonl").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
    vocabulary.save(out, Path(VOCABULARY).stem)
    (out / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _vocabulary(arguments, files) -> Vocabulary:
    """The vocabulary of a new run: --vocabulary, that of --init, or one of the text."""
    if given := arguments.vocabulary or _vocabulary_of(arguments.init):
        vocabulary = Vocabulary.from_sentencepiece(given)
        first = tuple(vocabulary.tokens[: len(SPECIAL_TOKENS)])
        if first != SPECIAL_TOKENS:
            raise ValueError(f"--vocabulary must begin with {' '.join(SPECIAL_TOKENS)}, got {' '.join(first)}")
        return vocabulary
    size = arguments.vocabulary_size
    _say(f"training a vocabulary of {size or DEFAULT_SIZE:,} tokens")
    vocabulary = Vocabulary.train([files["source"], files["target"]], size)
    if not size and len(vocabulary) < DEFAULT_SIZE:
        _say(f"this text has pieces for {len(vocabulary):,} tokens, and its vocabulary is of that size")
    return vocabulary


def _vocabulary_of(init: str | None) -> Path | None:
    """The vocabulary that the weights of --init were made for: in the model directory, or two above a checkpoint."""
    if not init:
        return None
    for directory in (Path(init), Path(init).resolve().parent.parent):
        if (directory / VOCABULARY).is_file():
            return directory / VOCABULARY
    raise ValueError(f"--init must have its {VOCABULARY} beside it or go with --vocabulary, got {init}")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _validation(arguments, files, vocabularies, config):
    from ..text.lines import lines_of
    from ..training.data import ParallelData
    from ..training.validation import Validation

    if not files["valid_source"]:
        _say("no validation text (--valid-source, --valid-target): the loss on the training text is all that is shown")
        return None
    data = ParallelData.read(files["valid_source"], files["valid_target"], vocabularies, config)
    lines = [lines_of(files[name]) for name in ("valid_source", "valid_target")]
    chosen = data.kept[: arguments.valid_sentences]
    sources, references = ([side[number] for number in chosen] for side in lines)
    return Validation(data, sources, references, vocabularies)


def _train(trainer) -> None:
    """Trains, and shows how: by a bar on a terminal, elsewhere by a line for each log interval."""
    from tqdm import tqdm

    from ..training.trainer import checkpoints

    out, terminal = trainer.directory, sys.stderr.isatty()
    terminal = terminal and trainer.processes.rank == 0
    bar = tqdm(total=trainer.options.max_updates, unit=" updates", disable=not terminal)

    def show(record: dict):
        if terminal and record["kind"] == "train":
            bar.set_postfix(loss=f"{record['loss']:.3f}", rate=f"{record['lr']:.1e}")
        else:
            bar.write(_line(record["update"], record), file=sys.stderr)

    trainer.on_step, trainer.on_log = lambda update: bar.update(update - bar.n), show
    if done := checkpoints(out):
        bar.update(int(done[-1].name))
        _say(f"going on from update {int(done[-1].name):,}")
    try:
        with bar:
            trainer.train()
    except KeyboardInterrupt:
        saved = int(done[-1].name) if (done := checkpoints(out)) else 0
        raise KeyboardInterrupt(f"run the same command again to go on from update {saved:,}") from None


def _line(update: int, figures: dict) -> str:
    """Figures of training, or of validation, in words."""
    training = figures.get("kind") == "train"
    names = {"loss": "loss" if training else "validation loss", "bleu_ar": "bleu_ar", "bleu_nar": "bleu_nar"}
    shown = [f"{text} {figures[name]:.2f}" for name, text in names.items() if name in figures]
    if training:
        shown += [f"rate {figures['lr']:.1e}", f"{figures['predictions_per_second']:,.0f} predictions/s"]
    return "  ".join([f"update {update:,}", *shown])


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one of the processes that torchrun started speaks for all
        print(f"janus-fast: {message}", file=sys.stderr, flush=True)
