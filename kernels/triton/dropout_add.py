"""Dropout and the residual in one pass, with a mask that is drawn again where it is needed.

Idea: an element's bits are words of Philox4x32, a function of the seed and of the element's number, as
``reference/dropout_add.py`` lays them out. A program draws neighbouring blocks of the generator; each of their four
words serves runs of 16 neighbouring elements.

Tiles: 256 blocks, 1,024 elements. Bytes: x, the residual and the result once. Integer operations: some 20 an element.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS = tl.constexpr(7)


@triton.jit
def _apply(x, residual, output, element, bits, count, threshold, scale, HAS_RESIDUAL: tl.constexpr):
    inside = element < count
    value = tl.load(x + element, mask=inside, other=0.0).to(tl.float32) * scale
    value = tl.where(bits.to(tl.int64) >= threshold, value, 0.0)
    if HAS_RESIDUAL:
        value += tl.load(residual + element, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + element, value.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "threshold"])
def dropout_add_fwd_kernel(
    x, residual, output, seed, count: tl.int64, threshold: tl.int64, scale, HAS_RESIDUAL: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    a, b, c, d = tl.philox(tl.load(seed), low, high, zero, zero, n_rounds=ROUNDS)
    element = block // 16 * 64 + block % 16
    _apply(x, residual, output, element, a, count, threshold, scale, HAS_RESIDUAL)
    _apply(x, residual, output, element + 16, b, count, threshold, scale, HAS_RESIDUAL)
    _apply(x, residual, output, element + 32, c, count, threshold, scale, HAS_RESIDUAL)
    _apply(x, residual, output, element + 48, d, count, threshold, scale, HAS_RESIDUAL)


def dropout_add(
    x: Tensor, residual: Tensor | None, p: float, seed: Tensor, dtype: torch.dtype | None = None, *, blocks: int = 256
) -> Tensor:
    """Tensors are contiguous; ``blocks``, a multiple of 16, of the generator are a program's."""
    x = x.contiguous()
    output = torch.empty_like(x, dtype=(dtype or x.dtype) if residual is None else residual.dtype)
    if count := x.numel():
        dropout_add_fwd_kernel[(triton.cdiv(count, 4 * blocks),)](
            x, x if residual is None else residual.contiguous(), output, seed, count, int(p * 2**32), 1 / (1 - p),
            HAS_RESIDUAL=residual is not None, BLOCKS=blocks,
        )  # fmt: skip
    return output
