"""A linear layer and its activation, of which every row is computed as if it were alone."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.inputs import choice
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, normal
from janus_fast.reference.linear_activation import ACTIVATIONS


def linear_activation(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", *, backend: str = "auto"
) -> Tensor:
    """``activation(x @ weight.T + bias)``.

    Computes ``ACTIVATIONS[activation](F.linear(x, weight, bias))``, in float32 until the activation is done. On the
    CPU, without gradients, a row's result does not depend on the other rows of the call, to the bit, nor on the number
    of threads, which is not so in ``torch.nn.functional.linear``.

    Args:
        x: [N, C] float32 or bfloat16 (other floating types: reference); any strides; C is at least 1. Under autocast
            all three are taken in its dtype.
        weight: [O, C], dtype and device of ``x``.
        bias: [O], dtype and device of ``x``.
        activation: "none", "relu", "gelu", "silu", "gelu_new" (by a hyperbolic tangent) or "quick_gelu" (``x *
            sigmoid(1.702 * x)``), which are Hugging Face's names.
        backend: "auto" or one of ``janus_fast.backends("linear_activation", device)``.
    Returns:
        [N, O] in the dtype of ``x``. The reference is differentiable, as often as you like; the kernel, for the CPU
        alone, is for inference.
    Raises:
        ValueError: shapes or devices differ, C is 0, or there is no such activation.
        TypeError: dtypes differ, or a tensor is sparse.
        NotImplementedError: the named backend cannot run this call.
    """
    op = "linear_activation"
    _check.matrix(op, "x", x)
    _check.matrix(op, "weight", weight, x.shape[1], "O, C")
    if bias is not None:
        _check.floating(op, "bias", bias)
        _check.vector(op, "bias", bias, weight.shape[0], bias.dtype)
    choice(f"{op}: activation", activation, [*ACTIVATIONS])
    x, weight, bias = _check.autocast(x, weight, bias)
    _check.same(op, ("x", x), ("weight", weight), *[("bias", bias)] * (bias is not None))
    return operation.run(operation.choose(backend, x, weight, bias), x, weight, bias, activation)


def _fake(x, weight, bias, activation):
    return x.new_empty((x.shape[0], weight.shape[0]))


def _samples():
    make = torch.Generator().manual_seed(11)

    def case(rows, channels, outputs, activation="none", bias=True, spread=1.0):
        x, weight = normal(make, rows, channels) * spread, normal(make, outputs, channels) * channels**-0.5
        return x, weight, normal(make, outputs) if bias else None, activation

    yield "layer", case(37, 64, 192)
    yield "one_row", case(1, 128, 77, bias=False)
    yield "few_rows", case(4, 20, 65)
    yield "many_rows", case(203, 33, 70)
    yield "several_tasks", case(203, 65, 130)
    yield "deep", case(11, 1030, 40)
    yield "odd_sizes", case(23, 19, 259, "relu")
    yield "one_channel", case(9, 1, 5, "gelu")
    yield "one_output", case(3, 8, 1)
    yield "no_rows", case(0, 16, 40)
    for activation in ACTIVATIONS:
        yield activation, case(13, 48, 50, activation, spread=3.0)
    x, weight, *rest = case(46, 16, 60, "relu", spread=30.0)
    x[3], x[7, 2], x[9, 1] = float("nan"), float("inf"), -float("inf")
    yield "not_finite", (x, weight, *rest)
    x, weight, *rest = case(46, 40, 120)
    yield "strided", (x[::2, 8:24], weight[::2, 8:24], rest[0][::2], "relu")


def _work(x, weight, bias, activation):
    rows, outputs = x.shape[0], weight.shape[0]
    return (x.numel() + weight.numel() + rows * outputs) * x.element_size(), 2 * rows * weight.numel()


operation = Operation(
    "linear_activation",
    schema="(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor",
    reference=reference.linear_activation,
    fake=_fake,
    samples=_samples,
    work=_work,
    cpp_dtypes=(torch.float32, torch.bfloat16),
)
