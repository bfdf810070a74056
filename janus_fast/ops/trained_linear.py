"""A linear layer in training, with ReLU or without, whose gradients are sums in float32."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, define, normal, once

SIZES = 32  # of which the kernel's channels and outputs are multiples


def trained_linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False, backend: str = "auto") -> Tensor:
    """``x @ weight.T + bias``, or the positive part of it, for layers whose weights may be wider than their rows.

    Computes ``F.linear(x, weight.to(x.dtype), bias)``, in float32 until it is done. Weights in float32 beside rows in
    bfloat16 are rounded on the way to the product, without a copy that lasts, and their gradients, sums of products in
    float32, are not rounded.

    Args:
        x: [N, C] float32 or bfloat16 (other floating types: reference); any strides; C is at least 1. Under autocast it
            is taken in its dtype, and weight and bias as they are.
        weight: [O, C], device of ``x``, its dtype or float32; on the CPU the kernel takes multiples of 32 of both.
        bias: [O], dtype and device of ``weight``.
        relu: whether the result is the positive part.
        backend: "auto" or one of ``janus_fast.backends("trained_linear", device)``.
    Returns:
        [N, O] in the dtype of ``x``. Differentiable in all three tensors, by the kernel once; its gradients are the
        same to the bit whatever the number of threads.
    Raises:
        ValueError: shapes or devices differ, or C is 0.
        TypeError: dtypes do not fit, a tensor is sparse, or ``relu`` is no boolean.
        NotImplementedError: the named backend cannot run this call.
    """
    op = "trained_linear"
    _check.switches(op, relu=relu)
    _check.matrix(op, "x", x)
    _check.matrix(op, "weight", weight, x.shape[1], "O, C")
    _check.floating(op, "bias", bias)
    _check.vector(op, "bias", bias, weight.shape[0], bias.dtype)
    if bias.dtype != weight.dtype:
        raise TypeError(f"{op}: bias must have the dtype of weight, {weight.dtype}, got {bias.dtype}")
    (x,) = _check.autocast(x)
    if weight.dtype not in (x.dtype, torch.float32) or torch.finfo(weight.dtype).bits < torch.finfo(x.dtype).bits:
        raise TypeError(f"{op}: weight must have the dtype of x, {x.dtype}, or a wider float32, got {weight.dtype}")
    _check.same(op, ("x", x), ("weight", weight), ("bias", bias), dtype=False)
    return operation.run(operation.choose(backend, x, weight, bias), x, weight, bias.contiguous(), relu)


def _keep(ctx, results, x, weight, bias, relu):
    return results[0] if relu else None, x, weight, bias, relu


def _backward(ctx, gradient, output, x, weight, bias, relu):
    gradient = gradient if gradient.stride(-1) == 1 else gradient.contiguous()
    output = gradient if output is None else output
    return *once(ctx, torch.ops.janus_fast.trained_linear_bwd.default, gradient, output, x, weight, bias, relu), None


def _fake(x, weight, bias, relu):
    return x.new_empty((x.shape[0], weight.shape[0]))


def _fake_bwd(grad_output, output, x, weight, bias, relu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _limits(backend, x, weight=None, *rest):
    if weight is not None and (weight.shape[0] % SIZES or weight.shape[1] % SIZES):
        return f"its channels and outputs are multiples of {SIZES}, not {weight.shape[1]} and {weight.shape[0]}"
    return None


def _samples():
    make = torch.Generator().manual_seed(12)

    def case(rows, channels, outputs, relu=False, spread=1.0):
        x, weight = normal(make, rows, channels) * spread, normal(make, outputs, channels) * channels**-0.5
        return x, weight, normal(make, outputs), relu

    yield "layer", case(37, 64, 192)
    yield "odd_sizes", case(23, 32, 96, relu=True)
    yield "several_chunks", case(1100, 96, 64)
    yield "whole_chunk", case(512, 64, 128, relu=True)
    yield "one_row", case(1, 128, 32)
    yield "no_rows", case(0, 32, 64, relu=True)
    yield "large_values", case(70, 64, 160, relu=True, spread=1e4)
    x, weight, *rest = case(46, 64, 64)
    yield "strided", (x[::2, 16:48], weight[::2, 8:40], rest[0][::2], True)


def _work(x, weight, *rest):
    rows, outputs = x.shape[0], weight.shape[0]
    return (x.numel() + rows * outputs) * x.element_size() + weight.nbytes, 2 * rows * weight.numel()


def _work_bwd(x, weight, *rest):
    rows, outputs = x.shape[0], weight.shape[0]
    return (2 * x.numel() + rows * outputs) * x.element_size() + 2 * weight.nbytes, 4 * rows * weight.numel()


operation = Operation(
    "trained_linear",
    schema="(Tensor x, Tensor weight, Tensor bias, bool relu) -> Tensor",
    reference=reference.trained_linear,
    fake=_fake,
    samples=_samples,
    work=_work,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    keep=_keep,
    backward=_backward,
    limits=_limits,
    gradients=("x", "weight", "bias"),
    work_bwd=_work_bwd,
)
define(
    "trained_linear_bwd",
    "(Tensor grad_output, Tensor output, Tensor x, Tensor weight, Tensor bias, bool relu)"
    " -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    _fake_bwd,
)
