"""Decoding in torch, on every device and in every type that torch has; on NVIDIA GPUs by CUDA graphs."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch

from . import checkpoint, ops, weights
from .config import JanusConfig
from .decoding import Hypothesis
from .decoding.decoder import Decoder, refusal
from .decoding.fused import FusedModel
from .decoding.options import Options, untaken
from .decoding.runtime import Eager, Graphs
from .decoding.score import score
from .model import JanusModel
from .ops import _native

_PROCESS = os.getpid()  # where torch may have started threads, which a child of fork waits for in vain
_running: set[threading.Lock] = set()  # each held by a decode
_leaving = threading.Event()


def _leave() -> None:
    """Lets what runs come to its end, as torch aborts the process when Python ends a daemon thread inside of it.

    Later is too late, as torch takes our operations away at the exit, too, by a finalizer. At the exit they run last
    made, first run, all of them before the handlers of atexit that were there when janus_fast was imported.
    """
    _leaving.set()
    for lock in [*_running]:
        lock.acquire()


weakref.finalize(ops.OPERATIONS["attention"], _leave)
os.register_at_fork(after_in_child=_running.clear)


def resolved(compute_type: str, device: str) -> str:
    """The type that "default" and "auto" stand for: float32, and the fastest, which on GPUs is bfloat16."""
    if compute_type == "auto" and torch.device(device).type == "cuda":
        return "bfloat16"
    return "float32" if compute_type in ("default", "auto") else compute_type


def missing(device: str, compute_type: str, config: JanusConfig) -> str | None:
    """Why there is nothing to record for ``device`` in this type, or None."""
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


class TorchBackend:
    """Decodes with a model of its own; ``intra_threads`` 0 leaves torch's setting.

    With ``records``, which is backend "cuda", it replays CUDA graphs, one batch at a time. What they cannot hold, and
    ``score``, runs as it is written; a caller who ``insists`` gets an error instead.
    """

    most_at_once = 1  # batch

    def __init__(
        self, config: JanusConfig, arrays: dict[str, np.ndarray], device: str, compute_type: str, intra_threads: int,
        records: bool = False, insists: bool = False,
    ):  # fmt: skip
        self._name, self._threads, self.insists = device, intra_threads, insists
        with self._decoding():
            self.model = self._model(config, arrays, device, compute_type)
            # not measured yet: docs/gpu-kernels.md
            whole_steps = records and os.environ.get("JANUS_FAST_WHOLE_STEPS", "0") not in ("", "0")
            fused = FusedModel(self.model, whole_steps)
            self._decoder, self._recorded = Decoder(fused, Eager()), None
            if records:
                self._lock, self._device = threading.Lock(), self.model.output_weight.device
                with torch.cuda.device(self._device):
                    self._recorded = Decoder(fused, Graphs(self._device))

    def _model(self, config: JanusConfig, arrays: dict[str, np.ndarray], device: str, compute_type: str) -> JanusModel:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"Translator: device must be usable by this torch, got {device!r}: {reason}") from None
        self.compute_type = resolved(compute_type, device)
        state = {name: torch.from_numpy(array) for name, array in weights.float32(arrays).items()}
        model = checkpoint.model_of(config, state, "model").eval().requires_grad_(False)
        return model.to(device, getattr(torch, self.compute_type))

    @property
    def isa(self) -> str | None:
        return ops.isa()

    @property
    def intra_threads(self) -> int:
        return 1 if os.getpid() != _PROCESS else self._threads or torch.get_num_threads()

    def refusal(
        self, options: Options, prefixes: list[list[int]] | None = None, drafts: list[list[int]] | None = None
    ) -> str | None:
        """Why "cuda", where it records, or "torch" cannot decode a call with these options, or None when it can."""
        config = self.model.config
        return refusal(options, config, prefixes, drafts) if self._recorded else untaken("torch", options, config)

    def decode(
        self, sources: list[list[int]], options: Options, numbers: list[int], prefixes: list[list[int]] | None,
        drafts: list[list[int]] | None = None, words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        reason, recorded = self.refusal(options, prefixes, drafts), self._recorded is not None
        if reason and recorded and not self.insists:
            reason, recorded = untaken("torch", options, self.model.config), False
        if reason:
            name = "cuda" if recorded else "torch"
            raise NotImplementedError(f"generate: backend must be able to run this, got {name!r}: {reason}")
        with self._decoding():
            if not recorded:
                return self._decoder.decode(sources, options, numbers, prefixes, drafts, words)
            with self._lock, torch.cuda.device(self._device):
                return self._recorded.decode(sources, options)

    def map(self, work: Callable, batches: list) -> Iterator:
        """What ``work`` makes of each batch of a call, one after another."""
        return map(work, batches)

    def score(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        with self._decoding():
            return score(self.model, sources, targets)

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[None]:
        """With this backend's number of threads, and to the end, or not begun: when the program leaves, threads end."""
        if self._name.startswith("cuda") and torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                "Translator: device must be 'cpu' in a child of a process that used CUDA before it forked, got "
                f"{self._name!r}; start processes by 'spawn'"
            )
        before, own, threads = torch.get_num_threads(), threading.Lock(), self.intra_threads
        with own:
            _running.add(own)
            try:
                if _leaving.is_set():  # SystemExit, of which other threads end without a word
                    in_handler = threading.current_thread() is threading.main_thread()
                    raise (RuntimeError if in_handler else SystemExit)(
                        "Translator: a handler of atexit must be registered after janus_fast is imported, if it is to "
                        "translate with torch or to wait for who does"
                    )
                if threads != before:
                    torch.set_num_threads(threads)
                yield
            finally:
                if threads != before:
                    torch.set_num_threads(before)
                _running.discard(own)
