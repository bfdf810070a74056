"""How a decode is run: as it is written, or recorded once as CUDA graphs and replayed."""

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

# torch hands out some 32 streams in turn: that of another Graphs may be the same one, where nothing else may run now.
_recording = Lock()


class Eager:
    """Runs everything as it is written, on any device: what graphs are held to."""

    recorded = False  # whether programs are kept, and the host does not look at what they do

    def record(self, function: Callable) -> Callable:
        """A function that does what ``function`` does, always with the same tensors."""
        return function

    def upload(self, buffer: Tensor, values: Tensor) -> None:
        buffer.copy_(values)

    def download(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        """Copies what the tensors hold now; the function that it returns waits for the copies and returns them."""
        copies = [tensor.to("cpu", copy=True) for tensor in tensors]
        return lambda: copies


class Graphs(Eager):
    """Records CUDA graphs. Their memory is one pool: no two may run at once; results stay until they run again."""

    recorded = True

    def __init__(self, device: torch.device):
        self.device, self.pool = device, torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # torch's own for recording belongs to one device, for good
        # A pool cannot be recorded into again when its last graph is gone; this one stays.
        with _recording:
            self._keeper, _ = self._capture(lambda: torch.zeros(1, device=device))

    def record(self, function: Callable) -> Callable:
        with _recording:
            side = self._stream
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):  # libraries set themselves up, kernels are compiled: no graph can hold that
                function()
            torch.cuda.current_stream(self.device).wait_stream(side)
            graph, results = self._capture(function)

        def replay():
            graph.replay()
            return results

        return replay

    def _capture(self, function: Callable) -> tuple[torch.cuda.CUDAGraph, object]:
        graph = torch.cuda.CUDAGraph()
        # What other threads ask of CUDA meanwhile, such as memory, is no part of the graph, and need not fail.
        with torch.cuda.graph(graph, pool=self.pool, stream=self._stream, capture_error_mode="thread_local"):
            return graph, function()

    def upload(self, buffer: Tensor, values: Tensor) -> None:
        buffer.copy_(values.pin_memory(), non_blocking=True)

    def download(self, *tensors: Tensor) -> Callable[[], list[Tensor]]:
        copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> list[Tensor]:
            copied.synchronize()
            return copies

        return wait
