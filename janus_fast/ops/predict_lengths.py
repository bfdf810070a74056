"""Target lengths from encoder states."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.inputs import choice
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, normal
from janus_fast.ops.linear_topk import backward_of_log_probs
from janus_fast.packing import offsets_of
from janus_fast.reference.predict_lengths import mean_of_sources

CANDIDATES = ("window", "topk")


def predict_lengths(
    encoded: Tensor, offsets: Tensor, weight: Tensor, *, beam: int, candidates: str = "window", min_length: int = 2,
    max_length: int, backend: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The target lengths to try for every source, and their log-probabilities in nats.

    Computes, for every source s,

        mean = encoded[offsets[s] : offsets[s + 1]].mean(0)         # zeros for a source without rows
        log_probs = (mean @ weight.T).log_softmax(-1)
        "window": lengths = (log_probs.argmax() - beam // 2 + arange(beam)).clamp(min_length, max_length)
        "topk":   the beam best lengths in [min_length, max_length], best first, among equals the shorter first

    Args:
        encoded: [Ns, C] float32 or bfloat16 (other floating types: reference); packed sources; C is at least 1. Under
            autocast both factors are taken in its dtype.
        offsets: [S + 1] int32, where each source begins.
        weight: [L, C], dtype and device of ``encoded``; row l scores the length l, ``bos`` and ``eos`` included.
        beam: lengths for each source, from 1 to max_length - min_length + 1.
        candidates: "window" (around the best length, as the original does) or "topk".
        min_length, max_length: the range of lengths, integers, 0 <= min_length <= max_length < L.
        backend: "auto" or one of ``janus_fast.backends("predict_lengths", device)``.
    Returns:
        lengths [S, beam] int64 and log_probs [S, beam] float32, differentiable in ``encoded`` and ``weight``, as often
        as you like; the backward pass is in plain torch.
    Raises:
        ValueError: shapes or devices differ, or a number is out of range.
        TypeError: dtypes differ, a tensor is sparse, or a number is no integer.
        NotImplementedError: the named backend cannot run this call.
    Source: JANUS (EMNLP 2022), after Mask-Predict (EMNLP 2019).
    """
    op = "predict_lengths"
    _check.matrix(op, "encoded", encoded, letters="Ns, C")
    _check.matrix(op, "weight", weight, encoded.shape[1], "L, C")
    encoded, weight = _check.autocast(encoded, weight)
    _check.same(op, ("encoded", encoded), ("weight", weight))
    _check.offsets(op, "offsets", offsets)
    _check.same(op, ("encoded", encoded), ("offsets", offsets), dtype=False)
    choice(f"{op}: candidates", candidates, CANDIDATES)
    _check.integers(op, beam=beam, min_length=min_length, max_length=max_length)
    if not 0 <= min_length <= max_length:
        raise ValueError(f"{op}: min_length must be in [0, max_length = {max_length}], got {min_length}")
    if max_length >= weight.shape[0]:
        raise ValueError(
            f"{op}: max_length must be below the number of length classes, {weight.shape[0]}, got {max_length}"
        )
    if not 1 <= beam <= max_length - min_length + 1:
        raise ValueError(
            f"{op}: beam must be in [1, {max_length - min_length + 1}], the number of lengths from min_length = "
            f"{min_length} to max_length = {max_length}, got {beam}"
        )
    window = candidates == "window"
    arguments = encoded, offsets, weight, beam, window, min_length, max_length
    lengths, log_probs = operation.run(operation.choose(backend, *arguments), *arguments)
    return lengths, log_probs.float()


def _keep(ctx, results, encoded, offsets, weight, *rest):
    return results[0], encoded, offsets, weight


def _backward(ctx, gradient, lengths, encoded, offsets, weight):
    mean, source, counts = mean_of_sources(encoded.float(), offsets)
    classes = weight.float()
    grad_logits = backward_of_log_probs(gradient, lengths, mean @ classes.T)  # [S, C] @ [C, L] -> [S, L]
    grad_encoded = ((grad_logits @ classes) / counts)[source].to(encoded.dtype)
    return grad_encoded, None, (grad_logits.T @ mean).to(weight.dtype), *[None] * 4


def _fake(encoded, offsets, weight, beam, window, min_length, max_length):
    shape = (offsets.shape[0] - 1, beam)
    return encoded.new_empty(shape, dtype=torch.int64), encoded.new_empty(shape, dtype=torch.float32)


def _samples():
    make = torch.Generator().manual_seed(3)

    def case(lengths, channels, classes, *rest):
        encoded = normal(make, sum(lengths), channels)
        weight = normal(make, classes, channels)
        return encoded, offsets_of(torch.tensor(lengths, dtype=torch.int64)), weight, *rest

    for window in (True, False):
        name = "window" if window else "topk"
        yield f"{name}", case([5, 23, 1, 200], 64, 256, 5, window, 2, 255)
        yield f"{name}_one", case([1], 8, 30, 1, window, 2, 2)
        yield f"{name}_odd_sizes", case([3, 7], 19, 37, 4, window, 2, 30)
        yield f"{name}_clamped", case([4] * 9, 5, 6, 4, window, 2, 5)
        yield f"{name}_no_sources", case([], 16, 40, 3, window, 2, 39)
        encoded, offsets, weight, *rest = case([6, 4], 16, 33, 6, window, 2, 32)
        yield f"{name}_ties", (torch.ones_like(encoded), offsets, weight.sign(), *rest)
        yield f"{name}_strided", (torch.cat([encoded, encoded], 1)[:, 3:19], offsets, weight[:, :16], *rest)
    encoded, offsets, weight, *rest = case([3, 2], 16, 33, 6, False, 2, 32)
    yield "empty_source", (encoded, torch.tensor([0, 3, 3, 5], dtype=torch.int32), weight, *rest)
    inf, one = float("inf"), (torch.ones(1, 1), torch.tensor([0, 1], dtype=torch.int32))
    for label, logits, *rest in (
        ("infinite_logits", [1.0, -inf, 3.0, 3.0, -inf], 4, False, 0, 4),
        ("not_a_number", [1.0, 5.0, float("nan"), 3.0], 3, False, 1, 3),
        ("highest_infinite", [1.0, inf, 2.0], 2, True, 0, 2),
        ("nothing_finite", [-inf, -inf, -inf], 3, True, 0, 2),
    ):
        yield label, (*one, torch.tensor(logits)[:, None], *rest)


def _limits(backend, encoded, offsets=None, weight=None, *rest):
    size = encoded.shape[-1] + (0 if weight is None else weight.shape[0])
    if backend == "cuda" and size > 6144:
        return f"its length classes and channels are together at most 6144, which shared memory holds, not {size}"
    return None


def _work(encoded, offsets, weight, beam, *rest):
    sources = offsets.shape[0] - 1
    size = (encoded.numel() + weight.numel()) * encoded.element_size() + 12 * sources * beam
    return size, encoded.numel() + 2 * sources * weight.numel()


operation = Operation(
    "predict_lengths",
    schema="(Tensor encoded, Tensor offsets, Tensor weight, int beam, bool window, int min_length, int max_length)"
    " -> (Tensor lengths, Tensor log_probs)",
    reference=reference.predict_lengths,
    fake=_fake,
    samples=_samples,
    work=_work,
    keep=_keep,
    backward=_backward,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    cuda_dtypes=(torch.float32, torch.bfloat16),
    limits=_limits,
)
