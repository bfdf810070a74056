"""The options of ``train`` that make a model and a training, and where those that nobody gives come from."""

import argparse
import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction

from ..config import JanusConfig
from ._decoding import flag

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
    "max_tokens": "tokens in a batch",
    "accumulate": "batches to an update",
    "max_updates": "updates in all",
    "max_minutes": "stop after this long, resumably",
    "learning_rate": "highest learning rate",
    "warmup_updates": "updates until the highest learning rate",
    "decay_updates": "updates at the end in which the rate falls to zero",
    "adam_betas": "Adam's decay rates",
    "weight_decay": "AdamW's weight decay",
    "clip_norm": "longest gradient",
    "label_smoothing": "share of the target given to all tokens alike",
    "seed": "of weights, order, masks and dropout",
    "precision": "auto, float32, bfloat16, or on GPUs float16",
    "device": "cpu or cuda",
    "log_gradient_norms": "also log the norm of each loss term's gradient; lines of metrics.jsonl then take longer",
    "checkpoint_activations": "compute activations again in the backward pass instead of storing them",
    "fsdp": "each process holds a share of parameters, gradients and Adam's moments (FSDP2)",
    "save_interval": "updates between checkpoints",
    "save_minutes": "oldest that the last checkpoint gets",
    "validate_interval": "updates between validations",
    "keep": "checkpoints kept, and averaged at the end",
    "log_interval": "updates between lines of metrics.jsonl",
}
# What may differ when a run is taken up again: how long it goes on, and what it writes on the way.
CHANGEABLE = (
    "max_updates", "max_minutes", "decay_updates", "save_interval", "save_minutes", "validate_interval", "keep",
    "log_interval", "log_gradient_norms", "device", "checkpoint_activations", "fsdp",
)  # fmt: skip
OF_THE_CALL = ("max_minutes", "device", "checkpoint_activations", "fsdp")  # and not of the run
START = ("recipe", "vocabulary", "vocabulary_size", "normalization", "init")

