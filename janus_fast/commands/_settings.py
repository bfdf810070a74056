"""The options of ``train`` that make a model and a training, and where those that nobody gives come from."""

import argparse
import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import get_args

from .. import models
from ..config import JanusConfig
from ..inputs import OptionError, flag
from ..training.options import OF_THE_CALL, TrainingOptions, without_effect

MODEL = {field.name: field for field in dataclasses.fields(JanusConfig) if field.metadata.get("setting")}
TRAINING = {field.name: field for field in dataclasses.fields(TrainingOptions)}
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
    parser.add_argument_group("recipe").add_argument(
        "--recipe", choices=RECIPES,
        help="what settings are that are not given: small, which learns within hours on a CPU, or paper, the sizes, "
        "losses and schedule of JANUS (EMNLP 2022), for runs as long as its own (default: small)",
    )  # fmt: skip
    groups = {title: parser.add_argument_group(title) for title in ("model", "training")}
    for title, fields in (("model", MODEL), ("training", TRAINING)):
        for name, field in fields.items():
            objectives = field.metadata.get("objectives")
            group = f"{title}, with --objective {' or '.join(objectives)}" if objectives else title
            group = f"{title}, with --monolingual" if field.metadata.get("monolingual") else group
            groups[group] = groups.get(group) or parser.add_argument_group(group)
            _add_field(groups[group], name, field)


def _add_field(group, name: str, field: dataclasses.Field) -> None:
    default, text, kind = field.default, field.metadata["help"], (get_args(field.type) or (field.type,))[0]
    own = {recipe: settings.get(name, default) for recipe, settings in RECIPES.items()}
    shown = {recipe: _in_words(value) for recipe, value in own.items()}
    if own["small"] == own["paper"]:
        text += "" if default == math.inf or "(default: " in text else f" (default: {shown['small']})"
    else:
        text += f" ({', '.join(f'{recipe}: {value}' for recipe, value in shown.items())})"
    if isinstance(default, bool):
        off = "--with-" + name.removeprefix("without_") if name.startswith("without_") else "--no-" + name
        group.add_argument(flag(name), action="store_true", default=None, help=text)
        group.add_argument(
            off.replace("_", "-"), dest=name, action="store_false", default=None, help=f"undoes {flag(name)}"
        )
    elif isinstance(default, tuple):
        group.add_argument(flag(name), type=kind, nargs=len(default), metavar="X", help=text)
    else:
        group.add_argument(flag(name), type=kind, metavar=field.metadata.get("metavar", "X"), help=text)


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
    named = given(arguments, MODEL)
    if before:
        return before["model"]
    if init:
        own = of_model(init)
        refuse_others(own, {name: named[name] for name in named if name != "dropout"}, "in the model of --init")
        return {**own, **named}
    recipe = RECIPES[arguments.recipe or "small"]
    return {**of_model(JanusConfig), **{name: recipe[name] for name in recipe if name in MODEL}, **named}


def of_model(config: JanusConfig) -> dict:
    return {name: getattr(config, name) for name in MODEL}


def training_settings(arguments: argparse.Namespace, before: Mapping | None, threads: int, width: int) -> dict:
    """How to train: as the run that goes on began, or as given, or as the recipe has it for so many ``threads``."""
    named = given(arguments, TRAINING)
    own = before["training"] if before else RECIPES[arguments.recipe or "small"]
    idle = without_effect({**vars(TrainingOptions()), **own, **named})
    for name in named:  # also where its value is the default
        if name in idle:
            raise OptionError(f"train: {name}", f"be left out with {idle[name]}", named[name])
    left_out = {*idle} | {name for name in TRAINING if before and TRAINING[name].metadata.get("lasts") == OF_THE_CALL}
    own = {name: value for name, value in own.items() if name in TRAINING and name not in left_out}
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
    return 1024 * max(1, min(4, threads, threads * 256 // max(1, width)))


def check_goes_on(arguments: argparse.Namespace, before: Mapping, origin: str) -> None:
    """Raises ValueError where an option is given that is another than when the run ``before`` began."""
    # An older version had fewer options, and did what the defaults of the others say.
    defaults = {"model": of_model(JanusConfig), "training": vars(TrainingOptions()), "start": dict.fromkeys(START)}
    for part, own in defaults.items():
        named = given(
            arguments, (name for name in own if name not in TRAINING or not TRAINING[name].metadata.get("lasts"))
        )
        expected = {**own, **before[part]}
        if part == "start" and _same_model(named.get("init"), expected["init"]):
            del named["init"]
        if part == "training" and expected["dictionary"]:
            named.pop("dictionary", None)  # known by its words, as the text is
        refuse_others(expected, named, f"when the run in {origin} began")


def _same_model(one: str | None, other: str | None) -> bool:
    """Whether two names lead to one directory."""
    try:
        return bool(one and other) and models.locate(one).samefile(models.locate(other))
    except FileNotFoundError:
        return False


def refuse_others(expected: Mapping, named: Mapping, when: str) -> None:
    """Raises ValueError unless what is ``named`` is as ``expected``."""
    for name, value in named.items():
        own, value = (list(x) if isinstance(x, tuple) else x for x in (expected[name], value))  # as JSON has them
        if value != own:
            rule, shown = (("on" if x else "off") if isinstance(x, bool) else x for x in (own, value))
            raise ValueError(f"{flag(name)} must be {'left out' if rule is None else rule}, as {when}, got {shown}")
