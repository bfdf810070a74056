"""The training loop: token batches, Adam with inverse square-root schedule, exact resume."""

import dataclasses
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import checkpoint
from ..model import JanusModel
from ..objectives import OBJECTIVES
from .data import BatchStream, ParallelData
from .memory import keeping_freed_memory

RULES = (  # options, what they must, and whether they do
    (
        "max_tokens accumulate max_updates warmup_updates save_interval validate_interval keep log_interval",
        "be at least 1", lambda x: x >= 1,
    ),
    ("decay_updates divergence_warmup_updates", "be at least 0", lambda x: x >= 0),
    ("learning_rate", "be positive and finite", lambda x: 0 < x < math.inf),
    ("max_minutes clip_norm", "be positive", lambda x: x > 0),
    ("weight_decay divergence_weight", "be at least 0 and finite", lambda x: 0 <= x < math.inf),
    ("label_smoothing", "be in [0, 1)", lambda x: 0 <= x < 1),
    ("adam_betas", "be two numbers in [0, 1)", lambda x: len(x) == 2 and all(0 <= beta < 1 for beta in x)),
    ("seed", "be in [0, 2 ** 32)", lambda x: 0 <= x < 2**32),
)  # fmt: skip


@dataclass
class TrainingOptions:
    """How to train. Durations are counted in updates; ``max_minutes`` stops a run early, resumably."""

    objective: str = "janus"
    max_tokens: int = 4096
    accumulate: int = 1
    max_updates: int = 10_000
    max_minutes: float = math.inf
    learning_rate: float = 5e-4
    warmup_updates: int = 4000
    decay_updates: int = 0
    without_auxiliary: bool = False
    divergence_weight: float = 1.0
    divergence_warmup_updates: int = 0
    encoder_passes: int = 1
    autoregressive_every: int = 1
    adam_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    masking: str | None = None
    seed: int = 1
    precision: str = "auto"
    save_interval: int = 500
    validate_interval: int = 500
    keep: int = 5
    log_interval: int = 25

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"train: objective must be one of {sorted(OBJECTIVES)}, got {self.objective!r}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"train: precision must be auto, float32 or bfloat16, got {self.precision!r}")
        if self.without_auxiliary and self.objective != "janus":
            raise ValueError(f"train: without_auxiliary must be left out with objective {self.objective!r}")
        for names, rule, holds in RULES:
            for name in names.split():
                if not holds(getattr(self, name)):  # NaN holds nothing
                    raise ValueError(f"train: {name} must {rule}, got {getattr(self, name)}")

    def divergence_scale(self, update: int) -> float:
        """How much the divergences weigh at update 1, 2, ...: rising linearly from 0 to ``divergence_weight``.

        In a model whose AR distribution is trained already, divergences at full weight from the start would pull it
        towards NAR and AUX distributions that know nothing yet.
        """
        warmup = self.divergence_warmup_updates
        return self.divergence_weight * (min(1.0, update / warmup) if warmup else 1.0)

    def rate(self, update: int) -> float:
        """Learning rate of update 1, 2, ...: linear warm-up, then the inverse square root of the update.

        With ``decay_updates`` the last that many updates before ``max_updates`` fall linearly to zero.
        """
        rate = self.learning_rate * min(update / self.warmup_updates, math.sqrt(self.warmup_updates / update))
        if self.decay_updates:
            rate *= min(1.0, max(0.0, (self.max_updates - update + 1) / self.decay_updates))
        return rate


