"""Projection to the vocabulary and its most likely token, without logits in memory."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _triton
from janus_fast.ops._operation import Operation
from janus_fast.ops.linear_topk import backward, check, keep, samples, work


def linear_argmax(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The most likely token of every row, and its log-probability in nats.

    Computes, without storing logits,

        logits = hidden @ weight.T + bias
        log_probs, tokens = logits.log_softmax(-1).max(-1)

    Args:
        hidden: [N, C] float32 or bfloat16, with Triton also float16 (other floating types: reference); any strides; C
            is at least 1. Under autocast all three are taken in its dtype.
        weight: [V, C], dtype and device of ``hidden``.
        bias: [V], dtype and device of ``hidden``; minus infinity forbids a token.
        backend: "auto" or one of ``janus_fast.backends("linear_argmax", device)``.
    Returns:
        tokens [N] int64 (among equals the lowest) and log_probs [N] float32, accumulated in float32. A row's result
        does not depend on the other rows of the call. ``log_probs`` is differentiable in all three arguments, as often
        as you like; its backward pass is in plain torch, with the logits in memory.
    Raises:
        ValueError: shapes or devices differ.
        TypeError: dtypes differ, or a tensor is sparse.
        NotImplementedError: the named backend cannot run this call.
    """
    arguments = check("linear_argmax", hidden, weight, bias)
    tokens, log_probs = operation.run(operation.choose(backend, *arguments), *arguments)
    return tokens, log_probs.float()


def _backward(ctx, gradient, tokens, *arguments):
    return backward(ctx, gradient[:, None], tokens[:, None], *arguments)[:3]


def _fake(hidden, weight, bias):
    rows = hidden.shape[0]
    return hidden.new_empty(rows, dtype=torch.int64), hidden.new_empty(rows, dtype=torch.float32)


def _limits(backend, hidden, *others):
    if backend != "triton" or not hidden.is_cuda or torch.cuda.get_device_capability(hidden.device)[0] != 10:
        return None
    return "Triton compiles it for compute capability 10 from 3.8 on" if _triton.older_than(3, 8) else None


def _samples():
    for label, (hidden, weight, bias, _) in samples():
        yield label, (hidden, weight, bias)


operation = Operation(
    "linear_argmax",
    schema="(Tensor hidden, Tensor weight, Tensor? bias) -> (Tensor tokens, Tensor log_probs)",
    reference=reference.linear_argmax,
    fake=_fake,
    samples=_samples,
    work=lambda hidden, weight, bias: work(hidden, weight, bias, 1),
    keep=keep,
    backward=_backward,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
    limits=_limits,
)
