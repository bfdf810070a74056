"""One suite for every operation: every kernel, instruction set and dtype against the definition in float64.

Triton kernels run on a GPU where there is one; elsewhere they are interpreted, every address checked. The native CUDA
kernels run on a GPU where there is one, and in the emulator of tests/simt.

What a result may err is derived from the data, on every machine alike (benchmarks/budget.py). Integers, booleans,
infinities and NaN must be equal.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from itertools import product

import emulated
import interpreted
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from benchmarks.budget import allowed, error, in_fixed_order, largest
from janus_fast import ops
from janus_fast.ops import _native
from janus_fast.ops._operation import as_tuple, normal

SAMPLES = {name: dict(operation.samples()) for name, operation in ops.OPERATIONS.items()}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the Triton kernels
# Of each Triton kernel: the keywords that choose its tiles. Samples are small, so that tiles as small as can be have
# several of everything, and those that the kernel chooses are one.
TILES: dict[str, list[dict]] = {"attention": [{"BLOCK_M": 16, "BLOCK_N": 16}], "dropout_add": [{"blocks": 16}]}
# The same of each CUDA kernel, and the order of threads: 0 is in order.
CUDA_TILES = {"attention": [(0, 0), (2, 32), (1, 32), (4, 96)], "decoder_step": [(0, 0), (1, 32), (5, 96)]}
SEEDS = (0, 1, 2, 3)
LARGE = 100_000  # elements of a sample that has several of the kernel's own tiles


def cases(backend: str) -> list:
    return [
        pytest.param(name, dtype, label, id=f"{name}-{str(dtype).removeprefix('torch.')}-{label}")
        for name, operation in ops.OPERATIONS.items()
        for dtype in getattr(operation, f"{backend}_dtypes")
        for label, arguments in SAMPLES[name].items()
        if operation.limits(backend, *arguments) is None
    ]


@pytest.fixture(params=_native.isas() or ["not built"])
def isa(request):
    assert _native.missing is None, _native.missing
    with _native.use_isa(request.param):
        yield request.param


def cast(arguments: tuple, dtype: torch.dtype) -> list:
    """Floating-point tensors in another dtype; those that have it keep their strides."""
    return [a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]


def run_in(operation, call: Callable, arguments: list) -> list[Tensor]:
    """Results, and behind them what is written in place, here of copies."""
    copied = [a.clone() if i in operation.written() else a for i, a in enumerate(arguments)]
    return [*as_tuple(call(*copied)), *(copied[i] for i in operation.written())]


def definition(operation, arguments: list, seed: Tensor | None = None) -> list[Tensor | None]:
    """Results of the reference, and its gradients for ``seed``, the gradient of the first result."""
    leaves = [a.detach().requires_grad_() if i in operation.differentiable() else a for i, a in enumerate(arguments)]
    outputs = run_in(operation, operation.reference, leaves)
    if not operation.gradients:
        return outputs
    wanted = [leaf for i, leaf in enumerate(leaves) if i in operation.differentiable()]
    gradients = torch.autograd.grad(outputs[0], wanted, seed.to(outputs[0].dtype), materialize_grads=True)
    return [*(o.detach() for o in outputs), *gradients]


def native(operation, arguments: list, seed: Tensor | None = None) -> list[Tensor]:
    arguments = [a if not isinstance(a, Tensor) or a.ndim > 1 else a.contiguous() for a in arguments]
    outputs = run_in(operation, operation.kernel("cpp"), arguments)
    if not operation.gradients:
        return outputs
    backward = getattr(torch.ops.janus_fast, f"{operation.name}_bwd").default
    return [*outputs, *backward(seed.to(outputs[0].dtype), *outputs, *arguments)]


def by_triton(operation, arguments: list, seed: Tensor | None = None, **tiles) -> list[Tensor]:
    kernels = import_module(f"janus_fast.kernels.{operation.name}")
    arguments = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments]
    arguments = [a if not isinstance(a, Tensor) or a.ndim > 1 else a.contiguous() for a in arguments]
    outputs = list(as_tuple(getattr(kernels, operation.name)(*arguments, **tiles)))
    gradients = ()
    if operation.gradients:
        seed = seed.to(DEVICE, outputs[0].dtype)
        gradients = getattr(kernels, f"{operation.name}_bwd")(seed, *outputs, *arguments, **tiles)
    return [t.cpu() for t in (*outputs, *gradients)]


def by_cuda(operation, arguments: list, seed: Tensor | None = None) -> list[Tensor]:
    arguments = [a.to("cuda") if isinstance(a, Tensor) else a for a in arguments]
    arguments = [a if not isinstance(a, Tensor) or a.ndim > 1 else a.contiguous() for a in arguments]
    return [t.cpu() for t in run_in(operation, operation.kernel("cuda"), arguments)]


@pytest.mark.parametrize("name, dtype, label", cases("cpp"))
def test_native_kernel_computes_the_definition(name, dtype, label, isa):
    check(name, dtype, label, native)


@pytest.mark.gpu
@pytest.mark.parametrize("name, dtype, label", cases("triton"))
def test_triton_kernel_computes_the_definition(name, dtype, label):
    if DEVICE == "cpu" and interpreted.missing():
        pytest.skip(interpreted.missing())
    large = max(a.numel() for a in SAMPLES[name][label] if isinstance(a, Tensor)) > LARGE
    # Interpreted, which takes long, small tiles are of one type: they decide what is read, the type how it is computed.
    own = large or DEVICE == "cpu" and dtype != torch.float32
    for tiles in [{}, *TILES.get(name, [])][: 1 if own else None]:
        check(name, dtype, label, partial(by_triton, **tiles))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU, where make gpu runs it: no CUDA device is found here")
@pytest.mark.parametrize("name, dtype, label", cases("cuda") if DEVICE == "cuda" else [("every operation", None, None)])
def test_cuda_kernel_computes_the_definition(name, dtype, label):
    check(name, dtype, label, by_cuda, gradients=False)


@pytest.mark.gpu
@pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one")
@pytest.mark.parametrize("name, dtype, label", cases("cuda"))
def test_cuda_kernel_computes_the_definition_in_the_emulator(name, dtype, label):
    for seed, tiles in product(SEEDS, CUDA_TILES.get(name, [()])):
        run = partial(getattr(emulated, name), emulated.Emulator(seed))
        call = lambda *arguments: run(*arguments, *tiles)  # noqa: B023, E731
        check(name, dtype, label, lambda operation, given, _: run_in(operation, call, given), gradients=False)  # noqa: B023


def shape_of(operation, arguments: list) -> torch.Size:
    """Of the first result, or of a number where an operation has none, as it writes in place."""
    results = as_tuple(operation.fake(*arguments))
    return results[0].shape if results else torch.Size([])


@cache
def expected(name: str, dtype: torch.dtype, label: str) -> tuple[list, Tensor, list[Tensor], list[float]]:
    """Arguments, gradient of the first result, true results with gradients, and what the definition errs in each."""
    operation, arguments = ops.OPERATIONS[name], cast(SAMPLES[name][label], dtype)
    exact = cast(arguments, torch.float64)
    seed = normal(torch.Generator().manual_seed(5), *shape_of(operation, exact)).to(dtype).double()
    truths = definition(operation, exact, seed)
    # The truth of a float64 kernel is itself rounded to float64, so there the error is float32's, scaled.
    measured = torch.float32 if dtype == torch.float64 else dtype
    with in_fixed_order():
        by_torch = definition(operation, cast(arguments, measured), seed)
    scale = torch.finfo(dtype).eps / torch.finfo(measured).eps
    return arguments, seed, truths, [scale * error(*pair) for pair in zip(by_torch, truths, strict=True)]


def check(name: str, dtype: torch.dtype, label: str, compute: Callable, gradients: bool = True) -> None:
    operation = ops.OPERATIONS[name]
    arguments, seed, truths, errors = expected(name, dtype, label)
    count = len(truths) - len(operation.gradients)
    labels = [*(f"output {i}" for i in range(count)), *operation.gradients]
    results = compute(operation, arguments, seed)
    assert len(results) == (len(truths) if gradients else count)
    for what, truth, by_torch, result in zip(labels, truths, errors, results, strict=False):
        assert result.shape == truth.shape, what
        if not result.is_floating_point():
            assert torch.equal(result, truth.to(result.dtype)), what
            continue
        finite = truth.isfinite()
        torch.testing.assert_close(result[~finite].double(), truth[~finite], equal_nan=True, msg=what)
        budget = allowed(by_torch, largest(truth), result.dtype)
        assert error(result, truth) <= budget, f"{what}: error {error(result, truth):.3g}, budget {budget:.3g}"


def test_products_in_fixed_order_are_chains_of_fused_multiply_adds():
    """Each product exact, each sum rounded, and blocks added up: the same bits on every machine."""
    half = 2.0**-24  # of the last place of 1: a tie, which goes to the even 1
    a = torch.tensor([[1.0, half, half], [half, half, 1.0], [-1.0, 1 + 2.0**-12, 0.0]])
    b = torch.tensor([[1.0], [1.0], [1.0]])
    square = torch.tensor([[1 + 2.0**-11], [1 + 2.0**-12], [0.0]])  # minus the first: 2 ** -24, lost if rounded
    long = torch.full((1, 300), half)  # behind a 1 in each block
    long[0, [0, 256]] = 1.0
    with in_fixed_order():
        assert (a @ b).tolist() == [[1.0], [1 + 2 * half], [2.0**-12]]
        assert (a[2:] @ square).item() == half
        assert (long @ torch.ones(300, 1)).item() == 2.0
        assert (long.bfloat16() @ torch.ones(300, 1).bfloat16()).item() == 2.0
        assert (long[:, 1:256] @ torch.ones(255, 1)).item() == 255 * half
        assert torch.equal(a.double() @ b.double(), a.double().sum(1, keepdim=True))
        assert torch.equal(a.double() @ b[:, 0].double(), a.double().sum(1))
        for product in (
            lambda: a @ b[:, 0],
            lambda: a[0] @ b[:, 0],
            lambda: torch.addmm(a, a, a),
            lambda: F.linear(a, a, a[0]),
        ):
            with pytest.raises(NotImplementedError, match="^in_fixed_order: products must be mm or bmm, got aten"):
                product()


def test_a_running_sum_in_float32_is_refused():
    """Of the exponentials of a row of 4,097 words; the sum by halves of the definition, and of the kernels, is not."""
    arguments = torch.ones(1, 64), torch.zeros(4097, 64), None
    arguments[1][0] = 1 / 64  # logits 1, 0, 0, ...: each term is rounded the same way
    truth = ops.OPERATIONS["linear_argmax"].reference(*cast(arguments, torch.float64))[1]
    with in_fixed_order():
        by_torch = ops.OPERATIONS["linear_argmax"].reference(*arguments)[1]
    budget = allowed(error(by_torch, truth), largest(truth), torch.float32)
    logits = arguments[0] @ arguments[1].T
    best = logits.amax(-1)
    total = torch.zeros(1)
    for column in (logits - best[:, None]).exp().unbind(-1):
        total += column
    assert error(-total.log(), truth) > 3 * budget
    assert error(torch.ops.janus_fast.linear_argmax(*arguments)[1], truth) <= budget


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_operator_is_registered_as_torch_wants_it(name):
    operation = ops.OPERATIONS[name]
    for label, arguments in SAMPLES[name].items():
        arguments = [a.contiguous() if isinstance(a, Tensor) else a for a in arguments]
        if label in ("strided", "odd_sizes", "intervals", "half", "window"):
            kernel = operation.kernel("cpp")
            torch.library.opcheck(kernel, arguments)
            if operation.gradients:
                backward = getattr(torch.ops.janus_fast, f"{name}_bwd").default
                torch.library.opcheck(
                    backward, [torch.ones(shape_of(operation, arguments)), *as_tuple(kernel(*arguments)), *arguments]
                )


@pytest.mark.parametrize("name", [name for name, operation in ops.OPERATIONS.items() if operation.cpp_dtypes])
def test_results_do_not_depend_on_threads(name):
    for label, arguments in SAMPLES[name].items():
        arguments = cast(arguments, torch.float32)
        seed = torch.ones(shape_of(ops.OPERATIONS[name], arguments))
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


# Derivatives, through the function that chooses a backend. Kernels that take float32 alone are compared with the
# definition in float64; the samples are small, well-scaled, and have no ties.

SMALL = {"attention": "intervals", "update_mask": "half", "predict_lengths": "topk_odd_sizes"}
FIRST_ALONE = ("attention", "joint_loss", "trained_linear")  # on the CPU, where add_layer_norm is its definition
DERIVED = [name for name, operation in ops.OPERATIONS.items() if operation.backward is not None]
RUNS = [(name, backend) for name in DERIVED for backend in ("auto", *ops.backends(name))]
KERNELS = [(name, "cpp") for name in DERIVED if "cpp" in ops.backends(name)]
NARROW = [run for run in RUNS if run[1] != "cpp" or torch.bfloat16 in ops.OPERATIONS[run[0]].cpp_dtypes]


def function(name: str, backend: str, dtype=torch.float32, computed=None) -> tuple[Callable, tuple[Tensor, ...]]:
    """Of an operation's floating-point tensors: its first floating-point result; and these tensors.

    They are numbers of ``dtype``, which another may hold that is ``computed`` in.
    """
    operation, arguments = ops.OPERATIONS[name], cast(SAMPLES[name][SMALL.get(name, "odd_sizes")], dtype)
    arguments = [a.contiguous() if isinstance(a, Tensor) else a for a in cast(arguments, computed or dtype)]
    places = [i for i, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()]

    def call(*tensors: Tensor) -> Tensor:
        given = list(arguments)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        chosen = operation.choose(backend, *given[places[0] :])
        if name == "joint_loss":
            given[10] = chosen != "reference"
        return next(r for r in as_tuple(operation.run(chosen, *given)) if r.is_floating_point())

    return call, tuple(arguments[place] for place in places)


@cache
def truths_of(derive: Callable, name: str, dtype: torch.dtype) -> list[tuple[Tensor, float]]:
    """What ``derive`` makes of the definition in float64, and what the definition errs in ``dtype``."""
    truths = derive(*function(name, "reference", dtype, torch.float64))
    with in_fixed_order():
        by_torch = derive(*function(name, "reference", dtype))
    return [(truth, error(result, truth)) for result, truth in zip(by_torch, truths, strict=True)]


def assert_near(results, derive: Callable, name: str, copies: int | None = None, dtype=torch.float32) -> None:
    """Near ``derive`` of the definition, or near as many copies of it."""
    for i, (result, (truth, by_torch)) in enumerate(zip(results, truths_of(derive, name, dtype), strict=True)):
        truth = truth if copies is None else truth.expand(copies, *truth.shape)
        assert result.dtype == dtype and result.shape == truth.shape
        assert truth.any()
        budget = allowed(by_torch, largest(truth), result.dtype)
        assert error(result, truth) <= budget, f"{i}: error {error(result, truth):.3g}, budget {budget:.3g}"


def loss_of(call: Callable) -> Callable:
    return lambda *tensors: call(*tensors).sin().sum()


def leaves_of(tensors) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def gradients_of(call: Callable, tensors) -> tuple[Tensor, ...]:
    leaves = leaves_of(tensors)
    return torch.autograd.grad(loss_of(call)(*leaves), leaves)


@pytest.mark.parametrize("name, backend", RUNS)
def test_gradients_are_the_definition_s_however_they_are_asked_for(name, backend):
    call, tensors = function(name, backend)
    loss, near, every = loss_of(call), partial(assert_near, derive=gradients_of, name=name), tuple(range(len(tensors)))
    near(gradients_of(call, tensors))
    near(torch.func.grad(loss, every)(*tensors))
    near(torch.func.vjp(loss, *tensors)[1](torch.ones(())))
    leaves = leaves_of(tensors)
    near(torch.autograd.grad(torch.utils.checkpoint.checkpoint(loss, *leaves, use_reentrant=False), leaves))
    if (name, backend) not in [("update_mask", "reference"), ("predict_lengths", "reference")]:  # not under vmap
        several = [torch.stack([t, t]) for t in tensors]
        near(torch.func.vmap(torch.func.grad(loss, every))(*several), copies=2)
        near(torch.func.grad(lambda *s: torch.func.vmap(loss)(*s).sum(), every)(*several), copies=2)


@pytest.mark.parametrize("name, backend", NARROW)
def test_gradients_in_bfloat16_are_the_definition_s(name, backend):
    call, tensors = function(name, backend, torch.bfloat16)
    every, near = tuple(range(len(tensors))), partial(assert_near, derive=gradients_of, name=name, dtype=torch.bfloat16)
    near(gradients_of(call, tensors))
    near(torch.func.grad(loss_of(call), every)(*tensors))


def test_one_tensor_as_several_arguments():
    torch._dynamo.reset()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    call = lambda hidden, weight: ops.linear_argmax(hidden, weight)[1].sin().sum()  # noqa: E731
    truth = sum(torch.func.grad(call, argnums=(0, 1))(x, x.clone()))
    for function_of_it in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        result = torch.autograd.grad(function_of_it(leaf := x.clone().requires_grad_(), leaf), leaf)[0]
        torch.testing.assert_close(result, truth)
    torch.testing.assert_close(torch.func.grad(lambda y: call(y, y))(x), truth)


def penalty(call: Callable, tensors) -> tuple[Tensor, ...]:
    """Gradients of factors in sum + |gradients of the sum|^2: the gradient that comes in needs none itself."""
    leaves, factors = leaves_of(tensors), leaves_of([t.new_ones(()) for t in tensors])
    total = call(*(leaf * factor for leaf, factor in zip(leaves, factors, strict=True))).sum()
    gradients = torch.autograd.grad(total, leaves, create_graph=True)
    return torch.autograd.grad(total + sum(g.square().sum() for g in gradients), factors)


def twice(call: Callable, tensors) -> tuple[Tensor, ...]:
    every = tuple(range(len(tensors)))
    return torch.func.grad(lambda *t: sum(g.sum() for g in torch.func.grad(loss_of(call), every)(*t)), every)(*tensors)


@pytest.mark.parametrize("name, backend", RUNS)
def test_second_derivatives_are_right_or_refused(name, backend):
    call, tensors = function(name, backend)
    for derive in (penalty, twice):
        if name in FIRST_ALONE and backend != "reference":
            refused = f"^{name}: backend must be 'reference' for second derivatives, got 'cpp'$"
            with pytest.raises(NotImplementedError, match=refused):
                derive(call, tensors)
        else:
            assert_near(derive(call, tensors), derive, name)


def jvps(call: Callable, tensors) -> list[Tensor]:
    """One for each tensor, of itself as its tangent."""
    results = []
    for i, t in enumerate(tensors):
        of_one = lambda x, i=i: call(*tensors[:i], x, *tensors[i + 1 :])  # noqa: E731
        results.append(torch.func.jvp(of_one, (t,), (t,))[1])
    return results


def tangents(call: Callable, tensors) -> list[Tensor]:
    """The same by dual tensors."""
    with forward_ad.dual_level():
        duals = [[forward_ad.make_dual(t, t) if t is one else t for t in tensors] for one in tensors]
        return [forward_ad.unpack_dual(call(*given)).tangent for given in duals]


@pytest.mark.parametrize("derive", [jvps, tangents])
@pytest.mark.parametrize("name", DERIVED)
def test_forward_mode_is_the_definition_s(name, derive):
    assert_near(derive(*function(name, "auto")), jvps, name)


@pytest.mark.parametrize("name, backend", KERNELS)
def test_a_kernel_refuses_forward_mode(name, backend):
    call, tensors = function(name, backend)
    refused = f"^{name}: backend must be able to run this call, got 'cpp': it computes no forward-mode derivatives, "
    for i in range(len(tensors)):
        for derive in (jvps, tangents):
            of_one = lambda x, i=i: call(*tensors[:i], x, *tensors[i + 1 :])  # noqa: E731
            with pytest.raises(NotImplementedError, match=refused + "which backend='reference' does$"):
                derive(of_one, tensors[i : i + 1])


@pytest.mark.parametrize("name, backend", KERNELS)
def test_forward_mode_elsewhere_does_not_concern_a_kernel(name, backend):
    """Of another thread, or of other tensors: torch's level is one number of the whole process."""
    call, tensors = function(name, backend)
    expected = call(*tensors)
    with forward_ad.dual_level(), ThreadPoolExecutor(1) as other:
        assert torch.equal(call(*tensors), expected)
        assert torch.equal(other.submit(call, *tensors).result(timeout=60), expected)


