"""The k most likely tokens of a vocabulary projection, without logits in memory.

Idea: the vocabulary is cut into slices, so that a single row already fills a card. A program computes the logits of
some rows and one slice tile by tile, and keeps of each row the largest logit and the sum of exponentials. Of the best
token alone it keeps the number, too, and a second kernel merges slices. For k > 1 it writes the largest logit of every
16 tokens: the k best tokens are in the k groups with the largest ones, which the second kernel finds and computes once
more. A logit and its token are one 64-bit key, whose order is the order of results: larger logits first, among equals
the lower token.

Tiles: rows x tokens x channels 64 x 128 x 64, in float32 128 x 64 x 32; of at most 16 rows 16 x 128 x 64 and
16 x 128 x 32. float32 products are three TF32 products each, which from 16 channels on err no more than float32.
Bytes: (N C + V C) of the inputs, the weights once for every tile of rows (from the second-level cache while they fit),
and 16 N of each of up to 128 slices (up to 512 of few rows), written and read once; for k > 1 also N V / 4 of groups,
written and read, and 16 k rows of weights for each row. FLOPs: 2 N V C.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._precision import input_precision

FEW_ROWS = 16
GROUP = 16  # tokens of which the largest logit is kept
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
    hidden, stride_h, weight, stride_w, bias, slice_peak, slice_sum, best, N, V, C, tokens_per_slice, groups,
    HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`best` is each slice's best key or, with a GROUP, each group's largest logit."""
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(0) * tokens_per_slice
    hidden += tl.minimum(rows, N - 1).to(tl.int64)[:, None] * stride_h  # what has no row repeats the last one
    peak = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    token = tl.zeros([BLOCK_N], tl.int32)
    for start in range(first, tl.minimum(first + tokens_per_slice, V), BLOCK_V):
        tokens = start + tl.arange(0, BLOCK_V)
        at = weight + tl.minimum(tokens, V - 1).to(tl.int64)[None, :] * stride_w
        logits = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
        for c in range(0, C, BLOCK_C):
            channels = c + tl.arange(0, BLOCK_C)
            if WHOLE:
                h = tl.load(hidden + channels[None, :])
                w = tl.load(at + channels[:, None])
            else:
                h = tl.load(hidden + channels[None, :], mask=(channels < C)[None, :], other=0.0)
                w = tl.load(at + channels[:, None], mask=(channels < C)[:, None], other=0.0)
            # [BLOCK_N, BLOCK_C] @ [BLOCK_C, BLOCK_V] -> [BLOCK_N, BLOCK_V]
            logits = tl.dot(h, w, logits, input_precision=PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias + tokens, mask=tokens < V, other=0.0).to(tl.float32)[None, :]
        logits = tl.where((tokens < V)[None, :], logits, float("-inf"))

        highest = tl.max(logits, 1)
        higher = tl.maximum(peak, highest)
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # of a row that may have no token yet
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        if GROUP:
            group = start // GROUP + tl.arange(0, BLOCK_V // GROUP)[None, :]
            largest = tl.max(tl.reshape(logits, [BLOCK_N, BLOCK_V // GROUP, GROUP]), 2)
            inside = (rows < N)[:, None] & (group < groups)
            tl.store(best + rows.to(tl.int64)[:, None] * groups + group, largest, mask=inside)
        elif tl.max((highest > peak).to(tl.int32), 0) > 0:
            lowest = tl.min(tl.where(logits == highest[:, None], tokens[None, :], LAST_TOKEN), 1)
            token = tl.where(highest > peak, lowest, token)
        peak = higher

    place = rows.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(slice_peak + place, peak, mask=rows < N)
    tl.store(slice_sum + place, total, mask=rows < N)
    if not GROUP:
        tl.store(best + place, _key(peak, token), mask=rows < N)


@triton.jit
def _merge(slice_peak, slice_sum, slices, BLOCK_SLICES: tl.constexpr):
    """Of this program's row, two numbers that add up to the log-sum-exp."""
    n = tl.arange(0, BLOCK_SLICES)
    at = tl.program_id(0).to(tl.int64) * slices + n
    peaks = tl.load(slice_peak + at, mask=n < slices, other=float("-inf"))
    sums = tl.load(slice_sum + at, mask=n < slices, other=0.0)
    peak = tl.max(peaks, 0)
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    return shift, tl.log(tl.sum(sums * tl.exp(peaks - shift), 0))


@triton.jit
def linear_topk_merge_kernel(
    slice_peak, slice_sum, slice_keys, tokens, log_probs, slices, BLOCK_SLICES: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    shift, log_total = _merge(slice_peak, slice_sum, slices, BLOCK_SLICES)
    n = tl.arange(0, BLOCK_SLICES)
    top = tl.max(tl.load(slice_keys + row * slices + n, mask=n < slices, other=LOWEST), 0)
    tl.store(tokens + row, _token(top))
    tl.store(log_probs + row, _logit(top) - shift - log_total)


@triton.jit
def linear_topk_choose_kernel(
    hidden, stride_h, weight, stride_w, bias, slice_peak, slice_sum, largest, tokens, log_probs, slices, groups, V, C,
    k, HAS_BIAS: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BLOCK_SLICES: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    shift, log_total = _merge(slice_peak, slice_sum, slices, BLOCK_SLICES)
    n = tl.arange(0, BLOCK_GROUPS)
    keys = _key(tl.load(largest + row * groups + n, mask=n < groups, other=float("-inf")), n)
    keys = tl.where(n < groups, keys, LOWEST)
    chosen = tl.zeros([K], tl.int32) + groups
    for i in range(k):
        top = tl.max(keys, 0)
        group = tl.where(top == LOWEST, groups, _token(top).to(tl.int32))  # where there are fewer than K
        chosen = tl.where(tl.arange(0, K) == i, group, chosen)
        keys = tl.where(keys == top, LOWEST, keys)
    candidates = tl.reshape(chosen[:, None] * GROUP + tl.arange(0, GROUP)[None, :], [K * GROUP])
    exists = candidates < V
    logits = tl.zeros([K * GROUP], tl.float32)
    for c in range(0, C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        h = tl.load(hidden + row * stride_h + channels, mask=channels < C, other=0.0).to(tl.float32)
        at = weight + candidates.to(tl.int64)[:, None] * stride_w + channels[None, :]
        w = tl.load(at, mask=exists[:, None] & (channels < C)[None, :], other=0.0).to(tl.float32)
        logits += tl.sum(w * h[None, :], 1)
    if HAS_BIAS:
        logits += tl.load(bias + candidates, mask=exists, other=0.0).to(tl.float32)
    keys = tl.where(exists, _key(logits, candidates), LOWEST)
    for i in range(k):
        top = tl.max(keys, 0)
        tl.store(tokens + row * k + i, _token(top))
        log_prob = _logit(top) - shift - log_total
        # Of one word that has nearly all, as the sum may have added up its logit in another order.
        tl.store(log_probs + row * k + i, tl.where(log_prob > 0.0, 0.0, log_prob))
        keys = tl.where(keys == top, LOWEST, keys)


def _tiles(rows: int, exact: bool) -> dict:
    few = rows <= FEW_ROWS
    tiles = {"BLOCK_N": 16 if few else 64, "BLOCK_V": 128, "BLOCK_C": 64, "num_warps": 4, "num_stages": 4}
    if exact:
        tiles["BLOCK_C"] = 32
        if not few:
            tiles |= {"BLOCK_N": 128, "BLOCK_V": 64, "num_warps": 8, "num_stages": 3}
    return tiles


def linear_topk(hidden: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    rows, vocabulary, channels = hidden.shape[0], *weight.shape
    tokens = hidden.new_empty((rows, k), dtype=torch.int64)
    log_probs = hidden.new_empty((rows, k), dtype=torch.float32)
    if rows == 0:
        return tokens, log_probs
    tiles = _tiles(rows, hidden.dtype == torch.float32)
    most = 512 if rows <= FEW_ROWS else 128
    tokens_per_slice = triton.cdiv(triton.cdiv(vocabulary, tiles["BLOCK_V"]), most) * tiles["BLOCK_V"]
    slices, groups = triton.cdiv(vocabulary, tokens_per_slice), triton.cdiv(vocabulary, GROUP)
    slice_peak = hidden.new_empty((rows, slices), dtype=torch.float32)
    slice_sum = torch.empty_like(slice_peak)
    if k == 1:
        best = hidden.new_empty((rows, slices), dtype=torch.int64)
    else:
        best = hidden.new_empty((rows, groups), dtype=torch.float32)
    linear_topk_fwd_kernel[(slices, triton.cdiv(rows, tiles["BLOCK_N"]))](
        hidden, hidden.stride(0), weight, weight.stride(0), bias, slice_peak, slice_sum, best,
        rows, vocabulary, channels, tokens_per_slice, groups, HAS_BIAS=bias is not None,
        WHOLE=channels % tiles["BLOCK_C"] == 0, GROUP=GROUP if k > 1 else 0,
        PRECISION=input_precision(hidden.dtype, channels), **tiles,
    )  # fmt: skip
    block_slices = triton.next_power_of_2(slices)
    if k == 1:
        linear_topk_merge_kernel[(rows,)](
            slice_peak, slice_sum, best, tokens, log_probs, slices, BLOCK_SLICES=block_slices
        )
    else:
        linear_topk_choose_kernel[(rows,)](
            hidden, hidden.stride(0), weight, weight.stride(0), bias, slice_peak, slice_sum, best, tokens, log_probs,
            slices, groups, vocabulary, channels, k, HAS_BIAS=bias is not None, K=triton.next_power_of_2(k),
            GROUP=GROUP, BLOCK_SLICES=block_slices, BLOCK_GROUPS=triton.next_power_of_2(groups), BLOCK_C=64,
            num_warps=4 if k <= 16 and groups <= 4096 else 8,
        )  # fmt: skip
    return tokens, log_probs
