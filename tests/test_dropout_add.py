"""Dropout from a counter: the generator, the mask's share, independence and sameness, gradients, errors."""

from itertools import product

import pytest
import torch
from errors import assert_refused

from janus_fast import ops
from janus_fast.ops import _native, dropout_add
from janus_fast.reference.dropout_add import random_bits

SEED = torch.tensor(1234567890123456789)


def mask(shape, p, seed=SEED, dtype=torch.float32, **options):
    return dropout_add(torch.ones(shape, dtype=dtype), p=p, seed=seed, **options) != 0


def philox(counter: int, key: int) -> list[int]:
    """One block of Philox4x32-7 in Python's integers, as section 3.3 of Salmon et al. 2011 has it."""
    c, k = [counter >> 32 * i & 0xFFFFFFFF for i in range(4)], [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("seed", [0, 7, -1, 2**62 + 12345])
def test_bits_are_philox_s(seed):
    bits = random_bits(200, torch.tensor(seed))
    for element in (0, 1, 15, 16, 63, 64, 100, 199):
        group, within = divmod(element, 64)
        assert bits[element] == philox(16 * group + within % 16, seed)[within // 16]


def test_the_mask_is_the_same_whatever_computes_it():
    shape, truth = (301, 512), random_bits(301 * 512, SEED).view(301, 512) >= int(0.3 * 2**32)
    threads = torch.get_num_threads()
    try:
        for isa, count, dtype in product(_native.isas(), (1, 3), (torch.float32, torch.bfloat16)):
            torch.set_num_threads(count)
            with _native.use_isa(isa):
                assert torch.equal(mask(shape, 0.3, dtype=dtype, backend="cpp"), truth), (isa, count, dtype)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(mask(shape, 0.3, backend="reference"), truth)
    assert torch.equal(mask(shape, 0.3, dtype=torch.float64), truth)


def test_elements_are_dropped_independently():
    """Shares of dropped elements, of pairs and of pairs of calls lie within five standard deviations."""
    n, p = 2**20, 0.3
    dropped = ~mask((n,), p)
    others = {f"lag {lag}": dropped.roll(lag) for lag in (1, 16, 64, 512)}
    others |= {f"seed + {step}": ~mask((n,), p, SEED + step) for step in (1, 2**32)}
    assert abs(dropped.double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    for name, other in others.items():
        both = (dropped & other).double().mean()
        assert abs(both - p * p) < 5 * (p * p * (1 - p * p) / n) ** 0.5, name


def test_the_seed_comes_from_torch_s_generator():
    x = torch.randn(40, 64)
    results = []
    for _ in range(2):
        torch.manual_seed(11)
        results += [dropout_add(x, p=0.3), dropout_add(x, p=0.3)]
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize("backend", ops.backends("dropout_add"))
@pytest.mark.parametrize("dtype, residual_dtype", [
    (torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)
])  # fmt: skip
def test_gradients_are_dropped_by_the_same_mask(backend, dtype, residual_dtype):
    make = torch.Generator().manual_seed(2)
    x = torch.randn(33, 70, generator=make).to(dtype).requires_grad_()
    residual = torch.randn(33, 70, generator=make).to(residual_dtype).requires_grad_()
    output = dropout_add(x, residual, p=0.4, seed=SEED, backend=backend)
    kept = mask(x.shape, 0.4)
    scaled = torch.where(kept, x.double() / 0.6, 0.0)
    expected = scaled + residual.double()
    # The factor, the product and the sum are each rounded once.
    budget = torch.finfo(residual_dtype).eps * (scaled.abs() + expected.abs() / 2)
    assert output.dtype == residual_dtype and ((output.double() - expected).abs() <= budget).all()
    gradient = torch.randn(70, 33, generator=make).to(residual_dtype).T  # not contiguous
    by_x, by_residual = torch.autograd.grad(output, (x, residual), gradient)
    assert by_x.dtype == dtype and torch.equal(by_residual, gradient)
    torch.testing.assert_close(
        by_x.double(), torch.where(kept, gradient.double() / 0.6, 0.0), rtol=torch.finfo(dtype).eps, atol=0
    )
    (alone,) = torch.autograd.grad(dropout_add(x, residual.detach(), p=0.4, seed=SEED, backend=backend), x, gradient)
    assert torch.equal(alone, by_x)


def test_what_is_dropped_is_zero_even_where_it_is_no_number():
    x = torch.full((64, 64), float("nan"))
    for backend in ops.backends("dropout_add"):
        assert torch.equal(dropout_add(x, p=0.5, seed=SEED, backend=backend).isnan(), mask(x.shape, 0.5))


def test_no_mask_is_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        dropout_add(torch.randn(64, 64, requires_grad=True), torch.randn(64, 64), p=0.3)
    assert kept == [1]


def test_it_compiles_without_a_graph_break():
    x, residual = (torch.randn(9, 33, requires_grad=True) for _ in range(2))

    def apply(x, residual):
        return dropout_add(x.sin(), residual, p=0.3, seed=SEED).cos()

    results = []
    for function in (apply, torch.compile(apply, fullgraph=True, backend="aot_eager")):
        output = function(x, residual)
        results.append([output, *torch.autograd.grad(output.sum(), (x, residual))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_graph_draws_its_own_seeds():
    x, draw = torch.ones(9, 33), torch.compile(dropout_add, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    first, second = draw(x, p=0.3), draw(x, p=0.3)
    torch.manual_seed(0)
    assert not torch.equal(first, second) and torch.equal(draw(x, p=0.3), first)


X = torch.zeros(4, 8)
ERRORS = {
    "integers": (lambda: dropout_add(X.long(), p=0.1), TypeError,
                 "dropout_add: x must be a floating-point tensor, got torch.int64"),
    "p": (lambda: dropout_add(X, p=1.0), ValueError, "dropout_add: p must be in [0, 1), got 1.0"),
    "shape": (lambda: dropout_add(X, X[:3], p=0.1), ValueError,
              "dropout_add: residual must have the shape of x, [4, 8], got [3, 8]"),
    "dtype": (lambda: dropout_add(X, X.bfloat16(), p=0.1), TypeError,
              "dropout_add: residual must have the dtype of x, torch.float32, or float32, got torch.bfloat16"),
    "device": (lambda: dropout_add(X, X.to("meta"), p=0.1), ValueError,
               "dropout_add: residual must be on the device of x, cpu, got meta"),
    "seed": (lambda: dropout_add(X, p=0.1, seed=torch.zeros(2)), TypeError,
             "dropout_add: seed must be an int64 tensor of shape [], got torch.float32 [2]"),
    "backend": (lambda: dropout_add(X.double(), p=0.1, backend="cpp"), NotImplementedError,
                "dropout_add: backend must be able to run this call, got 'cpp': it takes float32, bfloat16, not "
                "torch.float64"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_what_is_wrong(name):
    assert_refused(*ERRORS[name])
