"""How to train: options, what they may be, and the schedules that follow from them."""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, make_dataclass

from ..inputs import unwrap_numbers
from ..objectives import OBJECTIVES
from .processes import Processes

RULES = (  # options, what they must, and whether they do
    (
        "max_tokens accumulate max_updates warmup_updates save_interval validate_interval keep log_interval",
        "be at least 1", lambda x: x >= 1,
    ),
    ("decay_updates", "be at least 0", lambda x: x >= 0),
    ("learning_rate", "be positive and finite", lambda x: 0 < x < math.inf),
    ("max_minutes save_minutes clip_norm", "be positive", lambda x: x > 0),
    ("weight_decay", "be at least 0 and finite", lambda x: 0 <= x < math.inf),
    ("label_smoothing", "be in [0, 1)", lambda x: 0 <= x < 1),
    ("adam_betas", "be two numbers in [0, 1)", lambda x: len(x) == 2 and all(0 <= beta < 1 for beta in x)),
    ("seed", "be in [0, 2 ** 32)", lambda x: 0 <= x < 2**32),
)  # fmt: skip


def of_objectives() -> dict[str, tuple[tuple[str, ...], Field]]:
    """The options that some objectives alone have: which ones; and the field, None where their defaults differ."""
    found = {}
    for objective, kind in OBJECTIVES.items():
        for name, own in kind.options().items():
            having, first = found.get(name, ((), own))
            default = own.default if own.default == first.default else None
            found[name] = (*having, objective), field(default=default, metadata=own.metadata)
            found[name][1].type = own.type
    return found


def without_effect(options: Mapping) -> dict[str, str]:
    """The names of options that change nothing beside ``options``, and why."""
    objective = options["objective"]
    why = {name: f"objective {objective!r}" for name, (having, _) in OF_OBJECTIVES.items() if objective not in having}
    return why | OBJECTIVES[objective].without_effect(options)


OF_OBJECTIVES = of_objectives()


@dataclass
class TrainingOptions(make_dataclass("Own", [(name, own.type, own) for name, (_, own) in OF_OBJECTIVES.items()])):
    """How to train; the defaults are the paper's. Durations are counted in updates; ``max_minutes`` stops a run early,
    resumably. Checkpoints come every ``save_interval`` updates, and where the last is ``save_minutes`` old. Beside
    these there are the options of the objectives, None where the objective has its own.
    """

    objective: str = "janus"
    max_tokens: int = 4096
    accumulate: int = 1
    max_updates: int = 10_000
    max_minutes: float = math.inf
    learning_rate: float = 5e-4
    warmup_updates: int = 4000
    decay_updates: int = 0
    adam_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    seed: int = 1
    precision: str = "auto"
    device: str = "cpu"
    checkpoint_activations: bool = False
    fsdp: bool = False
    save_interval: int = 500
    save_minutes: float = 5.0
    validate_interval: int = 500
    keep: int = 5
    log_interval: int = 25
    log_gradient_norms: bool = False

    def __post_init__(self):
        unwrap_numbers(self)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"train: objective must be one of {sorted(OBJECTIVES)}, got {self.objective!r}")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"train: precision must be auto, float32, bfloat16 or float16, got {self.precision!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"train: device must be cpu or cuda, got {self.device!r}")
        if self.precision == "float16" and self.device == "cpu":
            raise ValueError("train: precision must be auto, float32 or bfloat16 on the CPU, got 'float16'")
        if self.fsdp:
            check_precision_shared_out(self.precision)
            if self.log_gradient_norms:
                raise ValueError("train: log_gradient_norms must be off with fsdp, got True")
        for names, rule, holds in RULES:
            for name in names.split():
                self._check(name, rule, holds)
        for own in fields(self):
            self._check(own.name, *own.metadata.get("rule", ("", lambda value: True)))
        for name, why in without_effect(vars(self)).items():
            if (value := getattr(self, name)) != getattr(TrainingOptions, name):
                raise ValueError(f"train: {name} must be left out with {why}, got {value}")

    def _check(self, name: str, rule: str, holds) -> None:
        if not holds(getattr(self, name)):  # NaN holds nothing
            raise ValueError(f"train: {name} must {rule}, got {getattr(self, name)}")

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
        raise ValueError("train: precision must be auto, float32 or bfloat16 with fsdp, got 'float16'")


def check_processes(options: TrainingOptions, processes: Processes) -> None:
    """Raises ValueError unless there are others to share the model out with, where it is to be."""
    if options.fsdp and processes.count == 1:
        raise ValueError("train: fsdp must go with several processes, as torchrun starts them, got one")
