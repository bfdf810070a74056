"""Attention over visibility intervals and its gradients: a query of time t sees key j iff
visible_from[j] <= t < visible_until[j]; one that sees nothing gives zeros.

Idea: no scores in memory. Sequences are cut into tiles of rows, and a plan, made first, says of every tile which rows
it has and between which bounds their times or intervals lie. So a program leaves out the keys before the first and
behind the last that any of its queries sees, and the longest run of unseen tiles in between, of which the patterns of
JANUS have at most one; a tile that all see needs no mask. The plan depends on the visibility alone and is one small
launch of each call. It finds the sequence of a tile on the device, in a grid that rows and sequences bound, so that
nothing waits for the host.

Forward, a program owns a tile of queries and a head, and meets keys with a running maximum and sum. Backward, it meets
them twice: for delta, the mean of the weights' gradients under the weights, and for grad_query. So delta fits the
weights to the last bit, as the product of the rounded output and its gradient does not, and needs no launch of its own;
and the sum of the weights, which differs from 1 by what a large log-sum-exp has lost by rounding, corrects them.
A second kernel owns a tile of keys and a head, and meets the tiles of all query sequences that name these keys, in
ascending order: every sum has a fixed order, and the same call gives the same bits.

Tiles: 16 to 128 queries, after the mean length of a sequence, and 64 keys; backward 16 or 32 queries; float32 16 or 32
queries and 32 keys, 16 of heads above 64. Head sizes are padded with zeros to 16, 32, 64 or 128. float32 products are
exact, or TF32 where torch's float32 matmul precision is not "highest".
Bytes, of elements of two: 4 C for a query row (read, written), and 4 C for a key row and each tile of queries that
meets it. Backward 6 C for a query row and 8 C for a key row, besides 8 C for a key row and each tile of queries, and
4 C for a query row and each tile of keys. FLOPs: 4 C a pair of rows; backward 18 C. Rows are rounded up to tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

FIELDS = tl.constexpr(9)  # of a tile in the plan
MOST = tl.constexpr(2**31 - 1)
LEAST = tl.constexpr(-(2**31))


@triton.jit
def _rows_of(tile, offsets, sequences, count, BLOCK: tl.constexpr):
    """A tile's sequence, the tile's first row, and the sequence's last + 1.

    Sequence s has the tiles from offsets[s] // BLOCK + s on: as many as it needs, or one more, which has no rows.
    Offsets that do not fit `count` rows give wrong tiles of these rows.
    """
    low, high = 0, sequences
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(offsets + middle) // BLOCK + middle <= tile:
            low = middle
        else:
            high = middle
    begin, end = tl.load(offsets + low), tl.minimum(tl.load(offsets + low + 1), count)
    before = tl.maximum(tile - begin // BLOCK - low, 0)  # tiles of the sequence
    return low, tl.maximum(begin, 0) + before * BLOCK, end


@triton.jit
def _plan_queries(
    tile, plan, tile_sequences, query_offsets, query_sequences, query_count, key_offsets, key_sequences,
    key_sequence_count, key_count, query_times, visible_from, visible_until,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """[first row, last + 1, first key to meet, last + 1, where the longest run of tiles begins that none of the rows
    sees, its length, the first key's tile, earliest time, latest]"""
    sequence, first, end = _rows_of(tile, query_offsets, query_sequences, query_count, BLOCK_M)
    rows = first + tl.arange(0, BLOCK_M)
    earliest = tl.min(tl.load(query_times + rows, mask=rows < end, other=MOST), 0)
    latest = tl.max(tl.load(query_times + rows, mask=rows < end, other=LEAST), 0)
    key_sequence = tl.load(key_sequences + sequence)
    if (first >= end) | (key_sequence < 0) | (key_sequence >= key_sequence_count):
        key_sequence = key_sequence_count
    begin, end_keys = 0, 0
    if key_sequence < key_sequence_count:
        begin = tl.maximum(tl.load(key_offsets + key_sequence), 0)
        end_keys = tl.minimum(tl.load(key_offsets + key_sequence + 1), key_count)
    first_key, last, gap, skipped = begin, begin, begin, 0
    for start in range(begin, end_keys, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        since = tl.load(visible_from + keys, mask=keys < end_keys, other=MOST)
        until = tl.load(visible_until + keys, mask=keys < end_keys, other=LEAST)
        if tl.max(((since <= latest) & (earliest < until)).to(tl.int32), 0) > 0:
            if last == begin:
                first_key = start
            elif start - last > skipped:
                gap, skipped = last, start - last
            last = start + BLOCK_N
    plan += tile.to(tl.int64) * FIELDS
    tl.store(plan, first)
    tl.store(plan + 1, end)
    tl.store(plan + 2, first_key)
    tl.store(plan + 3, tl.minimum(last, end_keys))
    tl.store(plan + 4, gap)
    tl.store(plan + 5, skipped)
    tl.store(plan + 6, begin // BLOCK_N + key_sequence + (first_key - begin) // BLOCK_N)
    tl.store(plan + 7, earliest)
    tl.store(plan + 8, latest)
    tl.store(tile_sequences + tile, key_sequence)


@triton.jit
def _plan_keys(
    tile, plan, key_offsets, key_sequence_count, key_count, visible_from, visible_until, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """[first row, last + 1, sequence, earliest begin of an interval, latest, earliest end, latest]"""
    sequence, first, end = _rows_of(tile, key_offsets, key_sequence_count, key_count, BLOCK_N)
    keys = first + tl.arange(0, BLOCK_N)
    since = tl.load(visible_from + keys, mask=keys < end, other=MOST)
    until = tl.load(visible_until + keys, mask=keys < end, other=LEAST)
    plan += tile.to(tl.int64) * FIELDS
    tl.store(plan, first)
    tl.store(plan + 1, end)
    tl.store(plan + 2, sequence)
    tl.store(plan + 3, tl.min(since, 0))
    tl.store(plan + 4, tl.max(since, 0))
    tl.store(plan + 5, tl.min(until, 0))
    tl.store(plan + 6, tl.max(until, 0))


@triton.jit(do_not_specialize=["query_tiles", "query_sequences", "query_count", "key_sequence_count", "key_count"])
def attention_plan_kernel(
    query_plan, tile_sequences, key_plan, query_tiles, query_offsets, query_sequences, query_count, key_offsets,
    key_sequences, key_sequence_count, key_count, query_times, visible_from, visible_until,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    if tile < query_tiles:
        _plan_queries(
            tile, query_plan, tile_sequences, query_offsets, query_sequences, query_count, key_offsets, key_sequences,
            key_sequence_count, key_count, query_times, visible_from, visible_until, BLOCK_M, BLOCK_N,
        )  # fmt: skip
    else:
        _plan_keys(
            tile - query_tiles, key_plan, key_offsets, key_sequence_count, key_count, visible_from, visible_until,
            BLOCK_N,
        )  # fmt: skip


@triton.jit
def _all_see(key_plan, earliest, latest):
    """Whether all queries of times between earliest and latest see all keys of a tile."""
    return (tl.load(key_plan + 4) <= earliest) & (latest < tl.load(key_plan + 5))


@triton.jit
def _sees(times, keys, end, visible_from, visible_until):
    """Of times and keys, one along a column and one along a row, who sees whom."""
    since = tl.load(visible_from + keys, mask=keys < end, other=MOST)
    return (since <= times) & (times < tl.load(visible_until + keys, mask=keys < end, other=LEAST))


@triton.jit
def _load(rows_of_tensor, stride, rows, end, SIZE: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] of a head; zeros behind its size and behind the last row."""
    channels = tl.arange(0, BLOCK_D)[None, :]
    inside = (rows < end)[:, None] & (channels < SIZE)
    return tl.load(rows_of_tensor + rows.to(tl.int64)[:, None] * stride + channels, mask=inside, other=0.0)


@triton.jit
def _store(tensor, values, rows, end, SIZE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of this program's head into a contiguous [N, H, D]."""
    channels = tl.arange(0, BLOCK_D)[None, :]
    at = (rows.to(tl.int64)[:, None] * tl.num_programs(1) + tl.program_id(1)) * SIZE + channels
    tl.store(tensor + at, values.to(tensor.dtype.element_ty), mask=(rows < end)[:, None] & (channels < SIZE))


@triton.jit
def attention_fwd_kernel(
    query, stride_qn, stride_qh, key, stride_kn, stride_kh, value, stride_vn, stride_vh,
    query_times, visible_from, visible_until, query_plan, key_plan, output, lse, scale,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    query_plan += tl.program_id(0).to(tl.int64) * FIELDS
    head = tl.program_id(1)
    first, end = tl.load(query_plan), tl.load(query_plan + 1)
    if first >= end:
        return
    first_key, end_keys = tl.load(query_plan + 2), tl.load(query_plan + 3)
    gap, skipped = tl.load(query_plan + 4), tl.load(query_plan + 5)
    key_plan += tl.load(query_plan + 6).to(tl.int64) * FIELDS
    earliest, latest = tl.load(query_plan + 7), tl.load(query_plan + 8)
    rows = first + tl.arange(0, BLOCK_M)
    times = tl.load(query_times + rows, mask=rows < end, other=0)[:, None]
    q = _load(query + head * stride_qh, stride_qn, rows, end, SIZE, BLOCK_D)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    result = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    for place in range(first_key, end_keys - skipped, BLOCK_N):
        start = place + tl.where(place < gap, 0, skipped)
        keys = start + tl.arange(0, BLOCK_N)
        k = _load(key + head * stride_kh, stride_kn, keys, end_keys, SIZE, BLOCK_D)
        # [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N] -> [BLOCK_M, BLOCK_N]
        scores = tl.dot(q, k.T, input_precision=PRECISION) * scale
        if not _all_see(key_plan + (start - first_key) // BLOCK_N * FIELDS, earliest, latest):
            sees = _sees(times, keys[None, :], end_keys, visible_from, visible_until)
            scores = tl.where(sees, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # of a row that has seen nothing yet
        weights = tl.exp(scores - shift[:, None])
        rescale = tl.exp(peak - shift)
        total = total * rescale + tl.sum(weights, 1)
        v = _load(value + head * stride_vh, stride_vn, keys, end_keys, SIZE, BLOCK_D)
        # [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D] -> [BLOCK_M, BLOCK_D]
        result = tl.dot(weights.to(v.dtype), v, result * rescale[:, None], input_precision=PRECISION)
        peak = higher
    total = tl.where(total == 0.0, 1.0, total)
    _store(output, result / total[:, None], rows, end, SIZE, BLOCK_D)
    tl.store(lse + rows.to(tl.int64) * tl.num_programs(1) + head, peak + tl.log(total), mask=rows < end)


@triton.jit
def attention_bwd_query_kernel(
    grad_output, stride_gn, stride_gh, query, stride_qn, stride_qh, key, stride_kn, stride_kh,
    value, stride_vn, stride_vh, query_times, visible_from, visible_until, query_plan, key_plan,
    lse, delta, excess, grad_query, scale,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    query_plan += tl.program_id(0).to(tl.int64) * FIELDS
    head = tl.program_id(1)
    first, end = tl.load(query_plan), tl.load(query_plan + 1)
    if first >= end:
        return
    first_key, end_keys = tl.load(query_plan + 2), tl.load(query_plan + 3)
    gap, skipped = tl.load(query_plan + 4), tl.load(query_plan + 5)
    key_plan += tl.load(query_plan + 6).to(tl.int64) * FIELDS
    earliest, latest = tl.load(query_plan + 7), tl.load(query_plan + 8)
    rows = first + tl.arange(0, BLOCK_M)
    times = tl.load(query_times + rows, mask=rows < end, other=0)[:, None]
    q = _load(query + head * stride_qh, stride_qn, rows, end, SIZE, BLOCK_D)
    g = _load(grad_output + head * stride_gh, stride_gn, rows, end, SIZE, BLOCK_D)
    at = rows.to(tl.int64) * tl.num_programs(1) + head
    row_lse = tl.load(lse + at, mask=rows < end, other=float("inf"))[:, None]
    mean = tl.full([BLOCK_M], 0.0, tl.float32)
    total = tl.full([BLOCK_M], 0.0, tl.float32)
    result = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    for turn in tl.static_range(2):
        for place in range(first_key, end_keys - skipped, BLOCK_N):
            start = place + tl.where(place < gap, 0, skipped)
            keys = start + tl.arange(0, BLOCK_N)
            k = _load(key + head * stride_kh, stride_kn, keys, end_keys, SIZE, BLOCK_D)
            v = _load(value + head * stride_vh, stride_vn, keys, end_keys, SIZE, BLOCK_D)
            # [BLOCK_M, BLOCK_D] @ [BLOCK_D, BLOCK_N] -> [BLOCK_M, BLOCK_N], twice
            weights = tl.exp(tl.dot(q, k.T, input_precision=PRECISION) * scale - row_lse)
            grad_weights = tl.dot(g, v.T, input_precision=PRECISION)
            if not _all_see(key_plan + (start - first_key) // BLOCK_N * FIELDS, earliest, latest):
                sees = _sees(times, keys[None, :], end_keys, visible_from, visible_until)
                weights = tl.where(sees, weights, 0.0)
            if turn == 0:
                mean += tl.sum(weights * grad_weights, 1)
                total += tl.sum(weights, 1)
            else:
                grad_scores = weights / total[:, None] * (grad_weights - mean[:, None])
                # [BLOCK_M, BLOCK_N] @ [BLOCK_N, BLOCK_D] -> [BLOCK_M, BLOCK_D]
                result = tl.dot(grad_scores.to(k.dtype), k, result, input_precision=PRECISION)
        if turn == 0:
            total = tl.where(total == 0.0, 1.0, total)
            mean /= total
    _store(grad_query, result * scale, rows, end, SIZE, BLOCK_D)
    tl.store(delta + at, mean, mask=rows < end)
    tl.store(excess + at, total, mask=rows < end)


@triton.jit
def attention_bwd_key_value_kernel(
    grad_output, stride_gn, stride_gh, query, stride_qn, stride_qh, key, stride_kn, stride_kh,
    value, stride_vn, stride_vh, query_times, visible_from, visible_until, query_plan, key_plan, tiles, tiles_begin,
    lse, delta, excess, grad_key, grad_value, scale,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    key_plan += tl.program_id(0).to(tl.int64) * FIELDS
    head = tl.program_id(1)
    first, end = tl.load(key_plan), tl.load(key_plan + 1)
    if first >= end:
        return
    tiles_begin += tl.load(key_plan + 2)
    keys = first + tl.arange(0, BLOCK_N)
    k = _load(key + head * stride_kh, stride_kn, keys, end, SIZE, BLOCK_D)
    v = _load(value + head * stride_vh, stride_vn, keys, end, SIZE, BLOCK_D)
    sum_key = tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    sum_value = tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    for n in range(tl.load(tiles_begin), tl.load(tiles_begin + 1)):
        plan = query_plan + tl.load(tiles + n) * FIELDS
        earliest, latest = tl.load(plan + 7), tl.load(plan + 8)
        if (tl.load(key_plan + 3) <= latest) & (earliest < tl.load(key_plan + 6)):
            first_row, end_rows = tl.load(plan), tl.load(plan + 1)
            rows = first_row + tl.arange(0, BLOCK_M)
            q = _load(query + head * stride_qh, stride_qn, rows, end_rows, SIZE, BLOCK_D)
            g = _load(grad_output + head * stride_gh, stride_gn, rows, end_rows, SIZE, BLOCK_D)
            at = rows.to(tl.int64) * tl.num_programs(1) + head
            row_lse = tl.load(lse + at, mask=rows < end_rows, other=float("inf"))[None, :]
            mean = tl.load(delta + at, mask=rows < end_rows, other=0.0)[None, :]
            total = tl.load(excess + at, mask=rows < end_rows, other=1.0)[None, :]
            # [BLOCK_N, BLOCK_D] @ [BLOCK_D, BLOCK_M] -> [BLOCK_N, BLOCK_M], twice
            weights = tl.exp(tl.dot(k, q.T, input_precision=PRECISION) * scale - row_lse) / total
            if not _all_see(key_plan, earliest, latest):
                times = tl.load(query_times + rows, mask=rows < end_rows, other=0)[None, :]
                sees = _sees(times, keys[:, None], end, visible_from, visible_until)
                weights = tl.where(sees, weights, 0.0)
            grad_scores = weights * (tl.dot(v, g.T, input_precision=PRECISION) - mean)
            # [BLOCK_N, BLOCK_M] @ [BLOCK_M, BLOCK_D] -> [BLOCK_N, BLOCK_D], twice
            sum_value = tl.dot(weights.to(g.dtype), g, sum_value, input_precision=PRECISION)
            sum_key = tl.dot(grad_scores.to(q.dtype), q, sum_key, input_precision=PRECISION)
    _store(grad_key, sum_key * scale, keys, end, SIZE, BLOCK_D)
    _store(grad_value, sum_value, keys, end, SIZE, BLOCK_D)


def _tiles(query: Tensor, query_offsets: Tensor, most: int, stages: int, given: dict) -> dict:
    exact, size = query.dtype == torch.float32, query.shape[2]
    mean = triton.cdiv(query.shape[0], max(query_offsets.numel() - 1, 1))
    block = min(max(triton.next_power_of_2(mean), 16), 32 if exact else most)
    return {
        "SIZE": size, "BLOCK_D": max(triton.next_power_of_2(size), 16),
        "BLOCK_M": block, "BLOCK_N": 64 if not exact else 32 if size <= 64 else 16,
        "num_warps": 8 if block == 128 else 4, "num_stages": stages,
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        # A fused scale * product - lse is not what forward had: a row that sees one key would give it not quite 1.
        "enable_fp_fusion": False, **given,
    }  # fmt: skip


def _plan(
    query_offsets: Tensor, key_offsets: Tensor, key_sequences: Tensor, query_times: Tensor, visible_from: Tensor,
    visible_until: Tensor, tiles: dict,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Tiles of queries and of keys, [tiles, FIELDS] each, and the key sequence that each tile of queries names."""
    rows = query_times.numel(), visible_from.numel()
    sequences = query_offsets.numel() - 1, key_offsets.numel() - 1
    queries, keys = (
        n // tiles[block] + s if s else 0 for n, s, block in zip(rows, sequences, ("BLOCK_M", "BLOCK_N"), strict=True)
    )
    query_plan, key_plan = (query_times.new_empty((n, FIELDS.value)) for n in (queries, keys))
    named = query_times.new_empty(queries)
    attention_plan_kernel[(queries + keys,)](
        query_plan, named, key_plan, queries, query_offsets, sequences[0], rows[0], key_offsets, key_sequences,
        sequences[1], rows[1], query_times, visible_from, visible_until,
        BLOCK_M=tiles["BLOCK_M"], BLOCK_N=tiles["BLOCK_N"], num_warps=1,
    )  # fmt: skip
    return query_plan, key_plan, named


def _strides(*tensors: Tensor) -> list:
    return [x for t in tensors for x in (t, t.stride(0), t.stride(1))]


def attention(
    query: Tensor, key: Tensor, value: Tensor, query_offsets: Tensor, key_offsets: Tensor, key_sequences: Tensor,
    query_times: Tensor, visible_from: Tensor, visible_until: Tensor, scale: float, **tiles: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tiles = _tiles(query, query_offsets, 128, 3, tiles)
    seen = query_times, visible_from, visible_until
    query_plan, key_plan, _ = _plan(query_offsets, key_offsets, key_sequences, *seen, tiles)
    output = query.new_empty(query.shape)
    lse = query.new_empty(query.shape[:2], dtype=torch.float32)
    attention_fwd_kernel[(query_plan.shape[0], query.shape[1])](
        *_strides(query, key, value), *seen, query_plan, key_plan, output, lse, scale, **tiles
    )
    return output, lse


def attention_bwd(
    grad_output: Tensor, output: Tensor, lse: Tensor, query: Tensor, key: Tensor, value: Tensor, query_offsets: Tensor,
    key_offsets: Tensor, key_sequences: Tensor, query_times: Tensor, visible_from: Tensor, visible_until: Tensor,
    scale: float, **tiles: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tiles = _tiles(query, query_offsets, 32, 2, tiles)
    seen = query_times, visible_from, visible_until
    query_plan, key_plan, named = _plan(query_offsets, key_offsets, key_sequences, *seen, tiles)
    named, order = named.sort(stable=True)
    begins = torch.searchsorted(named, torch.arange(key_offsets.numel(), dtype=named.dtype, device=named.device))
    grads = [t.new_empty(t.shape) for t in (query, key, value)]
    delta, excess = torch.empty_like(lse), torch.empty_like(lse)
    operands = *_strides(grad_output, query, key, value), *seen, query_plan, key_plan
    attention_bwd_query_kernel[(query_plan.shape[0], query.shape[1])](
        *operands, lse, delta, excess, grads[0], scale, **tiles
    )
    attention_bwd_key_value_kernel[(key_plan.shape[0], query.shape[1])](
        *operands, order, begins, lse, delta, excess, *grads[1:], scale, **tiles
    )
    return tuple(grads)
