"""How to train: options, what they may be, and the schedules that follow from them."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, make_dataclass

from .. import inputs
from ..inputs import OptionError, integers, one_of, option, rule, switch, weight
from ..objectives import OBJECTIVES
from .corruption import CorruptionOptions
from .processes import Processes

CHANGEABLE, OF_THE_CALL = "changeable", "of the call"  # what may be another when a run goes on, and is not the run's
_objective = one_of(*OBJECTIVES)
_counted, _natural = integers(1), integers(0)
_positive = rule("be positive", lambda x: x > 0)
_rate = rule("be positive and finite", lambda x: 0 < x < math.inf)
_share = rule("be in [0, 1)", lambda x: 0 <= x < 1)
_betas = rule("be two numbers in [0, 1)", lambda x: len(x) == 2 and all(0 <= beta < 1 for beta in x))
_seed = rule("be an integer in [0, 2 ** 32)", lambda x: isinstance(x, int) and 0 <= x < 2**32)
_precision = one_of("auto", "float32", "bfloat16", "float16")
_device = one_of("cpu", "cuda")


def of_objectives() -> list[tuple[str, type, Field]]:
    """Name, type and field of the options that some objectives alone have; a default is None where theirs differ."""
    found = {}
    for objective, kind in OBJECTIVES.items():
        for name, own in kind.options().items():
            before = found[name][2] if name in found else own
            having = *before.metadata.get("objectives", ()), objective
            default = own.default if own.default == before.default else None
            declared = dataclasses.field(default=default, metadata={**own.metadata, "objectives": having})
            found[name] = name, own.type, declared
    return list(found.values())


def without_effect(options: Mapping) -> dict[str, str]:
    """The names of options that change nothing beside ``options``, and why."""
    objective, why = options["objective"], {}
    if objective not in OBJECTIVES:
        return why
    for field in dataclasses.fields(TrainingOptions):
        if objective not in field.metadata.get("objectives", OBJECTIVES):
            why[field.name] = f"objective {objective!r}"
    return why | OBJECTIVES[objective].without_effect(options)


@inputs.documented
@dataclass
class TrainingOptions(CorruptionOptions, make_dataclass("Own", of_objectives(), kw_only=True)):
    """How to train; the defaults are the paper's. Durations are counted in updates; ``max_minutes`` stops a run early,
    resumably. Checkpoints come every ``save_interval`` updates, and where the last is ``save_minutes`` old. Beside
    these there are the options of the objectives, None where the objective has its own, and those of the corruption of
    monolingual text.
    """

    objective: str = option("janus", _objective, ", ".join(OBJECTIVES))
    max_tokens: int = option(4096, _counted, "tokens in a batch")
    accumulate: int = option(1, _counted, "batches to an update")
    max_updates: int = option(10_000, _counted, "updates in all", lasts=CHANGEABLE)
    max_minutes: float = option(
        math.inf, _positive, "stop once the run has trained this long in all, resumably", lasts=OF_THE_CALL
    )
    learning_rate: float = option(5e-4, _rate, "highest learning rate")
    warmup_updates: int = option(4000, _counted, "updates until the highest learning rate")
    decay_updates: int = option(0, _natural, "updates at the end in which the rate falls to zero", lasts=CHANGEABLE)
    adam_betas: tuple[float, float] = option((0.9, 0.98), _betas, "Adam's decay rates")
    weight_decay: float = option(1e-4, weight, "AdamW's weight decay")
    clip_norm: float = option(1.0, _positive, "longest gradient")
    label_smoothing: float = option(0.1, _share, "share of the target given to all tokens alike")
    seed: int = option(1, _seed, "of weights, order, masks and dropout")
    precision: str = option("auto", _precision, "auto, float32, bfloat16, or on GPUs float16")
    device: str = option("cpu", _device, "cpu or cuda", lasts=OF_THE_CALL)
    checkpoint_activations: bool = option(
        False, switch, "compute activations again in the backward pass instead of storing them", lasts=OF_THE_CALL
    )
    fsdp: bool = option(
        False,
        switch,
        "each process holds a share of parameters, gradients and Adam's moments (FSDP2)",
        lasts=OF_THE_CALL,
    )
    save_interval: int = option(500, _counted, "updates between checkpoints", lasts=CHANGEABLE)
    save_minutes: float = option(5.0, _positive, "oldest that the last checkpoint gets", lasts=CHANGEABLE)
    validate_interval: int = option(500, _counted, "updates between validations", lasts=CHANGEABLE)
    keep: int = option(5, _counted, "checkpoints kept, and averaged at the end", lasts=CHANGEABLE)
    log_interval: int = option(25, _counted, "updates between lines of metrics.jsonl", lasts=CHANGEABLE)
    log_gradient_norms: bool = option(
        False,
        switch,
        "also log the norm of each loss term's gradient; lines of metrics.jsonl then take longer",
        lasts=CHANGEABLE,
    )

    def __post_init__(self):
        inputs.unwrap_numbers(self)
        inputs.check_fields(self, "train: ")
        if self.precision == "float16" and self.device == "cpu":
            raise OptionError("train: precision", "be auto, float32 or bfloat16 on the CPU", "'float16'")
        if self.fsdp:
            check_precision_shared_out(self.precision)
            if self.log_gradient_norms:
                raise inputs.OptionError("train: log_gradient_norms", "be off with fsdp", True)
        for name, why in without_effect(vars(self)).items():
            if (value := getattr(self, name)) != getattr(TrainingOptions, name):
                raise inputs.OptionError(f"train: {name}", f"be left out with {why}", value)

    def rate(self, update: int) -> float:
        """Learning rate of update 1, 2, ...: linear warm-up, then the inverse square root of the update.

        With ``decay_updates`` the last that many updates before ``max_updates`` fall linearly to zero.
        """
        rate = self.learning_rate * min(update / self.warmup_updates, math.sqrt(self.warmup_updates / update))
        if self.decay_updates:
            rate *= min(1.0, max(0.0, (self.max_updates - update + 1) / self.decay_updates))
        return rate


def check_precision_shared_out(precision: str) -> None:
    """Raises ValueError unless processes that share a model out can train it in ``precision``."""
    if precision == "float16":  # all processes must leave out the updates that overflow in one, which is untried
        raise OptionError("train: precision", "be auto, float32 or bfloat16 with fsdp", "'float16'")


def check_processes(options: TrainingOptions, processes: Processes) -> None:
    """Raises ValueError unless there are others to share the model out with, where it is to be."""
    if options.fsdp and processes.count == 1:
        raise OptionError("train: fsdp", "go with several processes, as torchrun starts them", "one")


def check_text(options: TrainingOptions, monolingual: bool, named: Collection[str] = ()) -> None:
    """Raises ValueError unless the text, parallel or ``monolingual``, is what the options are for: those of another
    value than the default, and those that are ``named``."""
    if monolingual:
        return
    if OBJECTIVES[options.objective].restores:
        words = (
            f"be monolingual with objective {options.objective!r}, which restores corrupted text (--monolingual FILE)"
        )
        raise OptionError("train: text", words, "parallel text")
    for field in dataclasses.fields(CorruptionOptions):
        if (value := getattr(options, field.name)) != field.default or field.name in named:
            raise OptionError(f"train: {field.name}", "be left out with parallel text", value)
