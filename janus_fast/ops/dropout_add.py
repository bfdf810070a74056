"""Dropout whose mask is never stored, and the residual that it is added to."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, normal


def dropout_add(
    x: Tensor, residual: Tensor | None = None, *, p: float, seed: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """``residual + dropout(x)`` in one pass, or ``dropout(x)``; the mask follows from a seed and is not stored.

    Computes, with ``bits[i]`` the 32 random bits of element i in the order of memory,

        output[i] = (bits[i] >= int(p * 2**32)) ? x[i] / (1 - p) : 0
        return residual + output

    The bits are Philox4x32's with seven rounds, the seed as key and i as counter (``reference/dropout_add.py`` says
    which word of which block), so that a mask depends on neither threads, instruction set, device nor dtype.

    Args:
        x: any shape; float32 or bfloat16, with Triton also float16 (other floating types: reference).
        residual: shape and device of ``x``, its dtype or float32.
        p: the probability with which an element is dropped, in [0, 1).
        seed: [] int64 on the device of ``x``. By default torch's generator of that device draws one in each call, so
            that ``torch.manual_seed`` governs.
        backend: "auto" or one of ``janus_fast.backends("dropout_add", device)``.
    Returns:
        The shape of ``x`` in the dtype of ``residual`` (without one, of ``x``), computed in float32. Differentiable
        in ``x`` and ``residual``, as often as you like: ``x`` gets dropout of the gradient, the same mask drawn again.
    Raises:
        ValueError: shapes or devices differ, or p is out of range.
        TypeError: dtypes do not fit, a tensor is sparse, or p is no number.
        NotImplementedError: the named backend cannot run this call.
    Source: Srivastava et al. 2014; the generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    op = "dropout_add"
    _check.floating(op, "x", x)
    _check.numbers(op, p=p)
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{op}: p must be in [0, 1), got {p}")
    if residual is not None:
        _check.floating(op, "residual", residual)
        residual = _check.autocast_residual(residual, x)
        if residual.shape != x.shape:
            raise ValueError(f"{op}: residual must have the shape of x, {list(x.shape)}, got {list(residual.shape)}")
        if residual.dtype not in (x.dtype, torch.float32):
            raise TypeError(f"{op}: residual must have the dtype of x, {x.dtype}, or float32, got {residual.dtype}")
        _check.same(op, ("x", x), ("residual", residual), dtype=False)
    if seed is None:
        seed = torch.randint(2**63 - 1, (), device=x.device)  # random_ would end a graph of torch.compile
    else:
        _check.tensor(op, "seed", seed)
        if seed.ndim != 0 or seed.dtype != torch.int64:
            raise TypeError(f"{op}: seed must be an int64 tensor of shape [], got {seed.dtype} {list(seed.shape)}")
        _check.same(op, ("x", x), ("seed", seed), dtype=False)
    x, residual = x.contiguous(), None if residual is None else residual.contiguous()
    return operation.run(operation.choose(backend, x, residual), x, residual, float(p), seed)


def _keep(ctx, results, x, residual, p, seed, dtype=None):
    return x.dtype, residual is not None, p, seed


def _backward(ctx, gradient, dtype, added, p, seed):
    """For a given mask dropout is linear, and its own transpose."""
    grad_x = None
    if ctx.needs_input_grad[0]:
        backend = operation.choose(ctx.backend, gradient)
        grad_x = operation.run(backend, gradient.contiguous(), None, p, seed, dtype)
    return grad_x, gradient if added else None, None, None, None


def _fake(x, residual, p, seed, dtype=None):
    return x.new_empty(x.shape, dtype=(dtype or x.dtype) if residual is None else residual.dtype)


def _samples():
    make = torch.Generator().manual_seed(6)

    def case(shape, p, added=True, spread=1.0):
        x = normal(make, *shape) * spread
        residual = normal(make, *shape) if added else None
        return x, residual, p, torch.randint(2**62, (), generator=make)

    yield "rows", case((37, 128), 0.3)
    yield "odd_sizes", case((5, 7, 3), 0.5)
    yield "alone", case((29, 40), 0.1, added=False)
    yield "many", case((61, 128), 0.3)
    yield "one_element", case((1,), 0.2)
    yield "nothing", case((0, 16), 0.3)
    yield "nothing_dropped", case((9, 64), 0.0)
    yield "nearly_everything_dropped", case((9, 64), 0.999)
    yield "extreme_values", case((11, 64), 0.3, spread=1e30)
    for label, seed in (("lowest_seed", -(2**63)), ("zero_seed", 0), ("minus_one", -1)):
        yield label, (*case((4, 65), 0.4)[:3], torch.tensor(seed))


def _work(x, residual, *rest):
    return (2 + (residual is not None)) * x.numel() * x.element_size(), 2 * x.numel()


operation = Operation(
    "dropout_add",
    schema="(Tensor x, Tensor? residual, float p, Tensor seed, ScalarType? dtype=None) -> Tensor",
    reference=reference.dropout_add,
    fake=_fake,
    samples=_samples,
    work=_work,
    keep=_keep,
    backward=_backward,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
)
