"""The k most likely tokens of a vocabulary projection, without logits in memory.

Idea: the vocabulary is cut into some 128 slices, so that a single row already fills a card. A program computes the
logits of 64 rows and one slice tile by tile, and keeps of each row the largest logit, the sum of exponentials and the k
best tokens; a second kernel merges the slices of a row. A logit and its token are one 64-bit key, whose order is the
order of results: larger logits first, among equals the lower token. A program's best keys are a set without order; a
tile's largest key replaces the set's smallest, as long as that is an improvement for any row.

Tiles and slices depend on nothing but the type and the vocabulary, so a row's result does not depend on the others, to
the bit. To multiply 64 rows where there is one costs no time: reading the weights takes longer.

Tiles: rows x tokens x channels 64 x 128 x 64, in float32 32 x 128 x 16; float32 products are exact, not TF32.
Bytes: (N C + V C) of the inputs, the weights once for every 64 rows (from the second-level cache while they fit), and
128 (8 k + 8) of slices a row, written and read once. FLOPs: 2 N V C.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SLICES = 128
LOWEST = tl.constexpr(-(2**63))
LAST_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def _key(logits, tokens):
    """The keys of logits and tokens; `_token` and `_logit` give them back."""
    bits = (logits + 0.0).to(tl.int32, bitcast=True)  # -0.0 is equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of their floats
    return (ordered.to(tl.int64) << 32) | (tokens ^ LAST_TOKEN).to(tl.int64)  # a lower token is larger


@triton.jit
def _token(keys):
    return (keys & LAST_TOKEN) ^ LAST_TOKEN


@triton.jit
def _logit(keys):
    ordered = (keys >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["N"])  # which is another number every time
def linear_topk_fwd_kernel(
    hidden, stride_h, weight, stride_w, bias, slice_peak, slice_sum, slice_keys, N, V, C, tokens_per_slice,
    HAS_BIAS: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(0) * tokens_per_slice
    hidden += rows.to(tl.int64)[:, None] * stride_h
    peak = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    best = tl.full([BLOCK_N, K], LOWEST, tl.int64) + tl.arange(0, K)[None, :]  # all different, so one is replaced
    for start in range(first, tl.minimum(first + tokens_per_slice, V), BLOCK_V):
        tokens = start + tl.arange(0, BLOCK_V)
        logits = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
        for c in range(0, C, BLOCK_C):
            channels = c + tl.arange(0, BLOCK_C)
            h = tl.load(hidden + channels[None, :], mask=(rows < N)[:, None] & (channels < C)[None, :], other=0.0)
            w = tl.load(
                weight + tokens.to(tl.int64)[None, :] * stride_w + channels[:, None],
                mask=(tokens < V)[None, :] & (channels < C)[:, None], other=0.0,
            )  # fmt: skip
            # [BLOCK_N, BLOCK_C] @ [BLOCK_C, BLOCK_V] -> [BLOCK_N, BLOCK_V]
            logits = tl.dot(h, w, logits, input_precision="ieee")
        if HAS_BIAS:
            logits += tl.load(bias + tokens, mask=tokens < V, other=0.0).to(tl.float32)[None, :]
        logits = tl.where((tokens < V)[None, :], logits, float("-inf"))

        higher = tl.maximum(peak, tl.max(logits, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # of a row that may have no token yet
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        peak = higher

        keys = tl.where((tokens < V)[None, :], _key(logits, tokens[None, :]), LOWEST)
        top = tl.max(keys, 1)
        if K == 1:
            best = tl.maximum(best, top[:, None])
        else:
            smallest = tl.min(best, 1)
            while tl.max((top > smallest).to(tl.int32), 0) > 0:
                enters = (best == smallest[:, None]) & (top > smallest)[:, None]
                best = tl.where(enters, top[:, None], best)
                keys = tl.where(keys == top[:, None], LOWEST, keys)
                smallest, top = tl.min(best, 1), tl.max(keys, 1)

    place = rows.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(slice_peak + place, peak, mask=rows < N)
    tl.store(slice_sum + place, total, mask=rows < N)
    tl.store(slice_keys + place[:, None] * K + tl.arange(0, K)[None, :], best, mask=(rows < N)[:, None])


@triton.jit
def linear_topk_merge_kernel(
    slice_peak, slice_sum, slice_keys, tokens, log_probs, slices, k,
    K: tl.constexpr, BLOCK_SLICES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK_SLICES)
    peaks = tl.load(slice_peak + row * slices + n, mask=n < slices, other=float("-inf"))
    sums = tl.load(slice_sum + row * slices + n, mask=n < slices, other=0.0)
    peak = tl.max(peaks, 0)
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    lse = shift + tl.log(tl.sum(sums * tl.exp(peaks - shift), 0))
    n = tl.arange(0, BLOCK_SLICES * K)
    keys = tl.load(slice_keys + row * slices * K + n, mask=n < slices * K, other=LOWEST)
    for i in range(k):
        top = tl.max(keys, 0)
        tl.store(tokens + row * k + i, _token(top))
        tl.store(log_probs + row * k + i, _logit(top) - lse)
        keys = tl.where(keys == top, LOWEST, keys)


def linear_topk(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    rows, vocabulary, channels = hidden.shape[0], *weight.shape
    tokens = hidden.new_empty((rows, k), dtype=torch.int64)
    log_probs = hidden.new_empty((rows, k), dtype=torch.float32)
    if rows == 0:
        return tokens, log_probs
    tiles = {"BLOCK_N": 64, "BLOCK_V": 128, "BLOCK_C": 64, "num_warps": 8, "num_stages": 3}
    if hidden.dtype == torch.float32:
        tiles |= {"BLOCK_N": 32, "BLOCK_C": 16, "num_stages": 4}
    kept = triton.next_power_of_2(k)
    tokens_per_slice = triton.cdiv(triton.cdiv(vocabulary, tiles["BLOCK_V"]), SLICES) * tiles["BLOCK_V"]
    slices = triton.cdiv(vocabulary, tokens_per_slice)
    slice_peak = hidden.new_empty((rows, slices), dtype=torch.float32)
    slice_sum = torch.empty_like(slice_peak)
    slice_keys = hidden.new_empty((rows, slices, kept), dtype=torch.int64)
    linear_topk_fwd_kernel[(slices, triton.cdiv(rows, tiles["BLOCK_N"]))](
        hidden, hidden.stride(0), weight, weight.stride(0), bias, slice_peak, slice_sum, slice_keys,
        rows, vocabulary, channels, tokens_per_slice, HAS_BIAS=bias is not None, K=kept, **tiles,
    )  # fmt: skip
    linear_topk_merge_kernel[(rows,)](
        slice_peak, slice_sum, slice_keys, tokens, log_probs, slices, k,
        K=kept, BLOCK_SLICES=triton.next_power_of_2(slices),
    )  # fmt: skip
    return tokens, log_probs
