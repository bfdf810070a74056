"""Projection to the vocabulary and its most likely tokens, without logits in memory."""

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, normal


def linear_topk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, k: int, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The k most likely tokens of every row, best first, and their log-probabilities in nats.

    Computes, without storing logits,

        logits = hidden @ weight.T + bias
        log_probs, tokens = logits.log_softmax(-1).sort(-1, descending=True, stable=True)
        return tokens[:, :k], log_probs[:, :k]

    Args:
        hidden: [N, C] float32 or bfloat16, with Triton also float16 (other floating types: reference); any strides; C
            is at least 1. Under autocast all three are taken in its dtype.
        weight: [V, C], dtype and device of ``hidden``.
        bias: [V], dtype and device of ``hidden``; minus infinity forbids a token.
        k: how many tokens, an integer from 1 to V; Triton takes up to 32.
        backend: "auto" or one of ``janus_fast.backends("linear_topk", device)``.
    Returns:
        tokens [N, k] int64 (among equals the lowest first) and log_probs [N, k] float32, accumulated in float32;
        a forbidden token has minus infinity and comes last. A row's result does not depend on the other rows,
        with Triton but for rounding: few rows have other tiles than many. ``log_probs`` is differentiable in all three
        arguments, as often as you like; its backward pass is in plain torch, with the logits in memory.
    Raises:
        ValueError: shapes or devices differ, or k is out of range.
        TypeError: dtypes differ, a tensor is sparse, or k is no integer.
        NotImplementedError: the named backend cannot run this call.
    """
    hidden, weight, bias = check("linear_topk", hidden, weight, bias)
    _check.integers("linear_topk", k=k)
    if not 1 <= k <= weight.shape[0]:
        raise ValueError(f"linear_topk: k must be in [1, V = {weight.shape[0]}], got {k}")
    arguments = hidden, weight, bias, k
    tokens, log_probs = operation.run(operation.choose(backend, *arguments), *arguments)
    return tokens, log_probs.float()


def check(op: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The checks of a vocabulary projection; returns its arguments as autocast wants them."""
    _check.matrix(op, "hidden", hidden)
    _check.matrix(op, "weight", weight, hidden.shape[1], "V, C")
    if weight.shape[0] == 0:
        raise ValueError(f"{op}: weight must have at least one row, got shape {list(weight.shape)}")
    if bias is not None:
        _check.floating(op, "bias", bias)
        _check.vector(op, "bias", bias, weight.shape[0], bias.dtype)
    hidden, weight, bias = _check.autocast(hidden, weight, bias)
    _check.same(op, ("hidden", hidden), ("weight", weight), *[("bias", bias)] * (bias is not None))
    return hidden, weight, bias


def keep(ctx, results, hidden, weight, bias, k=1):
    return results[0], hidden, weight, bias


def backward(ctx, gradient, tokens, hidden, weight, bias):
    rows, columns = hidden.float(), weight.float()
    logits = F.linear(rows, columns, None if bias is None else bias.float())  # [N, C] @ [C, V] -> [N, V]
    grad_logits = backward_of_log_probs(gradient, tokens, logits)
    wanted = ctx.needs_input_grad
    grad_hidden = (grad_logits @ columns).to(hidden.dtype) if wanted[0] else None
    grad_weight = (grad_logits.T @ rows).to(weight.dtype) if wanted[1] else None
    return grad_hidden, grad_weight, grad_logits.sum(0).to(bias.dtype) if wanted[2] else None, None


def backward_of_log_probs(gradient: Tensor, tokens: Tensor, logits: Tensor) -> Tensor:
    """The gradient of logits [N, V] from that of the log-probabilities [N, k] of tokens [N, k]."""
    chosen = torch.zeros_like(logits).scatter_add(-1, tokens, gradient)
    return chosen - logits.softmax(-1) * gradient.sum(-1, keepdim=True)


def _fake(hidden, weight, bias, k):
    rows = hidden.shape[0]
    return hidden.new_empty((rows, k), dtype=torch.int64), hidden.new_empty((rows, k), dtype=torch.float32)


def _limits(backend, hidden, weight=None, bias=None, k=1):
    if backend == "triton" and k > 32:
        return f"its k is at most 32, not {k}"
    return None


def samples():
    make = torch.Generator().manual_seed(2)

    def case(rows, channels, vocabulary, k, bias=True, spread=1.0):
        hidden = normal(make, rows, channels) * spread
        weight = normal(make, vocabulary, channels) * channels**-0.5
        return hidden, weight, normal(make, vocabulary) if bias else None, k

    yield "decoder", case(37, 64, 1000, 5)
    yield "one_row", case(1, 128, 777, 3, bias=False)
    yield "few_rows", case(4, 20, 65, 4)
    yield "many_tokens", case(9, 32, 600, 30)
    yield "odd_sizes", case(23, 19, 259, 7)
    yield "one_token", case(3, 8, 1, 1)
    yield "no_rows", case(0, 16, 40, 2)
    yield "every_token", case(3, 16, 300, 300)
    yield "extreme_logits", case(9, 32, 600, 6, spread=60.0)
    hidden, weight, bias, k = case(46, 16, 530, 4)
    forbidden = torch.rand(530, generator=make) < 0.5
    forbidden[256:512] = True
    yield "forbidden", (hidden, weight, bias.masked_fill(forbidden, float("-inf")), k)
    few = torch.full((530,), float("-inf"))
    few[[7, 300]] = 0.0
    yield "more_than_allowed", (hidden, weight, few, k)
    integers = torch.randint(-2, 3, (8, 16), generator=make).float()
    yield "ties", (integers, torch.randint(-1, 2, (900, 16), generator=make).float(), None, 9)
    yield "strided", (hidden[::2], normal(make, 300, 40)[::2, 8:24], None, 3)


def work(hidden, weight, bias, k):
    rows, channels = hidden.shape
    return (hidden.numel() + weight.numel()) * hidden.element_size() + 12 * rows * k, 2 * rows * weight.numel()


operation = Operation(
    "linear_topk",
    schema="(Tensor hidden, Tensor weight, Tensor? bias, int k) -> (Tensor tokens, Tensor log_probs)",
    reference=reference.linear_topk,
    fake=_fake,
    samples=samples,
    work=work,
    keep=keep,
    backward=backward,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
    limits=_limits,
)
