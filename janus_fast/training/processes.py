"""The processes that train one model together, as torchrun starts them; without torchrun there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ..inputs import OptionError

PATIENCE = timedelta(hours=6)  # that processes wait for the first one, which validates and writes


@dataclass(frozen=True)
class Processes:
    """``count`` processes, this one of number ``rank``. Number 0 alone validates, writes and speaks."""

    rank: int = 0
    count: int = 1

    @property
    def share(self) -> tuple[int, int]:
        return self.rank, self.count

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor that each has."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def of_first(self, value):
        """What the first process has."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def require_same(self, name: str, value, rule: str) -> None:
        """Raises ValueError, in every process, unless all have the same value: ``{name} must {rule}``."""
        if self.count == 1:
            return
        values: list = [None] * self.count
        dist.all_gather_object(values, value)
        if others := [rank for rank, other in enumerate(values) if other != values[0]]:
            numbers = ", ".join(map(str, others))
            raise ValueError(f"{name} must {rule}, got another one in process {numbers} than in process 0")


def _check_restarts(count: int) -> None:
    """Refuses restarts after which the processes of several machines may wait for each other for ever.

    torchrun (torch 2.13) keeps the store, in which they meet, over restarts, and with it what those before have left.
    """
    said = os.environ.get
    several = int(said("LOCAL_WORLD_SIZE", count)) < count
    if several and said("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and said("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE must be 1 in the environment of torchrun where it restarts processes "
            "of several machines, got " + repr(said("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", ""))
        )


@contextmanager
def started_processes(device: str = "cpu") -> Iterator[Processes]:
    """Meets the processes that torchrun started with this one: over gloo on the CPU, over NCCL on GPUs."""
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("train: device", f"be usable by this torch, {torch.__version__}", "'cuda'")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    _check_restarts(count)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
