"""The joint loss and its gradients, without logits in memory.

Idea: the distributions that a divergence compares meet in one program. A position is up to three rows of hidden, one of
each stream that divergences tie together; rows that nothing ties fill positions of their own, which divergences pass
over. A position's row s has the neighbours s + 1 and s + 2, counted in a circle. Of the logits z of a row the losses
need a few sums over the vocabulary: the peak, the sum of exp(z - peak), the sum of z, the target's z, and for each
neighbour the sum of exp(z - peak) (z - its z). Every tile of the vocabulary has its own, which are merged.

Then the gradient of the logits is known token by token,

    p_s (slope_s + sum over t of pull_st (z_s - z_t)) - sum over t of pull_st p_t
        - factor_s (label_smoothing / V + (1 - label_smoothing) [token is target])

and is computed from logits computed once more, for a block of the vocabulary at a time: [N, block], of at most 128 MiB,
in the dtype of hidden and times a scale that keeps it within float16. Two products of the vendor's library, which heed
torch's settings of TF32 and of reduced sums, turn it into gradients. Those of the weights are complete with their
block; those of hidden are summed over blocks in float32. Every sum has a fixed order, so the same call gives the same
bits; nothing waits for the host.

Tiles: tokens x positions x channels 128 x 32 x 64 for each stream (128 positions where there is one stream); float32
128 x 16 x 32 (64 positions), in three TF32 products each, which from 16 channels on err no more than float32.
Bytes, of elements of two: 2 (N + V) C read for the sums, as much for each of the logits and the products, as much of
gradients written; 72 P V / 128 of sums, of three streams; and 2 N V of logits' gradients, written once and read twice.
FLOPs: 2 N V C without gradients, 8 N V C with them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ._precision import input_precision

GRADIENT_BYTES = 2**27


@triton.jit
def _logits(
    hidden, stride_h, rows, weight, stride_w, tokens, V, C,
    STREAMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The logits of each stream, [BLOCK_V, BLOCK_P]; zeros without a token or a row."""
    z = [tl.full([BLOCK_V, BLOCK_P], 0.0, tl.float32) for _ in (0, 1, 2)[:STREAMS]]
    weight += tokens.to(tl.int64)[:, None] * stride_w
    hidden = [hidden + row.to(tl.int64)[None, :] * stride_h for row in rows]
    for c in range(0, C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        w = tl.load(weight + channels[None, :], mask=(tokens < V)[:, None] & (channels < C)[None, :], other=0.0)
        inside = (channels < C)[:, None]
        h = [
            tl.load(hidden[s] + channels[:, None], mask=inside & (rows[s] >= 0)[None, :], other=0.0)
            for s in (0, 1, 2)[:STREAMS]
        ]
        # [BLOCK_V, BLOCK_C] @ [BLOCK_C, BLOCK_P] -> [BLOCK_V, BLOCK_P]
        z = [tl.dot(w, h[s], z[s], input_precision=PRECISION) for s in (0, 1, 2)[:STREAMS]]
    return z


@triton.jit(do_not_specialize=["P"])
def joint_loss_fwd_kernel(
    hidden, stride_h, weight, stride_w, targets, slots, statistics, P, V, C,
    STREAMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums over one tile of the vocabulary: peak, exponentials, logits, the target's logit, crosses with neighbours."""
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    rows = [tl.load(slots + s * P + positions, mask=positions < P, other=-1) for s in (0, 1, 2)[:STREAMS]]
    tokens = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    z = _logits(hidden, stride_h, rows, weight, stride_w, tokens, V, C, STREAMS, PRECISION, BLOCK_V, BLOCK_P, BLOCK_C)
    at = statistics + tl.program_id(1).to(tl.int64) * STREAMS * (3 + STREAMS) * P + positions
    inside = (tokens < V)[:, None]
    for s in tl.static_range(STREAMS):
        target = tl.load(targets + rows[s], mask=rows[s] >= 0, other=-1).to(tl.int32)
        peak = tl.max(tl.where(inside, z[s], float("-inf")), 0)
        e = tl.where(inside, tl.exp(z[s] - peak[None, :]), 0.0)
        tl.store(at, peak, mask=positions < P)
        tl.store(at + P, tl.sum(e, 0), mask=positions < P)
        tl.store(at + 2 * P, tl.sum(z[s], 0), mask=positions < P)
        tl.store(at + 3 * P, tl.sum(tl.where(tokens[:, None] == target[None, :], z[s], 0.0), 0), mask=positions < P)
        for j in tl.static_range(STREAMS - 1):
            cross = tl.sum(e * (z[s] - z[(s + 1 + j) % STREAMS]), 0)
            tl.store(at + (4 + j) * P, cross, mask=positions < P)
        at += (3 + STREAMS) * P


@triton.jit
def _of_stream(row, begins, values):
    """The value of each row's stream; stream s begins with row begins[s]."""
    value = tl.zeros_like(row) + values[0]
    for s in tl.static_range(1, len(values)):
        value = tl.where(row < begins[s], value, values[s])
    return value


@triton.jit
def _merge(at, stride, P, tiles, STREAMS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr):
    """The sums of one stream over all tiles, [BLOCK_P] each; tiles lie `stride` apart."""
    t = tl.arange(0, BLOCK_T)[:, None]
    peak = tl.full([BLOCK_P], float("-inf"), tl.float32)
    for first in range(0, tiles, BLOCK_T):
        some = tl.load(at + (first + t) * stride, mask=first + t < tiles, other=float("-inf"))
        peak = tl.maximum(peak, tl.max(some, 0))
    total = tl.full([BLOCK_P], 0.0, tl.float32)
    logits, of_target, crosses = total, total, [total for _ in (0, 1)[: STREAMS - 1]]
    for first in range(0, tiles, BLOCK_T):
        here, inside = at + (first + t) * stride, first + t < tiles
        scale = tl.exp(tl.load(here, mask=inside, other=float("-inf")) - peak[None, :])
        total += tl.sum(scale * tl.load(here + P, mask=inside, other=0.0), 0)
        logits += tl.sum(tl.load(here + 2 * P, mask=inside, other=0.0), 0)
        of_target += tl.sum(tl.load(here + 3 * P, mask=inside, other=0.0), 0)
        crosses = [
            crosses[j] + tl.sum(scale * tl.load(here + (4 + j) * P, mask=inside, other=0.0), 0)
            for j in (0, 1)[: STREAMS - 1]
        ]
    return peak, total, logits, of_target, crosses


@triton.jit(do_not_specialize=["N", "P", "tiles", "tied"])
def joint_loss_merge_kernel(
    statistics, slots, losses, divergences, scales, N, P, V, tiles, tied, begins, factors, pulls,
    STREAMS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Merges tiles: losses of rows [2, N], divergences [pairs, tied], log-sum-exp and slope of rows [STREAMS, 2, P]."""
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = positions < P
    stride = P.to(tl.int64) * (STREAMS * (3 + STREAMS))
    at = statistics + tl.minimum(positions, P - 1)[None, :]
    known = [
        _merge(at + s * (3 + STREAMS) * P, stride, P, tiles, STREAMS, BLOCK_T, BLOCK_P) for s in (0, 1, 2)[:STREAMS]
    ]  # fmt: skip
    for s in tl.static_range(STREAMS):
        row = tl.load(slots + s * P + positions, mask=inside, other=-1)
        peak, total, logits, of_target, crosses = known[s]
        lse = peak + tl.log(total)
        tl.store(losses + row, lse - of_target, mask=row >= 0)
        tl.store(losses + N + row, lse - logits / V, mask=row >= 0)
        slope = _of_stream(row, begins, factors)
        for j in tl.static_range(STREAMS - 1):
            slope += tl.where(positions < tied, pulls[s * (STREAMS - 1) + j] * (1.0 - crosses[j] / total), 0.0)
        tl.store(scales + s * 2 * P + positions, lse, mask=inside)
        tl.store(scales + s * 2 * P + P + positions, slope, mask=inside)
    for n in tl.static_range(STREAMS * (STREAMS - 1) // 2):  # the log-sum-exps cancel in a symmetric divergence
        one, other = known[n], known[(n + 1) % STREAMS]
        value = 0.5 * (one[4][0] / one[1] + other[4][STREAMS - 2] / other[1])
        tl.store(divergences + n * tied + positions, value, mask=positions < tied)


@triton.jit
def _sum(values, begin, end, BLOCK: tl.constexpr):
    parts = tl.full([BLOCK], 0.0, tl.float32)
    for first in range(begin, end, BLOCK):
        n = first + tl.arange(0, BLOCK)
        parts += tl.load(values + n, mask=n < end, other=0.0)
    return tl.sum(parts, 0)


@triton.jit(do_not_specialize=["N", "tied"])
def joint_loss_terms_kernel(
    losses, divergences, total, terms, N, tied, begins, cross_entropy, weights, label_smoothing,
    PLACES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The means over rows, and their weighted sum. One program."""
    sum_of_terms = 0.0
    for s in tl.static_range(len(cross_entropy)):
        begin, end = tl.cast(begins[s], tl.int32), tl.cast(begins[s + 1], tl.int32)
        count = tl.maximum(end - begin, 1)
        nll = _sum(losses, begin, end, BLOCK) / count
        uniform = _sum(losses + N, begin, end, BLOCK) / count
        smoothed = (1.0 - label_smoothing) * nll + label_smoothing * uniform
        tl.store(terms + s, nll)
        tl.store(terms + len(cross_entropy) + s, smoothed)
        sum_of_terms += cross_entropy[s] * smoothed
    for n in tl.static_range(len(PLACES)):
        if PLACES[n] >= 0:
            value = _sum(divergences + n * tied, 0, tied, BLOCK) / tl.maximum(tied, 1)
            tl.store(terms + 2 * len(cross_entropy) + PLACES[n], value)
            sum_of_terms += weights[n] * value
    tl.store(total, sum_of_terms)


@triton.jit(do_not_specialize=["P", "first", "tied"])
def joint_loss_bwd_logits_kernel(
    hidden, stride_h, weight, stride_w, targets, slots, scales, gradients, stride_g,
    P, V, C, first, tied, begins, factors, pulls, label_smoothing,
    STREAMS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of one block's logits, [N, block]; the block begins with token `first`."""
    positions = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    rows = [tl.load(slots + s * P + positions, mask=positions < P, other=-1) for s in (0, 1, 2)[:STREAMS]]
    places = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    tokens = first + places
    z = _logits(hidden, stride_h, rows, weight, stride_w, tokens, V, C, STREAMS, PRECISION, BLOCK_V, BLOCK_P, BLOCK_C)
    at = [scales + s * 2 * P + positions for s in (0, 1, 2)[:STREAMS]]
    p = [tl.exp(z[s] - tl.load(at[s], mask=positions < P, other=0.0)[None, :]) for s in (0, 1, 2)[:STREAMS]]
    are_tied = tl.program_id(0) * BLOCK_P < tied
    for s in tl.static_range(STREAMS):
        target = tl.load(targets + rows[s], mask=rows[s] >= 0, other=-1).to(tl.int32)
        wanted = tl.where(tokens[:, None] == target[None, :], 1.0 - label_smoothing, 0.0) + label_smoothing / V
        others = wanted * _of_stream(rows[s], begins, factors)[None, :]
        own = tl.load(at[s] + P, mask=positions < P, other=0.0)[None, :]
        for j in tl.static_range(STREAMS - 1):
            pull = tl.where(are_tied, pulls[s * (STREAMS - 1) + j], 0.0)
            own += pull * (z[s] - z[(s + 1 + j) % STREAMS])
            others += pull * p[(s + 1 + j) % STREAMS]
        gradient = tl.where((tokens < V)[:, None], p[s] * own - others, 0.0)
        at_row = gradients + rows[s].to(tl.int64)[None, :] * stride_g
        tl.store(at_row + places[:, None], gradient.to(gradients.dtype.element_ty), mask=(rows[s] >= 0)[None, :])


def _slots(masked: dict[int, Tensor], begins: list[int], tied: list[int], block: int, device) -> Tensor:
    """Each position's rows of hidden, [streams, P], -1 for none: whole blocks of those tied together, then others."""
    rule = "ar_masked must be distinct rows in [0, {})"
    every = torch.arange(begins[-1], device=device)
    together = [every[begins[s] : begins[s + 1]] for s in tied] or [every[:0]]
    for s, chosen in masked.items():
        count = begins[s + 1] - begins[s]
        _check((chosen >= 0) & (chosen < count), rule.format(count))
        together[tied.index(s)] = chosen + begins[s] if s else chosen
    streams, together = len(together), torch.stack(together)
    taken = torch.zeros_like(every).index_fill_(0, together.flatten(), 1)
    for s, chosen in masked.items():
        own = taken[begins[s] : begins[s + 1]]
        _check(own.sum() == chosen.numel(), rule.format(len(own)))
    apart = taken.argsort(stable=True)[: begins[-1] - together.numel()]
    apart = F.pad(apart, (0, -apart.numel() % streams), value=-1).view(streams, -1)
    return torch.cat([F.pad(together, (0, -together.shape[1] % block), value=-1), apart], 1).int()


def _check(condition: Tensor, rule: str) -> None:  # on the device
    torch._assert_async(condition.all(), f"joint_loss: {rule}")


def _weights(
    pairs: list[int], divergence: list[float], detached: list[int], tied: list[int]
) -> tuple[list[float], list[float], tuple[int, ...]]:
    """How much its divergence from each neighbour moves each of a position's rows; and of each row and its first
    neighbour, as often as pairs of rows are different, how much their divergence weighs, and the term's number or -1.
    """
    term_of = {}
    for n, (a, b) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        term_of[a, b] = term_of[b, a] = n
    streams = len(tied)
    neighbours = [(s, tied[(i + j) % streams]) for i, s in enumerate(tied) for j in range(1, streams)]
    terms = [term_of.get(pair, -1) for pair in neighbours]
    pulls = [divergence[n] if n >= 0 and detached[n] != s else 0.0 for n, (s, _) in zip(terms, neighbours, strict=True)]
    places = tuple(terms[:: max(streams - 1, 1)][: streams * (streams - 1) // 2])
    return pulls, [divergence[n] if n >= 0 else 0.0 for n in places], places


def _tiles(streams: int, dtype: torch.dtype) -> dict:
    exact = dtype == torch.float32
    positions = (16 if exact else 32) if streams > 1 else 64 if exact else 128
    return {
        "BLOCK_V": 128, "BLOCK_P": positions, "BLOCK_C": 32 if exact else 64,
        "num_warps": 4 if streams > 1 and not exact else 8, "num_stages": 3,
    }  # fmt: skip


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """sums += left @ right in float32, whatever the dtype of the factors."""
    if left.dtype == torch.float32:
        torch.addmm(sums, left, right, out=sums)
    elif left.is_cuda and not torch.version.hip:
        torch.addmm(sums, left, right, out_dtype=torch.float32, out=sums)
    else:  # where torch has no such product
        torch.addmm(sums, left.float(), right.float(), out=sums)


def joint_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, ar_masked: Tensor, rows: list[int], cross_entropy: list[float],
    pairs: list[int], divergence: list[float], detached: list[int], label_smoothing: float, gradients: bool,
    masked: Sequence[int] = (0,), *, gradient_bytes: int = GRADIENT_BYTES,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    count, (vocabulary, channels) = hidden.shape[0], weight.shape
    total = hidden.new_zeros((), dtype=torch.float32)
    terms = hidden.new_zeros(2 * len(rows) + len(divergence), dtype=torch.float32)
    grad_hidden = hidden.new_empty(hidden.shape if gradients else (0, channels))
    grad_weight = weight.new_empty(weight.shape if gradients else (0, channels))
    if count == 0:
        return total, terms, grad_hidden, grad_weight.zero_()
    if count >= 2**24:
        raise ValueError(f"joint_loss: hidden must have fewer than 2^24 rows, got {count}")
    _check((targets >= 0) & (targets < vocabulary), f"targets must be in [0, V = {vocabulary})")
    begins, tied = list(accumulate(rows, initial=0)), sorted(set(pairs))
    parts = ar_masked.view(max(len(masked), 1), -1)
    chosen = {s: part for s, part in zip(masked, parts, strict=False) if s in tied}
    tied_positions = (chosen[tied[0]].numel() if tied[0] in chosen else rows[tied[0]]) if tied else 0
    streams = max(len(tied), 1)
    tiles = _tiles(streams, hidden.dtype) | {"PRECISION": input_precision(hidden.dtype, channels)}
    slots = _slots(chosen, begins, tied, tiles["BLOCK_P"], hidden.device)
    positions = slots.shape[1]

    pulls, weights, places = _weights(pairs, divergence, detached, tied)
    factors = [w / max(n, 1) for w, n in zip(cross_entropy, rows, strict=True)]
    pulls = [w / (2 * max(tied_positions, 1)) for w in pulls]
    scale = 1 / (max(map(abs, (*factors, *pulls))) or 1.0)  # makes gradients of logits as large as probabilities
    moves = (*(scale * f for f in factors),), (*(scale * p for p in pulls), 0.0)  # Triton knows no empty tuple

    # As floats, which have them exactly: for integers of a tuple Triton would compile anew where 16 divides them.
    starts = tuple(map(float, begins))
    grid = triton.cdiv(positions, tiles["BLOCK_P"]), triton.cdiv(vocabulary, tiles["BLOCK_V"])
    statistics = hidden.new_empty((grid[1], streams, 3 + streams, positions), dtype=torch.float32)
    losses = hidden.new_empty((2, count), dtype=torch.float32)
    divergences = hidden.new_empty((len(places), tied_positions), dtype=torch.float32)
    scales = hidden.new_empty((streams, 2, positions), dtype=torch.float32)
    joint_loss_fwd_kernel[grid](
        hidden, hidden.stride(0), weight, weight.stride(0), targets, slots, statistics,
        positions, vocabulary, channels, STREAMS=streams, **tiles,
    )  # fmt: skip
    joint_loss_merge_kernel[(triton.cdiv(positions, 32),)](
        statistics, slots, losses, divergences, scales, count, positions, vocabulary, grid[1], tied_positions,
        starts, *moves, STREAMS=streams, BLOCK_T=32, BLOCK_P=32,
    )  # fmt: skip
    joint_loss_terms_kernel[(1,)](
        losses, divergences, total, terms, count, tied_positions, starts, tuple(cross_entropy),
        (*weights, 0.0),
        label_smoothing, PLACES=places, BLOCK=1024, num_warps=8,
    )  # fmt: skip
    if not gradients:
        return total, terms, grad_hidden, grad_weight

    block = max(gradient_bytes // (count * hidden.element_size() * tiles["BLOCK_V"]), 1) * tiles["BLOCK_V"]
    block = min(block, grid[1] * tiles["BLOCK_V"])
    logits = hidden.new_empty(count, block)
    sums = hidden.new_zeros((count, channels), dtype=torch.float32)
    for first in range(0, vocabulary, block):
        size = min(block, vocabulary - first)
        joint_loss_bwd_logits_kernel[(grid[0], triton.cdiv(size, tiles["BLOCK_V"]))](
            hidden, hidden.stride(0), weight, weight.stride(0), targets, slots, scales, logits, block,
            positions, vocabulary, channels, first, tied_positions, starts, *moves, label_smoothing,
            STREAMS=streams, **tiles,
        )  # fmt: skip
        some, here = logits[:, :size], slice(first, first + size)
        torch.addmm(grad_weight[here], some.t(), hidden, beta=0, alpha=1 / scale, out=grad_weight[here])
        _add_product(sums, some, weight[here])
    return total, terms, sums.div_(scale).to(hidden.dtype), grad_weight