def test_functions_see_the_tangent_of_every_argument():
    """The last floating-point one of each, which a function must hand to the choice of the backend."""
    x, residual, p, seed = SAMPLES["dropout_add"]["odd_sizes"]
    *masks, ratio, token, _, _ = SAMPLES["update_mask"]["half"]
    hidden, weight, bias = SAMPLES["linear_argmax"]["odd_sizes"]
    *sums, shift, eps = SAMPLES["add_layer_norm"]["odd_sizes"]
    *factors, own_bias, relu = SAMPLES["trained_linear"]["odd_sizes"]
    functions = {
        "dropout_add": (lambda t: ops.dropout_add(x, t, p=p, seed=seed), residual),
        "update_mask": (lambda t: ops.update_mask(*masks[:4], t, masks[5], ratio=ratio, mask_token=token)[1], masks[4]),
        "linear_argmax": (lambda t: ops.linear_argmax(hidden, weight, t)[1], bias),
        "linear_topk": (lambda t: ops.linear_topk(hidden, weight, t, k=3)[1], bias),
        "add_layer_norm": (lambda t: ops.add_layer_norm(*sums, t, eps), shift),
        "trained_linear": (lambda t: ops.trained_linear(*factors, t, relu=relu), own_bias),
    }
    for name, (call, tensor) in functions.items():
        tangent = tangents(call, (tensor,))[0]
        assert tangent is not None and tangent.any(), name
        torch.testing.assert_close(tangent, jvps(call, (tensor,))[0], msg=name)


def test_compiled_forward_mode_is_right():
    """torch.compile sees no tangents."""
    torch._dynamo.reset()
    call, tensors = function("linear_argmax", "auto")
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tangents(compiled, tensors), jvps(call, tensors))


@pytest.mark.parametrize("name, backend", KERNELS)
def test_compiled_gradients_are_right(name, backend):
    torch._dynamo.reset()
    call, tensors = function(name, backend)
    compiled, leaves = torch.compile(loss_of(call), fullgraph=True, backend="aot_eager"), leaves_of(tensors)
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), gradients_of(call, tensors))


@pytest.mark.parametrize("name, backend", KERNELS)
def test_what_torch_compile_does_not_see_is_refused(name, backend):
    torch._dynamo.reset()
    call, tensors = function(name, backend)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="torch.compile finds no derivatives of it for torch.func"):
        torch.compile(torch.func.grad(loss_of(call)), fullgraph=True, backend="aot_eager")(*tensors)
