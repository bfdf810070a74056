"""One way to take a training step, in a process of its own: janus_fast, or the authors' way in plain PyTorch.

A step is what an update costs: forward and backward pass, clipping, Adam. janus_fast also packs its batch in it, and
the peer has collated it beforehand. Two steps come before anything is timed.
"""

import tempfile
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import resident
from benchmarks.process import serve
from benchmarks.workload import CONFIGURATIONS, SPECIALS
from janus_fast.config import JanusConfig
from janus_fast.model import JanusModel

SENTENCES, PREDICTED = 39, 1014  # target tokens that each stream could predict
LENGTHS = (22, 33)  # of sources, ends included


def configuration(name: str, dropout: float, activation: str) -> JanusConfig:
    sizes = CONFIGURATIONS[name]
    return JanusConfig(
        sizes.vocabulary, sizes.vocabulary, d_model=sizes.channels, attention_heads=sizes.heads,
        dropout=dropout, activation=activation, encoder_layers=sizes.layers, decoder_layers=sizes.decoder_layers,
        encoder_ffn_dim=sizes.hidden, decoder_ffn_dim=sizes.hidden,
    )  # fmt: skip


def sentences(vocabulary: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random sources and targets, ends included; targets are about as long and predict ``PREDICTED`` tokens."""
    random = np.random.default_rng(0)
    lengths = random.integers(*LENGTHS, SENTENCES)
    of_targets = lengths + random.integers(-2, 3, SENTENCES)
    while (missing := PREDICTED + SENTENCES - of_targets.sum()) != 0:
        of_targets[random.integers(SENTENCES)] += np.sign(missing)

    def draw(length: int) -> np.ndarray:
        return np.array([0, *random.integers(SPECIALS, vocabulary, length - 2), 2])

    return [draw(n) for n in lengths], [draw(n) for n in of_targets]


def generator() -> torch.Generator:
    """Draws the masks of the batch, the same each time."""
    return torch.Generator().manual_seed(1)


class JanusFast:
    def __init__(self, job: dict, config: JanusConfig, model, stack: ExitStack):
        from janus_fast.training.data import ParallelData
        from janus_fast.training.options import TrainingOptions
        from janus_fast.training.trainer import Trainer

        data = ParallelData(*sentences(config.source_vocab_size), list(range(SENTENCES)))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="janus_fast-"))
        self.model, self.stack = model.train(), stack  # which undoes, when it goes, what steps are taken in
        self.trainer = Trainer(
            self.model,
            data,
            directory,
            TrainingOptions(precision=job["dtype"], checkpoint_activations=job.get("checkpoint_activations", False)),
        )
        stack.enter_context(self.trainer.memory())

    def _batch(self):
        data = self.trainer.data
        return self.trainer.objective.pack(data.sources, data.targets, generator())

    def backward(self) -> Tensor:
        return self.trainer.backward(self._batch())[0]

    def step(self) -> None:
        from janus_fast.training.metrics import Window

        self.trainer.step(iter([(0, 0, self._batch())]), Window())


class Eager:
    """In float32 but for the gate, which needs float64 and what PyTorch errs in bfloat16, too."""

    def __init__(self, job: dict, config: JanusConfig, model, stack: ExitStack):
        from benchmarks.peers.padded_janus import PaddedJanus, collate
        from janus_fast.objectives import OBJECTIVES

        self.model = PaddedJanus(config).train()
        self.model.load_state_dict(model.state_dict())
        self.model.to(torch.float64 if job["dtype"] == "float64" else torch.float32)
        sources, targets = sentences(config.source_vocab_size)
        lengths = [len(target) for target in targets]
        words = torch.from_numpy(np.concatenate(targets))
        masks = OBJECTIVES["janus"](config).draw(words, lengths, generator())[:, 0]
        self.batch = collate(sources, targets, list(masks.split(lengths)), config)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=job["dtype"] == "bfloat16")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=1e-4)

    def backward(self) -> Tensor:
        with self.autocast:
            loss = self.model.loss(self.batch)
        loss.backward()
        return loss

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


TRAINERS = {"janus_fast": JanusFast, "eager": Eager}


def prepare(job: dict):
    torch.set_num_threads(job["threads"])
    if job["results"]:
        torch.save(_results(job), job["results"])
        return lambda: None, {}
    torch.optim.Adam([torch.zeros(1)])  # the first optimizer brings modules along, of more than 100 MiB
    facts = {"idle_bytes": resident()}
    stack = ExitStack()
    trainer = _trainer(job, "relu", stack)
    trainer.step()
    trainer.step()
    if job["profile"]:
        facts["profile"] = _profile(trainer.step)
    return trainer.step, facts


def _trainer(job: dict, activation: str, stack: ExitStack):
    config = configuration(job["config"], job["dropout"], activation)
    torch.manual_seed(0)
    return TRAINERS[job["name"]](job, config, JanusModel(config), stack)


def _results(job: dict) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of the model that is timed and of one with GELU, and the gradients of that one.

    Of ReLU, gradients tell little: a single unit that rounding switches outweighs all other rounding.
    """
    losses = {}
    for activation in ("relu", "gelu"):
        with ExitStack() as stack:
            trainer = _trainer(job, activation, stack)
            losses[activation] = trainer.backward().detach()
    return losses, {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def _profile(step) -> list[tuple[str, int, float]]:
    """Operators with their calls and own seconds, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    events = [(e.key, e.count, e.self_cpu_time_total / 1e6) for e in profiler.key_averages()]
    return sorted((event for event in events if event[2] > 1e-4), key=lambda event: -event[2])


if __name__ == "__main__":
    serve(prepare)
