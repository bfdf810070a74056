"""Decoding in torch: the definition that the engine is held to, on every device and in every type that torch has."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from . import checkpoint, ops, weights
from .config import JanusConfig
from .decoding import (
    AutoregressiveOptions,
    Hypothesis,
    NonAutoregressiveOptions,
    beam_search,
    mask_predict,
    sample,
    score,
)


def resolved(compute_type: str, device: str) -> str:
    """The type that "default" and "auto" stand for: float32, and the fastest, which on GPUs is bfloat16."""
    if compute_type == "auto" and torch.device(device).type == "cuda":
        return "bfloat16"
    return "float32" if compute_type in ("default", "auto") else compute_type


class TorchBackend:
    """Decodes with a model of its own; ``intra_threads`` 0 leaves torch's setting."""

    def __init__(
        self, config: JanusConfig, arrays: dict[str, np.ndarray], device: str, compute_type: str, intra_threads: int
    ):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"Translator: device must be usable by this torch, got {device!r}: {reason}") from None
        self.compute_type = resolved(compute_type, device)
        state = {name: torch.from_numpy(array) for name, array in weights.float32(arrays).items()}
        model = checkpoint.model_of(config, state, "model").eval().requires_grad_(False)
        self.model = model.to(device, getattr(torch, self.compute_type))
        self._threads = intra_threads

    @property
    def isa(self) -> str | None:
        return ops.isa()

    @property
    def intra_threads(self) -> int:
        return self._threads or torch.get_num_threads()

    def decode(
        self, sources: list[list[int]], options: AutoregressiveOptions | NonAutoregressiveOptions, numbers: list[int],
        prefixes: list[list[int]] | None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        with self._set_threads():
            if isinstance(options, NonAutoregressiveOptions):
                return mask_predict(self.model, sources, options)
            if options.sampling_topk != 1:
                return sample(self.model, sources, options, numbers, prefixes)
            return beam_search(self.model, sources, options, prefixes)

    def score(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        with self._set_threads():
            return score(self.model, sources, targets)

    @contextlib.contextmanager
    def _set_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            if self._threads:
                torch.set_num_threads(before)
