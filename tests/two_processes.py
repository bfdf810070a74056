"""What two processes do for tests/test_fsdp.py, in one start of them: torchrun ... tests/two_processes.py FOLDER."""

import faulthandler
import json
import sys
from pathlib import Path

import torch
from test_training import make_data, make_model, options_of

from janus_fast.training.processes import Processes, started_processes
from janus_fast.training.sharding import whole
from janus_fast.training.trainer import Trainer
from janus_fast.training.validation import Validation

# With odd sizes, which two processes cannot share out evenly.
MODELS = {
    "learned": {"encoder_ffn_dim": 25, "decoder_ffn_dim": 23, "max_target_positions": 23},
    "sinusoidal": {"positions": "sinusoidal", "normalize_before": True, "share_all_embeddings": False},
}
CASES = {  # objective and other options, and the model
    "janus": ({}, "learned"),
    "sinusoidal": ({"encoder_passes": 2}, "sinusoidal"),
    "accumulated": ({"accumulate": 2}, "learned"),
    "autoregressive": ({"objective": "autoregressive"}, "learned"),  # no loss reaches the length predictor
    "cmlm": ({"objective": "cmlm", "checkpoint_activations": True}, "learned"),
    "bfloat16": ({"precision": "bfloat16", "checkpoint_activations": True}, "learned"),
}

RUNS = ("janus", "accumulated", "autoregressive")
WATCHED = {"detach": "0.01", "log_gradient_norms": True, "accumulate": 2}


def make_trainer(
    case: str, directory: Path | str, processes: Processes = Processes(), **options  # noqa: B008
) -> Trainer:  # fmt: skip
    """A run of four updates, in float64 unless the case is of another precision."""
    own, model = CASES[case]
    usual = {"max_updates": 4, "save_interval": 2, "validate_interval": 2, "log_interval": 1, "precision": "float32"}
    options = options_of(**{**usual, **own, **options})
    model = make_model(dropout=0.0, **MODELS[model])
    if options.precision == "float32":
        model.double()
    with torch.no_grad():  # those of the first process count
        for parameter in model.parameters():
            parameter += processes.rank
    data = make_data()
    return Trainer(model, data, directory, options, Validation(data, [], [], ()), processes=processes)


def gradients_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The loss of one batch, and gradients of all that it reaches, of all processes together."""
    batch = trainer.objective.pack(
        trainer.data.sources, trainer.data.targets, torch.Generator().manual_seed(1), trainer.processes.share
    )
    loss, _ = trainer.backward(batch)
    names = [name for name, _ in trainer.model.named_parameters()]
    gradients = {
        name: whole(p.grad) for name, p in zip(names, trainer.parameters, strict=True) if p.grad is not None
    }  # fmt: skip
    return {"loss": trainer.processes.add_up(loss.detach()), **gradients}


def sizes_of(trainer: Trainer) -> dict[str, int]:
    """How many numbers this process holds, by the memory behind them."""
    shares = {"parameters": trainer.parameters, "gradients": [p.grad for p in trainer.parameters if p.grad is not None]}
    for name in ("exp_avg", "exp_avg_sq"):
        shares[name] = [state[name] for state in trainer.optimizer.state.values()]
    result = {}
    for name, tensors in shares.items():
        storages = [tensor.to_local().untyped_storage() for tensor in tensors]
        result[name] = sum({s.data_ptr(): s.nbytes() for s in storages}.values()) // tensors[0].element_size()
    return result


def main(folder: Path, processes: Processes) -> None:
    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        if processes.rank == 0:
            torch.save(tensors, folder / f"{name}.pt")

    for case in CASES:
        for way in ("ddp", "fsdp"):
            save(f"{case}.{way}", gradients_of(make_trainer(case, "unused", processes, fsdp=way == "fsdp")))
    for case in RUNS:
        make_trainer(case, folder / case, processes, fsdp=True).train()
    make_trainer("janus", folder / "watched", processes, **WATCHED).train()
    make_trainer("janus", folder / "ddp then fsdp", processes, max_updates=2).train()
    for run in ("ddp then fsdp", "one then fsdp"):
        trainer = make_trainer("janus", folder / run, processes, fsdp=True)
        trainer.train()
        (folder / f"{run}.{processes.rank}.json").write_text(json.dumps(sizes_of(trainer)))
    make_trainer("janus", folder / "fsdp then one", processes, fsdp=True, max_updates=2).train()


if __name__ == "__main__":
    faulthandler.enable()  # a process that a signal ends says where, since nobody can look again
    torch.set_num_threads(1)
    with started_processes() as found:
        main(Path(sys.argv[1]), found)
