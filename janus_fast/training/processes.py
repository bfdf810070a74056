"""The processes that train one model together, as torchrun starts them; without torchrun there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

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


@contextmanager
def started_processes(device: str = "cpu") -> Iterator[Processes]:
    """Meets the processes that torchrun started with this one: over gloo on the CPU, over NCCL on GPUs."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"train: device must be usable by this torch, {torch.__version__}, got 'cuda'")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
