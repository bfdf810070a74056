"""Decoding on NVIDIA GPUs: CUDA graphs of whole refinements and of steps, and torch for calls that they cannot hold."""

from threading import Lock

import numpy as np
import torch

from . import ops
from .config import JanusConfig
from .decoding import AutoregressiveOptions, Hypothesis, NonAutoregressiveOptions
from .decoding.on_device import OnDeviceDecoder, refusal
from .decoding.on_device.graphs import Graphs
from .ops import _native
from .torch_backend import TorchBackend, resolved


def missing(device: str, compute_type: str, config: JanusConfig) -> str | None:
    """Why there is nothing to decode with on ``device`` in this type, or None."""
    try:
        dtype = getattr(torch, resolved(compute_type, device))
        query = torch.empty(1, config.attention_heads, config.head_size, dtype=dtype, device=device)
    except (RuntimeError, AssertionError) as error:
        return f"torch cannot use {device!r}: {str(error).splitlines()[0]}"
    if _native.cuda_missing is not None:
        return _native.cuda_missing
    if ops.OPERATIONS["attention"].choose("auto", query) == "reference":
        return (
            f"attention has no kernel for heads of {config.head_size} in {dtype}, and its definition waits for the GPU"
        )
    return None


class CudaBackend(TorchBackend):
    """Decodes with ``janus_fast.decoding.on_device.OnDeviceDecoder``, one batch at a time.

    What that refuses, and ``score``, are torch's affair; a caller who ``insists`` gets an error instead.
    """

    def __init__(
        self, config: JanusConfig, arrays: dict[str, np.ndarray], device: str, compute_type: str, intra_threads: int,
        insists: bool,
    ):  # fmt: skip
        super().__init__(config, arrays, device, compute_type, intra_threads)
        self.insists, self._lock = insists, Lock()
        self._device = self.model.output_weight.device
        with torch.cuda.device(self._device):
            self._decoder = OnDeviceDecoder(self.model, Graphs(self._device))

    def refusal(
        self, options: AutoregressiveOptions | NonAutoregressiveOptions, prefixes: list[list[int]] | None = None
    ) -> str | None:
        return refusal(options, self.model.config, prefixes)

    def decode(
        self, sources: list[list[int]], options: AutoregressiveOptions | NonAutoregressiveOptions, numbers: list[int],
        prefixes: list[list[int]] | None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        if (reason := self.refusal(options, prefixes)) is not None:
            if self.insists:
                raise NotImplementedError(f"generate: backend must be able to run this, got 'cuda': {reason}")
            return super().decode(sources, options, numbers, prefixes)
        with self._decoding(), self._lock, torch.cuda.device(self._device):
            return self._decoder.decode(sources, options)
