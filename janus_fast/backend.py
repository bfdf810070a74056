"""What decodes a batch: the native engine, recorded CUDA graphs, or torch step by step."""

from importlib.util import find_spec

import numpy as np

from . import engine, weights
from .config import JanusConfig
from .installation import absence

BACKENDS = ("engine", "cuda", "torch")  # "auto" takes the first that can
COMPUTE_TYPES = {
    "engine": ("default", "auto", *engine.COMPUTE_TYPES),
    "cuda": ("default", "auto", "float32", "bfloat16"),
    "torch": ("default", "auto", "float32", "float64", "bfloat16"),
}


def choose(backend: str, device: str, compute_type: str, inter_threads: int | str, config: JanusConfig) -> str:
    """The backend that "auto" stands for, or the one that is named; NotImplementedError unless it can."""
    rule = "be 'cpu', 'cuda', 'cuda:1' or another device of torch"
    if device != "cpu" and find_spec("torch"):
        import torch

        try:
            torch.device(device)
        except RuntimeError:
            raise ValueError(f"Translator: device must {rule}, got {device!r}") from None
    elif device != "cpu" and device.partition(":")[0] != "cuda":
        raise ValueError(f"Translator: device must {rule}, which is not installed, got {device!r}")
    candidates = BACKENDS if backend == "auto" else (backend,)
    reasons = {name: refusal(name, device, compute_type, inter_threads, config) for name in candidates}
    for name, reason in reasons.items():
        if reason is None:
            return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise NotImplementedError(f"Translator: backend must be able to run this, got {backend!r}: {reasons}")


def refusal(backend: str, device: str, compute_type: str, inter_threads: int | str, config: JanusConfig) -> str | None:
    """Why a backend cannot run, or None when it can."""
    if backend == "engine":
        return _refusal_of_engine(device, compute_type)
    if backend == "cuda" and device.partition(":")[0] != "cuda":
        return f"it runs on CUDA devices alone, not on {device!r}"
    if compute_type not in COMPUTE_TYPES[backend]:
        return f"it has no {compute_type}"
    if backend == "cuda" and config.recurrent:
        return "it records no decoder with decoder_autoreg 'ssru'"
    if inter_threads not in (1, "auto"):
        return f"it takes one batch at a time, not {inter_threads}"
    if find_spec("torch") is None:
        return f"it needs {absence('torch')}"
    if backend == "cuda":
        from .torch_backend import missing

        return missing(device, compute_type, config)
    return None


def _refusal_of_engine(device: str, compute_type: str) -> str | None:
    if device != "cpu":
        return f"it runs on the CPU alone, not on {device!r}"
    if compute_type not in COMPUTE_TYPES["engine"]:
        return f"it has no {compute_type}"
    return engine.missing()


def most_at_once(backend: str, device: str, compute_type: str, intra_threads: int, inter_threads: int | str) -> int:
    """How many batches what is asked for decodes at once, at most: one, unless the engine does."""
    if backend not in ("auto", "engine") or _refusal_of_engine(str(device), compute_type):
        return 1
    return engine.most_at_once(inter_threads, intra_threads)


def load(
    backend: str, config: JanusConfig, arrays: dict[str, np.ndarray], device: str, compute_type: str,
    intra_threads: int, inter_threads: int | str, insists: bool,
):  # fmt: skip
    """A backend with a model in it, whose parameters are ``arrays``, as ``janus_fast.weights`` has them.

    Calls that backend "cuda" cannot decode are torch's, unless the caller ``insists``.

    ``compute_type`` "default" is float32, or int8 where the weights are stored so and the backend has it; "auto" is the
    fastest type that the processor has instructions for, or the GPU.
    """
    if backend != "engine":
        from .torch_backend import TorchBackend

        return TorchBackend(config, arrays, device, compute_type, intra_threads, backend == "cuda", insists)
    if compute_type == "auto":
        compute_type = engine.fastest()
    elif compute_type == "default":
        compute_type = "int8" if weights.is_quantised(arrays) else "float32"
    return engine.Engine(config, arrays, compute_type, intra_threads, inter_threads)
