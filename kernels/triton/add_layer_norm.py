"""The residual and the norm at the end of a post-norm block, and their gradients.

Idea: a program holds whole rows, so that a row is read once; the sum is made twice, in the forward and in the backward
pass, and never stored. The backward pass lets each program add up the gradients of weight and bias over rows of its
own, tile by tile; what the programs found is added last, in order. Nothing is added atomically: the same call gives
the same bits.

Tiles: as many rows as make 2,048 elements, at least one; channels are padded to a power of two, 4,096 at most. A thread
has 16 elements at most, which leaves registers for the sums of the backward pass.
Bytes, of elements of e bytes: 3 N C e forward; 4 N C e backward, and 8 C for each of at most 256 programs.
FLOPs: 8 N C forward, 14 N C backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, PROGRAMS = 2048, 256


@triton.jit
def _normalized(x, stride_x, residual, stride_r, rows, channels, N, C, eps):
    """(residual + x - mean) / deviation [ROWS, BLOCK_C], zero where nothing is; 1 / deviation [ROWS]; mask."""
    inside = (rows < N)[:, None] & (channels < C)[None, :]
    row = rows.to(tl.int64)[:, None]
    total = tl.load(residual + row * stride_r + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(x + row * stride_x + channels[None, :], mask=inside, other=0.0).to(tl.float32)
    centred = tl.where((channels < C)[None, :], total - tl.sum(total, 1)[:, None] / C, 0.0)
    # Where there is no row, all is zero, and eps may be so, too.
    inverse = 1.0 / tl.where(rows < N, tl.sqrt(tl.sum(centred * centred, 1) / C + eps), 1.0)
    return centred * inverse[:, None], inverse, inside


@triton.jit(do_not_specialize=["N"])
def add_layer_norm_fwd_kernel(
    x, stride_x, residual, stride_r, weight, bias, output, N, C, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr
):
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_C)
    normalized, _, inside = _normalized(x, stride_x, residual, stride_r, rows, channels, N, C, eps)
    w = tl.load(weight + channels, mask=channels < C, other=0.0).to(tl.float32)
    b = tl.load(bias + channels, mask=channels < C, other=0.0).to(tl.float32)
    result = normalized * w[None, :] + b[None, :]
    address = output + rows.to(tl.int64)[:, None] * C + channels[None, :]
    tl.store(address, result.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N", "tiles"])
def add_layer_norm_bwd_kernel(
    grad_output, stride_g, x, stride_x, residual, stride_r, weight, grad_sum, parts, N, C, eps, tiles,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program, channels = tl.program_id(0), tl.arange(0, BLOCK_C)
    w = tl.load(weight + channels, mask=channels < C, other=0.0).to(tl.float32)
    of_weight, of_bias = tl.full([BLOCK_C], 0.0, tl.float32), tl.full([BLOCK_C], 0.0, tl.float32)
    for tile in range(0, tiles):
        rows = (program * tiles + tile) * ROWS + tl.arange(0, ROWS)
        normalized, inverse, inside = _normalized(x, stride_x, residual, stride_r, rows, channels, N, C, eps)
        row = rows.to(tl.int64)[:, None]
        g = tl.load(grad_output + row * stride_g + channels[None, :], mask=inside, other=0.0).to(tl.float32)
        of_weight += tl.sum(g * normalized, 0)
        of_bias += tl.sum(g, 0)
        g *= w[None, :]
        g -= tl.sum(g, 1)[:, None] / C + normalized * (tl.sum(g * normalized, 1) / C)[:, None]
        address = grad_sum + row * C + channels[None, :]
        tl.store(address, (g * inverse[:, None]).to(grad_sum.dtype.element_ty), mask=inside)
    part = parts + program.to(tl.int64) * 2 * C + channels
    tl.store(part, of_weight, mask=channels < C)
    tl.store(part + C, of_bias, mask=channels < C)


def _sizes(channels: int) -> dict[str, int]:
    block = triton.next_power_of_2(channels)
    return {"ROWS": max(TILE // block, 1), "BLOCK_C": block, "num_warps": max(block // 512, 4)}


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    (rows, channels), sizes = x.shape, _sizes(x.shape[1])
    x, residual = _rows(x), _rows(residual)
    output = torch.empty_like(residual, memory_format=torch.contiguous_format)
    if rows:
        add_layer_norm_fwd_kernel[(triton.cdiv(rows, sizes["ROWS"]),)](
            x, x.stride(0), residual, residual.stride(0), weight.contiguous(), bias.contiguous(), output, rows,
            channels, eps, **sizes,
        )  # fmt: skip
    return output


def add_layer_norm_bwd(
    grad_output: Tensor, output: Tensor, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum, which are those of ``x`` and of ``residual``, and of ``weight`` and ``bias``."""
    (rows, channels), sizes = x.shape, _sizes(x.shape[1])
    x, residual, grad_output = _rows(x), _rows(residual), _rows(grad_output)
    tiles = triton.cdiv(triton.cdiv(rows, sizes["ROWS"]), PROGRAMS)  # of a program
    programs = triton.cdiv(rows, sizes["ROWS"] * tiles) if rows else 0
    parts = torch.empty(programs, 2, channels, device=x.device, dtype=torch.float32)
    grad_sum = torch.empty_like(residual, memory_format=torch.contiguous_format)
    if rows:
        add_layer_norm_bwd_kernel[(programs,)](
            grad_output, grad_output.stride(0), x, x.stride(0), residual, residual.stride(0), weight.contiguous(),
            grad_sum, parts, rows, channels, eps, tiles, **sizes,
        )  # fmt: skip
    of_weight, of_bias = parts.sum(0)
    return grad_sum, of_weight.to(weight.dtype), of_bias.to(bias.dtype)
