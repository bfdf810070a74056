"""Reads the golden data (tests/data/golden) and packs its padded batches."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from janus_fast.convert import fairseq
from janus_fast.model import JanusModel
from janus_fast.objectives import Objective, PackedBatch, janus

GOLDEN = Path(__file__).parent / "data" / "golden"
PAD, UNK = 1, 3
CHECKPOINT = GOLDEN / "checkpoint" / "checkpoint_last.pt"


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def group(name: str, prefix: str) -> dict[str, Tensor]:
    """The tensors of a file under ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in tensors(name).items() if key.startswith(prefix)}


def model() -> JanusModel:
    return fairseq.from_state_dict(tensors("weights"), attention_heads=4)


def unpad(batch: Tensor) -> list[Tensor]:
    """Rows of ids without their padding, on either side."""
    return [row[row != PAD] for row in batch]


def masks(data: dict[str, Tensor]) -> list[Tensor]:
    """Which tokens of each target are masked, bos and eos included."""
    first = torch.zeros(1, dtype=torch.bool)
    return [
        torch.cat([first, ~kept[: len(target) - 1]])
        for kept, target in zip(data["ar_mask"], unpad(data["target"]), strict=True)
    ]


class Drawn:
    """Of an objective whose masks have been drawn already."""

    drawn: list[Tensor]

    def masks(self, lengths, generator):
        return [*self.drawn]


def objective(config, data: dict[str, Tensor], kind=janus, **options) -> tuple[Objective, PackedBatch]:
    """An objective and its packed batch, with the masks of ``data``."""
    made = type("Drawn", (Drawn, kind), {})(config, **options)
    made.drawn = masks(data)
    return made, made.pack(unpad(data["src_tokens"]), unpad(data["target"]), torch.Generator())


def sizes(data: dict[str, Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Rows of every sentence in the AR, NAR content and AUX streams."""
    targets, drawn = unpad(data["target"]), [int(mask.sum()) for mask in masks(data)]
    lengths = [len(target) for target in targets]
    return [n - 1 for n in lengths], [n + m for n, m in zip(lengths, drawn, strict=True)], drawn


def packed(padded: Tensor, lengths: list[int]) -> Tensor:
    """[B, L, ...] right-padded -> the real rows, packed."""
    return torch.cat([row[:length] for row, length in zip(padded, lengths, strict=True)])
