"""The interpreter that the Triton kernels are tested with: what it must catch, and bfloat16, which it must compute."""

import interpreted
import pytest
import torch

if interpreted.missing():
    pytest.skip(interpreted.missing(), allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime.errors import InterpreterError  # noqa: E402

pytestmark = pytest.mark.gpu


@triton.jit
def copy_kernel(source, target, first, last, stride, LOADS: tl.constexpr, STORES: tl.constexpr, BLOCK: tl.constexpr):
    """target[first:last] = source[first:last], each access masked or not."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wanted = (i >= first) & (i < last)
    values = tl.load(source + i * stride, wanted) if LOADS else tl.load(source + i * stride)
    if STORES:
        tl.store(target + i, values, wanted)
    else:
        tl.store(target + i, values)


@pytest.mark.parametrize(
    "size, first, last, stride, loads, stores, message",
    [
        (50, 3, 50, 1, True, True, None),
        (64, 0, 64, 1, False, False, None),
        (50, 0, 50, 1, False, True, "load: 14 of 32 addresses"),  # one past the end and on
        (50, 0, 51, 1, True, True, "load: 1 of 19 addresses"),
        (50, -1, 50, 1, True, True, None),
        (50, 0, 50, 1, True, False, "store: 14 of 32 addresses"),
        (50, 0, 50, 2, True, True, "load: 7 of 32 addresses"),  # behind the end, in front of what lies there
    ],
)
def test_addresses_are_those_of_elements(size, first, last, stride, loads, stores, message):
    source, target = torch.randn(size), torch.zeros(size)
    call = lambda: copy_kernel[(2,)](source, target, first, last, stride, loads, stores, BLOCK=32)  # noqa: E731
    if message:
        with pytest.raises(InterpreterError, match=message):
            call()
    else:
        call()
        expected = torch.zeros(size)
        expected[max(first, 0) : last] = source[max(first, 0) : last]
        assert torch.equal(target, expected)


def test_elements_between_those_of_a_strided_tensor_are_outside():
    both = torch.randn(32, 2)
    target = torch.zeros(32)
    copy_kernel[(1,)](both[:, 0], target, 0, 32, 2, True, True, BLOCK=32)
    assert torch.equal(target, both[:, 0])
    with pytest.raises(InterpreterError, match="load: 16 of 32 addresses"):
        copy_kernel[(1,)](both[:, 0], target, 0, 32, 1, True, True, BLOCK=32)
    with pytest.raises(InterpreterError, match="store: 16 of 32 addresses"):
        copy_kernel[(1,)](target, both[:16, 1].expand(1, 16), 0, 32, 1, True, True, BLOCK=32)


@triton.jit
def atomic_kernel(target, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(target + i, 1.0, i < n)


def test_atomic_addresses_are_checked():
    target = torch.zeros(5)
    atomic_kernel[(3,)](target, 5, BLOCK=8)
    assert target.tolist() == [3.0] * 5
    with pytest.raises(InterpreterError, match="atomic: 1 of 6 addresses"):
        atomic_kernel[(1,)](target, 6, BLOCK=8)


@triton.jit
def product_kernel(a, b, c, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    product = tl.dot(tl.load(a + i * SIZE + j), tl.load(b + i * SIZE + j))
    tl.store(c + i * SIZE + j, product.to(c.dtype.element_ty))


def test_bfloat16_products_are_right():
    a, b = (torch.randn(32, 32).bfloat16() for _ in range(2))
    exact, rounded = torch.zeros(32, 32), torch.zeros(32, 32, dtype=torch.bfloat16)
    product_kernel[(1,)](a, b, exact, SIZE=32)
    product_kernel[(1,)](a, b, rounded, SIZE=32)
    torch.testing.assert_close(exact, a.float() @ b.float())
    assert torch.equal(rounded, exact.bfloat16())  # to nearest even, as devices round


def test_float32_products_are_chains_of_fused_multiply_adds():
    """The same bits on every processor, whatever BLAS NumPy has there."""
    a, b, c = torch.zeros(16, 16), torch.zeros(16, 16), torch.zeros(16, 16)
    half = 2.0**-24  # of the last place of 1: a tie, which goes to the even 1
    a[0, :3], a[1, :3] = torch.tensor([1.0, half, half]), torch.tensor([half, half, 1.0])
    a[2, :2] = torch.tensor([-1.0, 1 + 2.0**-12])
    b[:3, 0], b[:2, 1] = 1.0, torch.tensor([1 + 2.0**-11, 1 + 2.0**-12])
    product_kernel[(1,)](a, b, c, SIZE=16)
    assert c[:2, 0].tolist() == [1.0, 1 + 2 * half]
    assert c[2, 1].item() == half  # of an exact square


@triton.jit
def sum_kernel(a, b, c, WIDEN: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x, y = tl.load(a + i), tl.load(b + i)
    if WIDEN:
        x, y = x.to(tl.float32), y.to(tl.float32)
    tl.store(c + i, (x + y).to(tl.bfloat16))


def test_other_arithmetic_in_bfloat16_is_refused():
    a, b, c = (torch.randn(16).bfloat16() for _ in range(3))
    sum_kernel[(1,)](a, b, c, WIDEN=True, SIZE=16)
    assert torch.equal(c, a + b)
    with pytest.raises(InterpreterError, match="arithmetic in bfloat16"):
        sum_kernel[(1,)](a, b, c, WIDEN=False, SIZE=16)
