"""The residual and the norm at the end of a post-norm block."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, define, in_forward_mode, library, needs_gradients, normal, once

MOST_CHANNELS = 4096


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str = "auto"
) -> Tensor:
    """``layer_norm(residual + x)``: what a post-norm Transformer does with a block's output, in one launch on a GPU.

    Computes ``F.layer_norm(residual + x, (C,), weight, bias, eps)``. The sum itself is not returned: a post-norm layer
    has no use for it, and a pre-norm one would have to carry the norm of the next block along.

    Args:
        x: [N, C], floating point, C at least 1; on CUDA devices Triton takes float32, bfloat16 and float16 with C up to
            4,096.
        residual: shape, device and dtype of ``x``, or float32 where ``x`` has fewer bits.
        weight, bias: [C], on the device of ``x``, in the dtype of ``residual``.
        eps: added to the variance, at least 0.
        backend: "auto" or one of ``janus_fast.backends("add_layer_norm", device)``. On the CPU it is the definition: a
            kernel of our own gained nothing over it.
    Returns:
        [N, C] in the dtype of ``residual``; in Triton sums and statistics are float32. Differentiable in all four
        tensors, in Triton once; gradients have one order of summation.
    Raises:
        ValueError: shapes or devices differ, or eps is out of range.
        TypeError: dtypes do not fit, a tensor is sparse, or eps is no number.
        NotImplementedError: the named backend cannot run this call.
    Source: Ba et al. 2016, "Layer Normalization"; post-norm as in Vaswani et al. 2017, section 3.1.
    """
    op = "add_layer_norm"
    _check.numbers(op, eps=eps)
    if eps < 0:
        raise ValueError(f"{op}: eps must be at least 0, got {eps}")
    _check.matrix(op, "x", x)
    _check.matrix(op, "residual", residual, x.shape[1])
    if residual.shape != x.shape:
        raise ValueError(f"{op}: residual must have the shape of x, {list(x.shape)}, got {list(residual.shape)}")
    residual = _check.autocast_residual(residual, x, weight, bias)
    if residual.dtype not in (x.dtype, torch.float32) or torch.finfo(x.dtype).bits > torch.finfo(residual.dtype).bits:
        raise TypeError(f"{op}: residual must have the dtype of x, {x.dtype}, or a wider float32, got {residual.dtype}")
    for name, vector in (("weight", weight), ("bias", bias)):
        _check.vector(op, name, vector, x.shape[1], residual.dtype)
    _check.same(op, ("x", x), ("residual", residual), ("weight", weight), ("bias", bias), dtype=False)
    arguments = x, residual, weight, bias, eps
    chosen = operation.choose(backend, x, residual, weight, bias)
    if chosen == "reference" and not needs_gradients(*arguments) and not in_forward_mode(*arguments):
        # As one operator where no gradients are asked for, so that what is traced on a CPU is what a GPU is given.
        return torch.ops.janus_fast.add_layer_norm(*arguments)
    return operation.run(chosen, *arguments)


def _backward(ctx, gradient, *kept):
    grad_sum, *others = once(ctx, torch.ops.janus_fast.add_layer_norm_bwd, gradient, *kept)
    return grad_sum.to(kept[1].dtype), grad_sum, *others, None


def _fake(x, residual, weight, bias, eps):
    return torch.empty_like(residual, memory_format=torch.contiguous_format)


def _limits(backend, x, *rest):
    return f"its channels are at most {MOST_CHANNELS:,}, not {x.shape[1]:,}" if x.shape[1] > MOST_CHANNELS else None


def _samples():
    make = torch.Generator().manual_seed(7)

    def case(rows, channels, spread=1.0, offset=0.0):
        x, residual = (normal(make, rows, channels) * spread + offset for _ in range(2))
        weight, bias = (normal(make, channels) for _ in range(2))
        return x, residual, weight, bias, 1e-5

    yield "rows", case(37, 128)
    yield "odd_sizes", case(23, 19)
    yield "wide", case(5, 1030)
    yield "widest", case(2, MOST_CHANNELS - 1)
    yield "one_row", case(1, 64)
    yield "one_channel", case(9, 1)
    yield "no_rows", case(0, 16)
    yield "many_rows", case(300, 12)
    yield "far_from_zero", case(20, 48, offset=50.0)
    yield "tiny_variance", case(20, 48, spread=1e-3)
    yield "no_eps", (*case(5, 20)[:4], 0.0)
    x, residual, *rest = case(40, 24)
    yield "strided", (torch.stack([x] * 2, 1)[:, 1], torch.stack([residual] * 2, 1)[:, 0], *rest)


def _work(x, residual, *rest):
    return (x.numel() + 2 * residual.numel()) * x.element_size(), 8 * x.numel()


def _work_bwd(x, residual, *rest):
    return (x.numel() + 3 * residual.numel()) * x.element_size(), 14 * x.numel()


operation = Operation(
    "add_layer_norm",
    schema="(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> Tensor",
    reference=reference.add_layer_norm,
    fake=_fake,
    samples=_samples,
    work=_work,
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
    keep=lambda ctx, results, *arguments: (*results, *arguments),
    backward=_backward,
    limits=_limits,
    gradients=("residual", "weight", "bias"),
    work_bwd=_work_bwd,
)


def _bwd_definition(grad_output, output, x, residual, weight, bias, eps):
    total, shape = residual + x, weight.shape
    _, mean, inverse = torch.native_layer_norm(total, shape, weight, bias, eps)
    return torch.ops.aten.native_layer_norm_backward(
        grad_output, total, shape, mean, inverse, weight, bias, [True, True, True]
    )


define(
    "add_layer_norm_bwd",
    "(Tensor grad_output, Tensor output, Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor grad_sum, Tensor grad_weight, Tensor grad_bias)",
    lambda grad_output, output, x, residual, weight, bias, eps: (
        torch.empty_like(residual, memory_format=torch.contiguous_format), torch.empty_like(weight),
        torch.empty_like(bias),
    ),
    triton="add_layer_norm",
)  # fmt: skip
library.impl("add_layer_norm", reference.add_layer_norm, "CompositeExplicitAutograd")  # on any device
library.impl("add_layer_norm_bwd", _bwd_definition, "CPU")