# What a run without options is. A fraction is that part of max_updates; all else is as JanusConfig and TrainingOptions
# have it, whose defaults are the paper's. docs/experiment.md says why "small" is what it is.
RECIPES = {
    "small": {
        "d_model": 256, "encoder_layers": 5, "decoder_layers": 3, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 768,
        "normalize_before": True, "masking": "uniform", "without_auxiliary": True, "divergence_weight": 0.0,
        "max_tokens": "by threads", "max_updates": 20_000, "learning_rate": 6e-4, "warmup_updates": Fraction(1, 20),
        "decay_updates": Fraction(1, 5), "weight_decay": 0.01,
    },
    "paper": {},
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags for all settings, None where they are not given."""
    from ..objectives import OBJECTIVES
    from ..training.options import OF_OBJECTIVES, TrainingOptions

    parser.add_argument_group("recipe").add_argument(
        "--recipe", choices=RECIPES,
        help="what settings are that are not given: small, which learns within hours on a CPU, or paper, the sizes, "
        "losses and schedule of JANUS (EMNLP 2022), for runs as long as its own (default: small)",
    )  # fmt: skip
    common = {"objective": ", ".join(OBJECTIVES), **TRAINING_HELP}
    for title, owner, texts in (("model", JanusConfig, MODEL_HELP), ("training", TrainingOptions, common)):
        group = parser.add_argument_group(title)
        for field in dataclasses.fields(owner):
            if field.name in texts:
                _add_field(group, field.name, field.default, texts[field.name])
    for having in dict.fromkeys(objectives for objectives, _ in OF_OBJECTIVES.values()):
        group = parser.add_argument_group(f"training, with --objective {' or '.join(having)}")
        for name, (objectives, field) in OF_OBJECTIVES.items():
            if objectives == having:
                _add_field(group, name, field.default, field.metadata["help"], field.metadata.get("type", str))


def _add_field(group, name: str, default, text: str, kind: type = str) -> None:
    own = {recipe: settings.get(name, default) for recipe, settings in RECIPES.items()}
    shown = {recipe: _in_words(value) for recipe, value in own.items()}
    if own["small"] == own["paper"]:
        text += f" (default: {shown['small']})" if default != math.inf else ""
    else:
        text += f" ({', '.join(f'{recipe}: {value}' for recipe, value in shown.items())})"
    if isinstance(default, bool):
        off = "--with-" + name.removeprefix("without_") if name.startswith("without_") else "--no-" + name
        group.add_argument(flag(name), action="store_true", default=None, help=text)
        group.add_argument(off.replace("_", "-"), dest=name, action="store_false", default=None, help="or not")
    elif isinstance(default, tuple):
        group.add_argument(flag(name), type=float, nargs=len(default), metavar="X", help=text)
    else:
        group.add_argument(flag(name), type=kind if default is None else type(default), metavar="X", help=text)


def _in_words(value) -> str:
    if value is None:
        return "the objective's own"
    if isinstance(value, Fraction):
        return f"{value} of the updates"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def given(arguments: argparse.Namespace, names) -> dict:
    """The options among ``names`` that the user named."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def model_settings(arguments: argparse.Namespace, before: Mapping | None, init: JanusConfig | None) -> dict:
    """Sizes and switches: those of the run that goes on or of the model it begins with, or as given, or the recipe's.

    Args:
        before: the settings of the run that goes on.
        init: the configuration of the model to begin with. Dropout, which is no part of it, may be another.
    """
    named = given(arguments, MODEL_HELP)
    if before:
        return before["model"]
    if init:
        own = of_model(init)
        refuse_others(own, {name: named[name] for name in named if name != "dropout"}, "in the model of --init")
        return {**own, **named}
    recipe = RECIPES[arguments.recipe or "small"]
    return {**of_model(JanusConfig), **{name: recipe[name] for name in recipe if name in MODEL_HELP}, **named}


def of_model(config: JanusConfig) -> dict:
    return {name: getattr(config, name) for name in MODEL_HELP}


def training_settings(arguments: argparse.Namespace, before: Mapping | None, threads: int, width: int) -> dict:
    """How to train: as the run that goes on began, or as given, or as the recipe has it for so many ``threads``."""
    from ..training.options import TrainingOptions, without_effect

    named = given(arguments, vars(TrainingOptions()))
    own = before["training"] if before else RECIPES[arguments.recipe or "small"]
    left_out = without_effect({**vars(TrainingOptions()), **own, **named}).keys() | (OF_THE_CALL if before else ())
    own = {name: value for name, value in own.items() if hasattr(TrainingOptions, name) and name not in left_out}
    own |= named
    if before:
        return own
    if own.get("max_tokens") == "by threads":
        own["max_tokens"] = batch_tokens(threads, width, own.get("device", "cpu"))
    for name, value in own.items():
        if isinstance(value, Fraction):
            own[name] = max(1, int(value * own["max_updates"]))
    return own


def are_batches_by_threads(arguments: argparse.Namespace) -> bool:
    """Whether a new run's batches are as large as threads decide."""
    recipe = RECIPES[arguments.recipe or "small"]
    return recipe.get("max_tokens") == "by threads" and not arguments.max_tokens and arguments.device != "cuda"


def batch_tokens(threads: int, width: int, device: str) -> int:
    """Tokens in a batch that keep ``threads`` busy with a model of ``width``; smaller ones learn more from each token.

    A GPU, and four threads and more, get 4,096. One thread gets 1,024, and so do several where the model is wide.
    """
    if device == "cuda":
        return 4096
    return 1024 * max(1, min(4, threads, threads * 256 // width))


def check_goes_on(arguments: argparse.Namespace, before: Mapping, origin: str) -> None:
    """Raises ValueError where an option is given that is another than when the run ``before`` began."""
    from ..training.options import TrainingOptions

    # An older version had fewer options, and did what the defaults of the others say.
    defaults = {"model": of_model(JanusConfig), "training": vars(TrainingOptions()), "start": dict.fromkeys(START)}
    for part, own in defaults.items():
        named = given(arguments, (name for name in own if name not in CHANGEABLE))
        refuse_others({**own, **before[part]}, named, f"when the run in {origin} began")


def refuse_others(expected: Mapping, named: Mapping, when: str) -> None:
    """Raises ValueError unless what is ``named`` is as ``expected``."""
    for name, value in named.items():
        own, value = (list(x) if isinstance(x, tuple) else x for x in (expected[name], value))  # as JSON has them
        if value != own:
            rule, shown = (("on" if x else "off") if isinstance(x, bool) else x for x in (own, value))
            raise ValueError(f"{flag(name)} must be {'left out' if rule is None else rule}, as {when}, got {shown}")
