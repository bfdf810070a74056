"""How far a right result may be from the truth: twice what the definition errs in the type at hand, and one unit in the
last place of the largest true value. Tests and benchmarks allow the same.

What the definition errs hangs on the order in which a machine's BLAS adds up products. Where few numbers are compared,
one lucky order would refuse right kernels; so tests of operations compute it ``in_fixed_order``. Benchmarks, and tests
of whole models, compare so many that the largest error hardly depends on it: they take torch's own products.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm, aten.bmm, aten.addmm, aten.addmm_, aten.addbmm, aten.addbmm_, aten.baddbmm, aten.baddbmm_, aten.mv,
    aten.addmv, aten.addmv_, aten.dot, aten.vdot, aten.linear, aten.convolution,
}  # fmt: skip
BLOCK = 256  # terms of a sum


def allowed(error: float, size: float, dtype: torch.dtype) -> float:
    """For what the definition errs in ``dtype``, and the size of the truth."""
    return 2 * error + torch.finfo(dtype).eps * size


def error(result: Tensor, truth: Tensor) -> float:
    """The largest, where the truth is finite; of integers and booleans, which must be equal, whether there is one."""
    if not truth.is_floating_point():
        return float(not torch.equal(result, truth))
    finite = truth.isfinite()
    return (result.double() - truth)[finite].abs().max().item() if finite.any() else 0.0


def largest(truth: Tensor) -> float:
    """Absolute value that is finite."""
    return error(torch.zeros_like(truth), truth)


class in_fixed_order(TorchDispatchMode):  # noqa: N801, a context
    """Matrix products below float64 are added up in float32, each product exact: chains of fused multiply-adds, as
    kernels and most libraries compute an element, and nearly the worst of the usual orders. (Each sum is rounded to
    float64 and then to float32, which differs from one rounding only next to a tie.) Like theirs, long sums are put
    together from blocks. The results are the same on every machine; products that would not be are refused."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket in PRODUCTS and arguments[0].dtype != torch.float64:
            if function not in (aten.mm.default, aten.bmm.default):
                raise NotImplementedError(f"in_fixed_order: products must be mm or bmm, got {function}")
            return _product(*arguments)
        return function(*arguments, **(options or {}))


def _product(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float32)
    for left, right in zip(a.double().split(BLOCK, -1), b.double().split(BLOCK, -2), strict=True):
        chain = a.new_zeros((*a.shape[:-1], b.shape[-1]), dtype=torch.float64)
        for column, row in zip(left.unbind(-1), right.unbind(-2), strict=True):
            chain.addcmul_(column[..., None], row[..., None, :])
            chain.copy_(chain.float())
        total = total + chain.float()
    return total.to(a.dtype)