class Trainer:
    """Trains ``model`` in ``directory``: ``checkpoints/<update>/``, ``metrics.jsonl``.

    The state of a run is (parameters, Adam's moments, update number, batch number): dropout is drawn from
    (seed, update), masks and batches from (seed, batch number). A run that was interrupted therefore goes on to the
    bit as if it had not been. ``on_step(update)`` and ``on_log(record)`` are called after each update and log line.
    While it trains, the process keeps the memory that it frees (:func:`~.memory.keeping_freed_memory`).
    """

    def __init__(
        self, model: JanusModel, data: ParallelData, directory: str | Path, options: TrainingOptions, validate=None,
        *, on_step=lambda update: None, on_log=lambda record: None,
    ):  # fmt: skip
        self.model, self.data, self.directory, self.options = model, data, Path(directory), options
        self.validate, self.on_step, self.on_log = validate, on_step, on_log
        settings = {
            name: getattr(options, name) for name in ("label_smoothing", "encoder_passes", "autoregressive_every")
        }
        if options.masking:
            settings["masking"] = options.masking
        if options.without_auxiliary:
            settings["auxiliary"] = False
        if not options.divergence_weight:
            settings["divergence"] = {}
        self.objective = OBJECTIVES[options.objective](model.config, **settings)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, betas=options.adam_betas, eps=1e-9,
            weight_decay=options.weight_decay, fused=True,
        )  # fmt: skip
        self.update, self.batch_number, self.tokens_seen, self.seconds = 0, 0, 0, 0.0
        self.precision = options.precision
        if self.precision == "auto":
            self.precision = "bfloat16" if computes_bfloat16() else "float32"

    def train(self) -> None:
        with keeping_freed_memory():
            self._train()

    def _train(self) -> None:
        options = self.options
        (self.directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        if latest := latest_checkpoint(self.directory):
            self.load(latest)
        stream = BatchStream(self.data, self.objective, options.max_tokens, options.seed, start=self.batch_number)
        batches = iter(stream)
        started, start_seconds, window = time.monotonic(), self.seconds, Window()
        self.model.train()
        try:
            while self.update < options.max_updates and self.seconds < options.max_minutes * 60:
                self.step(batches, window)
                self.on_step(self.update)
                self.seconds = start_seconds + time.monotonic() - started
                if self.update % options.log_interval == 0:
                    self.log({"kind": "train", "lr": options.rate(self.update), **window.means()})
                    window = Window()
                if self.validate and self.update % options.validate_interval == 0:
                    self.model.eval()
                    self.log({"kind": "valid", **self.validate(self.model, self.objective)})
                    self.model.train()
                if self.update % options.save_interval == 0:
                    self.save()
                if not window.count:  # the time of validating and saving is not training's
                    window = Window()
            if self.update % options.save_interval:
                self.save()
        finally:
            stream.close()

    def step(self, batches, window: "Window") -> None:
        """One update over ``accumulate`` batches."""
        options = self.options
        torch.manual_seed(options.seed * 1_000_003 + self.update)
        self.optimizer.zero_grad()
        for _ in range(options.accumulate):
            number, epoch, batch = next(batches)
            loss, terms = self.backward(batch)
            self.batch_number = number + 1
            tokens = sum(targets.numel() for targets in batch.targets.values())
            self.tokens_seen += batch.targets.get("ar", next(iter(batch.targets.values()))).numel()
            window.add(loss, terms, tokens, epoch)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, options.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"train: the gradient must be finite, got norm {norm} at update {self.update + 1}; "
                "lower the learning rate or raise warmup_updates"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(self.update + 1)
        self.optimizer.step()
        self.update += 1

    def backward(self, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Adds the gradients of one batch to those that are there; its loss, and the terms of it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss, terms = self.objective.loss(self.model, batch, self.options.divergence_scale(self.update + 1))
        (loss / self.options.accumulate).backward()
        return loss, terms

    def log(self, record: dict) -> None:
        record = {"update": self.update, "seconds": round(self.seconds, 1), "tokens": self.tokens_seen, **record}
        with open(self.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.on_log(record)

    def save(self) -> None:
        """Writes a checkpoint under a temporary name and renames it.

        Beside it stay the newest ``keep`` of the regular ones, those at multiples of ``save_interval``. One that was
        written because a run was cut short thus goes with the next, and the run ends as if it had not been cut.
        """
        final = self.directory / "checkpoints" / f"{self.update:08d}"
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            checkpoint.save(self.model, temporary)
            moments = {}
            for i, parameter in enumerate(self.parameters):
                if state := self.optimizer.state.get(parameter):  # none for a parameter that no loss reaches
                    moments |= {f"{i}.{name}": state[name] for name in ("step", "exp_avg", "exp_avg_sq")}
            checkpoint.write_tensors(moments, temporary / "optimizer.safetensors")
            state = {
                "update": self.update, "batch_number": self.batch_number, "tokens_seen": self.tokens_seen,
                "seconds": self.seconds, "precision": self.precision, "options": dataclasses.asdict(self.options),
            }  # fmt: skip
            with checkpoint.replacing(temporary) as folder:
                (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        saved = checkpoints(self.directory)
        regular = [path for path in saved if is_regular(path)]
        for old in {*saved} - {*regular[-self.options.keep :], final}:
            shutil.rmtree(old)

    def load(self, path: Path) -> None:
        state = read_state(path)
        if self.options.precision not in ("auto", state["precision"]):
            raise ValueError(
                f"train: precision must be {state['precision']}, as when the run began, got {self.options.precision}"
            )
        self.precision = state["precision"]  # also where "auto" would choose another on this processor
        checkpoint.load_unique_state(self.model, checkpoint.read_tensors(path / checkpoint.WEIGHTS), path)
        moments = checkpoint.read_tensors(path / "optimizer.safetensors")
        self.update, self.batch_number = state["update"], state["batch_number"]
        self.tokens_seen, self.seconds = state["tokens_seen"], state["seconds"]
        for i, parameter in enumerate(self.parameters):
            if f"{i}.step" in moments:
                names = ("step", "exp_avg", "exp_avg_sq")
                self.optimizer.state[parameter] = {name: moments[f"{i}.{name}"] for name in names}


class Window:
    """Means of loss terms since the last log line."""

    def __init__(self):
        self.sums, self.count, self.tokens, self.epoch, self.began = {}, 0, 0, 0, time.monotonic()

    def add(self, loss, terms, tokens: int, epoch: int) -> None:
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.count, self.tokens, self.epoch = self.count + 1, self.tokens + tokens, epoch

    def means(self) -> dict:
        elapsed = time.monotonic() - self.began
        means = {name: round(float(value) / self.count, 5) for name, value in self.sums.items()}
        return {"epoch": self.epoch, **means, "predictions_per_second": round(self.tokens / elapsed, 1)}


def computes_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16 numbers; without, they are slower than float32."""
    return hasattr(torch.cpu, "_is_avx512_bf16_supported") and torch.cpu._is_avx512_bf16_supported()


def checkpoints(directory: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in Path(directory, "checkpoints").glob("[0-9]*") if (p / "state.json").is_file())


def latest_checkpoint(directory: str | Path) -> Path | None:
    return (checkpoints(directory) or [None])[-1]


def read_state(path: Path) -> dict:
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def is_regular(path: Path) -> bool:
    """Whether a checkpoint was due by the options it was written under, rather than written at a run's end."""
    state = read_state(path)
    return state["update"] % state["options"]["save_interval"] == 0


def average(paths: list[Path]) -> dict[str, torch.Tensor]:
    """The mean of the parameters of several checkpoints, accumulated in float64."""
    if not paths:
        raise ValueError("average: paths must name at least one checkpoint, got none")
    total = {k: v.double() for k, v in checkpoint.read_tensors(paths[0] / checkpoint.WEIGHTS).items()}
    for path in paths[1:]:
        for name, tensor in checkpoint.read_tensors(path / checkpoint.WEIGHTS).items():
            total[name] += tensor
    return {name: (tensor / len(paths)).float() for name, tensor in total.items()}
