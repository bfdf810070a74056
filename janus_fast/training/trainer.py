"""The training loop: token batches, Adam with inverse square-root schedule, exact resume."""

import dataclasses
import json
import math
import shutil
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from .. import checkpoint
from ..inputs import unwrap_numbers
from ..model import JanusModel
from ..objectives import OBJECTIVES
from .data import BatchStream, ParallelData
from .memory import freed_memory
from .processes import Processes
from .sharding import gathered, share_out, shared_like, whole

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
    device: str = "cpu"
    checkpoint_activations: bool = False
    fsdp: bool = False
    save_interval: int = 500
    validate_interval: int = 500
    keep: int = 5
    log_interval: int = 25

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


def check_precision_shared_out(precision: str) -> None:
    """Raises ValueError unless processes that share a model out can train it in ``precision``."""
    if precision == "float16":  # all processes must leave out the updates that overflow in one, which is untried
        raise ValueError("train: precision must be auto, float32 or bfloat16 with fsdp, got 'float16'")


def check_processes(options: TrainingOptions, processes: Processes) -> None:
    """Raises ValueError unless there are others to share the model out with, where it is to be."""
    if options.fsdp and processes.count == 1:
        raise ValueError("train: fsdp must go with several processes, as torchrun starts them, got one")


class Trainer:
    """Trains ``model`` in ``directory``: ``checkpoints/<update>/``, ``metrics.jsonl``.

    The state of a run is (parameters, Adam's moments, update number, batch number): dropout is drawn from
    (seed, update), masks and batches from (seed, batch number). A run that was interrupted therefore goes on to the
    bit as if it had not been. ``on_step(update)`` and ``on_log(record)`` are called after each update and log line.
    While it trains, the process keeps the memory that it frees, unless activations are computed again to save some
    (``janus_fast.training.memory.freed_memory``).

    Of several ``processes`` each takes its share of every batch, and their gradients add up to those of one process;
    the first alone validates and writes. With ``fsdp`` each holds its rows of ``model`` alone, for good;
    ``whole_model`` puts it together. That, and how many processes there are, may change when a run goes on.
    """

    def __init__(
        self, model: JanusModel, data: ParallelData, directory: str | Path, options: TrainingOptions, validate=None,
        *, processes: Processes = Processes(), on_step=lambda update: None, on_log=lambda record: None,  # noqa: B008
    ):  # fmt: skip
        check_processes(options, processes)
        self.model, self.data, self.directory, self.options = model.to(options.device), data, Path(directory), options
        self.processes = processes
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
        for stack in (model.encoder, model.decoder):
            stack.checkpoint_activations = options.checkpoint_activations
        self.loss = Loss(self.objective, model)
        if options.fsdp:
            share_out(self.loss, options.device, processes.count)
        elif processes.count > 1:
            unused = options.objective == "autoregressive"  # which leaves the length predictor alone
            self.loss = DistributedDataParallel(self.loss, find_unused_parameters=unused, gradient_as_bucket_view=True)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, betas=options.adam_betas, eps=1e-9,
            weight_decay=options.weight_decay, fused=True,
        )  # fmt: skip
        self.update, self.batch_number, self.tokens_seen, self.seconds = 0, 0, 0, 0.0
        self.precision = options.precision
        if self.precision == "auto":
            self.precision = "bfloat16" if options.device == "cuda" or computes_bfloat16() else "float32"
        self.scaler = torch.amp.GradScaler(options.device, enabled=self.precision == "float16")

    def train(self) -> None:
        with self.memory():
            self._train()

    def memory(self):
        """The context in which steps are taken: it settles what becomes of freed memory."""
        return freed_memory(kept=not self.options.checkpoint_activations)

    def _train(self) -> None:
        options = self.options
        (self.directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        if latest := latest_checkpoint(self.directory):
            self.load(latest)
        self.processes.wait()  # until all have read what the first may soon replace
        stream = BatchStream(
            self.data, self.objective, options.max_tokens, options.seed, start=self.batch_number,
            share=self.processes.share,
        )  # fmt: skip
        batches = iter(stream)
        started, start_seconds, window = time.monotonic(), self.seconds, Window()
        self.model.train()
        try:
            while self.update < options.max_updates and self.seconds < options.max_minutes * 60:
                self.step(batches, window)
                self.on_step(self.update)
                self.seconds = start_seconds + time.monotonic() - started
                if options.max_minutes < math.inf:  # all must stop at once
                    self.seconds = self.processes.of_first(self.seconds)
                if self.update % options.log_interval == 0:
                    self.log({"kind": "train", "lr": options.rate(self.update), **window.means(self.processes)})
                    window = Window()
                if self.validate and self.update % options.validate_interval == 0:
                    self.log_validation()
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
        torch.manual_seed(self.seed())
        self.optimizer.zero_grad()
        for n in range(options.accumulate):
            number, epoch, batch = next(batches)
            # Gradients are added up over processes once, when the last batch is through.
            alone = self.processes.count > 1 and n < options.accumulate - 1
            with self.apart() if alone else nullcontext():
                loss, terms = self.backward(batch.to(options.device))
            self.batch_number = number + 1
            rows = [batch.totals[stream] for stream in self.objective.streams]
            self.tokens_seen += rows[0]
            window.add(loss, terms, sum(rows), epoch)
        self.scaler.unscale_(self.optimizer)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, options.clip_norm))
        # Where gradients are scaled, such an update is left out and the scale halved, until there is none left.
        if not torch.isfinite(norm) and self.scaler.get_scale() <= 1.0:
            raise FloatingPointError(
                f"train: the gradient must be finite, got norm {norm} at update {self.update + 1}; "
                "lower the learning rate or raise warmup_updates"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(self.update + 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.update += 1

    @contextmanager
    def apart(self):
        """The context in which the gradients that this process adds stay its own, for the others to get later."""
        if not self.options.fsdp:
            with self.loss.no_sync():
                yield
            return
        self.loss.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.loss.set_requires_gradient_sync(True)

    def seed(self) -> int:
        """Of what this process draws in the next update; generators on the CPU take the low 32 bits."""
        # Multiples of the golden ratio's share of 2^32 stay apart, further than runs have updates.
        return self.options.seed * 1_000_003 + self.update + self.processes.rank * 0x9E3779B1

    def backward(self, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Adds the gradients of one batch to those that are there; its loss, and the terms of it."""
        dtype = getattr(torch, self.precision)
        with torch.autocast(self.options.device, dtype, enabled=dtype != torch.float32):
            loss, terms = self.loss(batch, self.options.divergence_scale(self.update + 1))
        # The mean over processes, which is what DistributedDataParallel and FSDP2 make of gradients, becomes the sum.
        self.scaler.scale(loss * self.processes.count / self.options.accumulate).backward()
        return loss, terms

    def log(self, record: dict) -> None:
        if self.processes.rank > 0:
            return
        record = {"update": self.update, "seconds": round(self.seconds, 1), "tokens": self.tokens_seen, **record}
        with open(self.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.on_log(record)

    def log_validation(self) -> None:
        model = self.whole_model()
        if self.processes.rank == 0:
            model.to(self.options.device).eval()
            self.log({"kind": "valid", **self.validate(model, self.objective)})
            model.train()
        self.processes.wait()

    def whole_model(self) -> JanusModel | None:
        """The model; where it is shared out, a copy on the first process alone, though all must ask for it."""
        if not self.options.fsdp:
            return self.model
        state = gathered(checkpoint.unique_state(self.model), self.processes.rank)
        return checkpoint.model_of(self.model.config, state, self.directory) if state else None

    def moments(self) -> dict[str, torch.Tensor]:
        """Adam's, by the number of the parameter; none for a parameter that no loss reaches."""
        names, states = ("step", "exp_avg", "exp_avg_sq"), enumerate(map(self.optimizer.state.get, self.parameters))
        return {f"{i}.{name}": state[name] for i, state in states if state for name in names}

    def save(self) -> None:
        """Writes a checkpoint under a temporary name and renames it.

        Beside it stay the newest ``keep`` of the regular ones, those at multiples of ``save_interval``. One that was
        written because a run was cut short thus goes with the next, and the run ends as if it had not been cut.
        """
        first = self.processes.rank == 0
        final = self.directory / "checkpoints" / f"{self.update:08d}"
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            model = self.whole_model()
            if first:
                shutil.rmtree(temporary, ignore_errors=True)
                checkpoint.save(model, temporary)
            del model  # a copy of what is shared out goes before the moments come
            moments = gathered(self.moments(), self.processes.rank)
            if not first:
                return
            checkpoint.write_tensors(moments, temporary / "optimizer.safetensors")
            state = {
                "update": self.update, "batch_number": self.batch_number, "tokens_seen": self.tokens_seen,
                "seconds": self.seconds, "precision": self.precision, "options": dataclasses.asdict(self.options),
                "scaler": self.scaler.state_dict(),
            }  # fmt: skip
            with checkpoint.replacing(temporary) as folder:
                (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
        finally:
            if first:
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
        if self.options.fsdp:
            check_precision_shared_out(state["precision"])
        self.precision = state["precision"]  # also where "auto" would choose another on this processor
        self.scaler = torch.amp.GradScaler(self.options.device, enabled=self.precision == "float16")
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        weights = checkpoint.read_tensors(path / checkpoint.WEIGHTS)
        checkpoint.check_state(self.model.config, weights, path)
        for name, parameter in checkpoint.unique_state(self.model).items():
            parameter.copy_(shared_like(weights[name], parameter))
        self.update, self.batch_number = state["update"], state["batch_number"]
        self.tokens_seen, self.seconds = state["tokens_seen"], state["seconds"]
        for name, values in checkpoint.each_tensor(path / "optimizer.safetensors"):
            number, moment = name.split(".")
            parameter = self.parameters[int(number)]
            self.optimizer.state[parameter][moment] = shared_like(values, parameter)


class Loss(torch.nn.Module):
    """An objective's loss of a model, as a module whose parameters are the model's."""

    def __init__(self, objective, model: JanusModel):
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch, divergence_scale: float):
        return self.objective.loss(self.model, batch, divergence_scale)


class Window:
    """Means of loss terms since the last log line."""

    def __init__(self):
        self.sums, self.count, self.tokens, self.epoch, self.began = {}, 0, 0, 0, time.monotonic()

    def add(self, loss, terms, tokens: int, epoch: int) -> None:
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.count, self.tokens, self.epoch = self.count + 1, self.tokens + tokens, epoch

    def means(self, processes: Processes) -> dict:
        elapsed = time.monotonic() - self.began
        sums = processes.add_up(torch.stack([torch.as_tensor(value) for value in self.sums.values()]))
        means = {name: round(value / self.count, 5) for name, value in zip(self.sums, sums.tolist(), strict=True)}
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
    file = path / "state.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"train: {file} must be whole, got {error}; without {path} a run goes on from the checkpoint before"
        ) from None


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
