"""One suite for every operation: every native kernel, instruction set and dtype against the definition in float64.

The budget comes from the data: twice the error that plain torch makes in that dtype, and one unit in the last place of
the largest true value. Integers, booleans, infinities and NaN must be equal.
"""

import pytest
import torch
from torch import Tensor

from janus_fast import ops
from janus_fast.ops import _native

SAMPLES = {name: dict(operation.samples()) for name, operation in ops.OPERATIONS.items()}
CASES = [
    pytest.param(name, dtype, label, id=f"{name}-{str(dtype).removeprefix('torch.')}-{label}")
    for name, operation in ops.OPERATIONS.items()
    for dtype in operation.cpp_dtypes
    for label in SAMPLES[name]
]


@pytest.fixture(params=_native.isas() or ["not built"])
def isa(request):
    assert _native.missing is None, _native.missing
    with _native.use_isa(request.param):
        yield request.param


def cast(arguments: tuple, dtype: torch.dtype) -> list:
    """Floating-point tensors in another dtype; those that have it keep their strides."""
    return [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]


def definition(operation, arguments: list, seed: Tensor | None = None) -> list[Tensor | None]:
    """Results of the reference, and its gradients for ``seed``, the gradient of the first result."""
    leaves = [a.detach().requires_grad_() if _has_gradient(operation, i) else a for i, a in enumerate(arguments)]
    outputs = list(operation.reference(*leaves))
    if not operation.gradients:
        return outputs
    wanted = [leaf for i, leaf in enumerate(leaves) if _has_gradient(operation, i)]
    gradients = torch.autograd.grad(outputs[0], wanted, seed.to(outputs[0].dtype), materialize_grads=True)
    return [*(o.detach() for o in outputs), *gradients]


def native(operation, arguments: list, seed: Tensor | None = None) -> list[Tensor]:
    arguments = [a if not isinstance(a, Tensor) or a.ndim > 1 else a.contiguous() for a in arguments]
    outputs = list(operation.native(*arguments))
    if not operation.gradients:
        return outputs
    backward = getattr(torch.ops.janus_fast, f"{operation.name}_bwd").default
    return [*outputs, *backward(seed.to(outputs[0].dtype), *arguments)]


def _has_gradient(operation, index: int) -> bool:
    names = [part.split()[-1] for part in operation.schema.partition(")")[0].removeprefix("(").split(",")]
    return names[index] in operation.gradients


def error(result: Tensor, truth: Tensor) -> float:
    finite = truth.isfinite()
    return (result.double() - truth)[finite].abs().max().item() if finite.any() else 0.0


@pytest.mark.parametrize("name, dtype, label", CASES)
def test_native_kernel_computes_the_definition(name, dtype, label, isa):
    operation, arguments = ops.OPERATIONS[name], SAMPLES[name][label]
    rounded = cast(arguments, dtype)
    exact = cast(rounded, torch.float64)
    seed = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(5)).to(dtype).double()
    truths = definition(operation, exact, seed)
    # The truth of a float64 kernel is itself rounded to float64, so there torch's error is float32's, scaled.
    measured = torch.float32 if dtype == torch.float64 else dtype
    samples_of_torch = definition(operation, cast(rounded, measured), seed)
    results = native(operation, rounded, seed)
    labels = [*(f"output {i}" for i in range(len(truths) - len(operation.gradients))), *operation.gradients]
    for what, truth, by_torch, result in zip(labels, truths, samples_of_torch, results, strict=True):
        assert result.shape == truth.shape, what
        if not result.is_floating_point():
            assert torch.equal(result, truth.to(result.dtype)), what
            continue
        finite = truth.isfinite()
        torch.testing.assert_close(result[~finite].double(), truth[~finite], equal_nan=True, msg=what)
        eps = torch.finfo(result.dtype).eps
        scale = torch.finfo(dtype).eps / torch.finfo(measured).eps
        largest = truth[finite].abs().max().item() if finite.any() else 0.0
        budget = 2 * scale * error(by_torch, truth) + eps * largest
        assert error(result, truth) <= budget, f"{what}: error {error(result, truth):.3g}, budget {budget:.3g}"


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_operator_is_registered_as_torch_wants_it(name):
    operation = ops.OPERATIONS[name]
    for label, arguments in SAMPLES[name].items():
        arguments = [a.contiguous() if isinstance(a, Tensor) else a for a in arguments]
        if label in ("strided", "odd_sizes", "intervals", "half", "window"):
            torch.library.opcheck(operation.native, arguments)
            if operation.gradients:
                backward = getattr(torch.ops.janus_fast, f"{name}_bwd").default
                torch.library.opcheck(backward, [torch.ones_like(arguments[0]), *arguments])


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_results_do_not_depend_on_threads(name):
    for label, arguments in SAMPLES[name].items():
        arguments = cast(arguments, torch.float32)
        seed = torch.ones(arguments[0].shape)
        threads = torch.get_num_threads()
        results = []
        try:
            for count in (1, 3):
                torch.set_num_threads(count)
                results.append(native(ops.OPERATIONS[name], arguments, seed))
        finally:
            torch.set_num_threads(threads)
        for one, three in zip(*results, strict=True):
            torch.testing.assert_close(one, three, rtol=0, atol=0, equal_nan=True, msg=label)
