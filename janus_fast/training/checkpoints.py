"""The checkpoints of a run: which there are, what they say, and their mean."""

import json
from pathlib import Path

import torch

from .. import checkpoint
from ..inputs import check_part
from ..reading import read_text


def checkpoints(directory: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in Path(directory, "checkpoints").glob("[0-9]*") if (p / "state.json").exists())


def latest_checkpoint(directory: str | Path) -> Path | None:
    return (checkpoints(directory) or [None])[-1]


def read_state(path: Path) -> dict:
    file = path / "state.json"
    check_part("train", file)
    text = read_text("train", file)
    try:
        return json.loads(text)
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
