"""The training loop: token batches, Adam with inverse square-root schedule, exact resume."""

import dataclasses
import json
import shutil
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from .. import checkpoint
from ..config import JanusConfig
from ..inputs import OptionError
from ..model import JanusModel
from ..objectives import OBJECTIVES, Objective, as_one
from .checkpoints import checkpoints, is_regular, latest_checkpoint, read_state
from .data import BatchStream, ParallelData
from .memory import freed_memory
from .metrics import METRICS, Window, drop_records_behind
from .options import TrainingOptions, check_precision_shared_out, check_processes, check_text
from .processes import Processes
from .sharding import gathered, share_out, shared_like, whole


class Trainer:
    """Trains ``model`` in ``directory``: ``checkpoints/<update>/``, ``metrics.jsonl``.

    The state of a run is (parameters, Adam's moments, update number, batch number): dropout is drawn from
    (seed, update), masks and batches from (seed, batch number). A run that was interrupted therefore goes on to the
    bit as if it had not been. ``on_step(update)`` and ``on_log(record)`` are called after each update and log line.
    :meth:`stop` ends a run early, with a checkpoint, and then it has ``stopped``.

    While it trains, the process keeps the memory that it frees, unless activations are computed again to save some
    (``janus_fast.training.memory.freed_memory``).

    The model's ``config`` becomes that of the objective, which says what it is trained for.

    Of several ``processes`` each takes its share of every batch, and their gradients add up to those of one process;
    the first alone validates and writes. With ``fsdp`` each holds its rows of ``model`` alone, for good;
    ``whole_model`` puts it together. That, and how many processes there are, may change when a run goes on.
    """

    def __init__(
        self, model: JanusModel, data: ParallelData, directory: str | Path, options: TrainingOptions, validate=None,
        *, processes: Processes = Processes(), on_step=lambda update: None, on_log=lambda record: None,  # noqa: B008
    ):  # fmt: skip
        check_processes(options, processes)
        check_text(options, data.corruption is not None)
        self.model, self.data, self.directory, self.options = model.to(options.device), data, Path(directory), options
        self.processes = processes
        self.validate, self.on_step, self.on_log = validate, on_step, on_log
        self.stopped = self._stopping = False
        self.objective = objective_of(options, model.config)
        model.config = self.objective.config
        if (least := min(data.lengths)) > options.max_tokens:
            words = f"be at least {least}, as many as the shortest pair has"
            raise OptionError("train: max_tokens", words, options.max_tokens)
        for stack in (model.encoder, model.decoder):
            stack.checkpoint_activations = options.checkpoint_activations
        self.loss = Loss(self.objective, model)
        if options.fsdp:
            share_out(self.loss, options.device, processes.count)
        elif processes.count > 1:
            unused = not self.objective.predicts_length  # which leaves the length predictor alone
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

    @property
    def latest(self) -> int:
        """The update that a run in ``directory`` goes on from; 0 for a new one."""
        path = latest_checkpoint(self.directory)
        return int(path.name) if path else 0

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
        if self.processes.rank == 0:
            drop_records_behind(self.directory, self.update)
            for unfinished in (self.directory / "checkpoints").glob(".*.tmp"):  # of a run that was killed
                shutil.rmtree(unfinished)
        self.processes.wait()  # until all have read what the first may soon replace
        stream = BatchStream(
            self.data, self.objective, options.max_tokens, options.seed, start=self.batch_number,
            share=self.processes.share,
        )  # fmt: skip
        batches = iter(stream)
        started, window = time.monotonic() - self.seconds, Window()
        saved, saved_seconds = self.update, self.seconds
        self.model.train()
        try:
            while not self.stopped and self.update < options.max_updates and self.seconds < options.max_minutes * 60:
                self.step(batches, window)
                self.seconds, self.stopped = self.agreed(time.monotonic() - started)
                if self.is_logged(self.update):
                    self.log({"kind": "train", "lr": options.rate(self.update), **window.means(self.processes)})
                    window = Window()
                self.on_step(self.update)
                if self.validate and self.update % options.validate_interval == 0:
                    self.log_validation()
                late = self.seconds - saved_seconds >= options.save_minutes * 60
                if late or self.update % options.save_interval == 0:
                    self.save()
                    saved, saved_seconds = self.update, self.seconds
                if not window.count:  # the time of validating and saving is not training's
                    window = Window()
            if saved < self.update:
                self.save()
        finally:
            stream.close()

    def stop(self) -> None:
        """Ends training, resumably, when the update under way is done; a signal's handler may call it."""
        self._stopping = True

    def agreed(self, seconds: float) -> tuple[float, bool]:
        """The first process's ``seconds``, and whether any of them is to stop: all do the same at the same update."""
        if self.processes.count == 1:
            return seconds, self._stopping
        mine = [seconds if self.processes.rank == 0 else 0.0, float(self._stopping)]
        seconds, wishes = self.processes.add_up(torch.tensor(mine, dtype=torch.float64, device=self.options.device))
        return float(seconds), bool(wishes)

    def step(self, batches, window: "Window") -> None:
        """One update over ``accumulate`` batches, whose gradients and losses add up to those of one that holds all."""
        options = self.options
        torch.manual_seed(self.seed())
        self.optimizer.zero_grad()
        numbers, epochs, parts = zip(*(next(batches) for _ in range(options.accumulate)), strict=True)
        batches, watched = [batch.to(options.device) for batch in as_one(parts)], self.objective.watched
        seen = torch.zeros(len(watched), device=options.device)
        for n, batch in enumerate(batches):
            # Gradients are added up over processes once, when the last batch is through.
            alone = self.processes.count > 1 and n < options.accumulate - 1
            with self.apart() if alone else nullcontext():
                loss, terms = self.backward(batch)
            window.add(loss, terms)
            if watched:
                seen += torch.stack([terms[name].detach() for name in watched])
        if options.log_gradient_norms and self.is_logged(self.update + 1):
            window.norms = self.gradient_norms(batches)
        if watched:
            self.objective.observe(dict(zip(watched, self.processes.add_up(seen).tolist(), strict=True)))
        rows = [batch.totals[stream] for stream in self.objective.streams]
        self.batch_number = numbers[-1] + 1
        self.tokens_seen += rows[0]
        window.count_update(sum(rows), epochs[-1])
        self.scaler.unscale_(self.optimizer)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, options.clip_norm))
        # Where gradients are scaled, such an update is left out and the scale halved, until there is none left.
        if not torch.isfinite(norm) and self.scaler.get_scale() <= 1.0:
            raise FloatingPointError(
                f"train: the gradient must be finite, got norm {norm} at update {self.update + 1}; "
                "lower the learning rate or warm up for longer"
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

    def is_logged(self, update: int) -> bool:
        return update in (1, self.options.max_updates) or update % self.options.log_interval == 0

    def gradient_norms(self, batches) -> dict[str, float]:
        """Of each term of the loss, weighed as it is in the next update, the norm of its gradient."""
        norms, scale = {}, self.objective.divergence_scale(self.update + 1)
        for name, objective in self.objective.by_term().items():
            torch.manual_seed(self.seed())  # for the dropout of the update
            total = 0.0
            for batch in batches:
                with self.autocast():
                    loss = self.scaler.scale(objective.loss(self.model, batch, scale)[0])
                gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
                total = total + torch.cat([gradient.flatten() for gradient in gradients])
            norm = self.processes.add_up(total).norm() / self.scaler.get_scale()
            norms[name] = float(f"{norm:.5g}")
        return norms

    def autocast(self):
        dtype = getattr(torch, self.precision)
        return torch.autocast(self.options.device, dtype, enabled=dtype != torch.float32)

    def backward(self, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Adds the gradients of one batch to those that are there; its loss, and the terms of it."""
        with self.autocast():
            loss, terms = self.loss(batch, self.objective.divergence_scale(self.update + 1))
        # The mean over processes, which is what DistributedDataParallel and FSDP2 make of gradients, becomes the sum.
        self.scaler.scale(loss * self.processes.count).backward()
        return loss, terms

    def log(self, record: dict) -> None:
        if self.processes.rank > 0:
            return
        record = {"update": self.update, "seconds": round(self.seconds, 1), "tokens": self.tokens_seen, **record}
        with open(self.directory / METRICS, "a", encoding="utf-8") as file:
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
        written by the clock, or because a run was cut short, thus goes with the next, and whatever the clock said the
        run ends with the same ones.
        """
        first = self.processes.rank == 0
        final = self.directory / "checkpoints" / f"{self.update:08d}"
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            model = self.whole_model()
            if first:
                checkpoint.save(model, temporary)
            del model  # a copy of what is shared out goes before the moments come
            moments = gathered(self.moments(), self.processes.rank)
            if not first:
                return
            checkpoint.write_tensors(moments, temporary / "optimizer.safetensors")
            state = {
                "update": self.update, "batch_number": self.batch_number, "tokens_seen": self.tokens_seen,
                "seconds": self.seconds, "precision": self.precision, "options": dataclasses.asdict(self.options),
                "scaler": self.scaler.state_dict(), "objective": self.objective.state,
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
            rule = f"be {state['precision']}, as when the run began"
            raise OptionError("train: precision", rule, self.options.precision)
        if self.options.fsdp:
            check_precision_shared_out(state["precision"])
        self.precision = state["precision"]  # also where "auto" would choose another on this processor
        self.scaler = torch.amp.GradScaler(self.options.device, enabled=self.precision == "float16")
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.objective.state = state.get("objective", {})  # which older versions had not
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


def objective_of(options: TrainingOptions, config: JanusConfig) -> Objective:
    """The objective that ``options`` describe, of models of ``config``."""
    return OBJECTIVES[options.objective].of(config, options)


class Loss(torch.nn.Module):
    """An objective's loss of a model, as a module whose parameters are the model's."""

    def __init__(self, objective, model: JanusModel):
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch, divergence_scale: float):
        return self.objective.loss(self.model, batch, divergence_scale)


def computes_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16 numbers; without, they are slower than float32."""
    return hasattr(torch.cpu, "_is_avx512_bf16_supported") and torch.cpu._is_avx512_bf16_supported()
