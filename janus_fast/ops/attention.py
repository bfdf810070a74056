"""Attention over visibility intervals."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, define, normal, once
from janus_fast.packing import offsets_of
from janus_fast.visibility import FOREVER, Visibility


def attention(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, scale: float | None = None, *,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """Softmax attention of packed sequences, where an interval of times says which keys a query sees.

    Computes, for every head, without storing scores,

        scores = query @ key.T * scale
        weights = scores.masked_fill(~visibility.dense(), -inf).softmax(-1)
        return weights @ value        # zeros for a query that sees nothing

    Args:
        query: [Nq, H, D] float32, float64, bfloat16 or float16; any strides. H and D are at least 1.
        key: [Nk, H, D], dtype and device of ``query``.
        value: [Nk, H, D], dtype and device of ``query``. Under autocast all three are taken in its dtype.
        visibility: which query rows see which key rows. Several query sequences may name the same key sequence.
        scale: factor of the scores, a finite number; D ** -0.5 by default.
        backend: "auto" or one of ``janus_fast.backends("attention", device)``.
    Returns:
        [Nq, H, D] in the dtype of ``query``, accumulated in float32 (float64 for float64). Differentiable in
        ``query``, ``key`` and ``value``; the gradients are the same to the bit whatever the number of threads. Kernels
        have first derivatives alone; ``backend="reference"`` has all.
    Raises:
        ValueError: shapes or devices differ, or scale is not finite.
        TypeError: dtypes differ, a tensor is sparse, or scale is no number.
        NotImplementedError: the named backend cannot run this call.
        RuntimeError: offsets of ``visibility`` that do not fit the rows.
    """
    op = "attention"
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        _check.floating(op, name, tensor)
    if query.ndim != 3:
        what = "[Nq, H, D], sequences packed one after another"
        raise ValueError(f"{op}: query must have shape {what}, got {list(query.shape)}")
    _, heads, size = query.shape
    _check.not_empty(op, "query", query, H=heads, D=size)
    query, key, value = _check.autocast(query, key, value)
    _check.same(op, ("query", query), ("key", key), ("value", value))
    for name, tensor in (("key", key), ("value", value)):
        if tensor.ndim != 3 or tensor.shape[0] != key.shape[0] or tensor.shape[1:] != query.shape[1:]:
            rows = "*" if name == "key" else key.shape[0]
            raise ValueError(
                f"{op}: {name} must have shape [Nk, H, D] = [{rows}, {heads}, {size}], got {list(tensor.shape)}"
            )
    if not isinstance(visibility, Visibility):
        got = f"{visibility.dtype} {list(visibility.shape)}" if isinstance(visibility, Tensor) else repr(visibility)
        raise TypeError(
            f"{op}: visibility must be a janus_fast.Visibility, intervals instead of a dense mask, as "
            f"Visibility.causal(lengths) makes them, got {got}"
        )
    v = visibility  # its own types and shapes were checked when it was made
    for name, rows, tensor in (("num_queries", v.num_queries, query), ("num_keys", v.num_keys, key)):
        if rows != tensor.shape[0]:
            which = "query" if tensor is query else "key"
            raise ValueError(
                f"attention: visibility.{name} must be the number of rows of {which}, {tensor.shape[0]}, got {rows}"
            )
    if v.query_offsets.device != query.device:
        raise ValueError(
            f"attention: visibility must be on the device of query, {query.device}, got {v.query_offsets.device}"
        )
    integers = (v.query_offsets, v.key_offsets, v.key_sequences, v.query_times, v.visible_from, v.visible_until)
    if scale is not None:
        _check.numbers(op, scale=scale)
    scale = size**-0.5 if scale is None else float(scale)
    return operation.run(operation.choose(backend, query, key, value), query, key, value, *integers, scale)[0]


def _backward(ctx, gradient, *kept):
    if gradient.stride(-1) != 1:
        gradient = gradient.contiguous()
    return (*once(ctx, torch.ops.janus_fast.attention_bwd.default, gradient, *kept), *[None] * 7)


_INTEGERS = (
    "Tensor query_offsets, Tensor key_offsets, Tensor key_sequences, "
    "Tensor query_times, Tensor visible_from, Tensor visible_until"
)


def _fake(query, key, value, query_offsets, key_offsets, key_sequences, times, first, until, scale):
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=lse_dtype)


def _fake_bwd(grad_output, output, lse, query, key, value, *rest):
    return tuple(t.new_empty(t.shape) for t in (query, key, value))


def _samples():
    """(label, (query, key, value, offsets, times, intervals, scale)): each pattern at sizes that divide nothing."""
    make = torch.Generator().manual_seed(1)

    def case(query_lengths, key_lengths, sequences, heads, size, pattern, spread=1.0):
        query_offsets, key_offsets = (
            offsets_of(torch.tensor(x, dtype=torch.int64)) for x in (query_lengths, key_lengths)
        )
        nq, nk = sum(query_lengths), sum(key_lengths)
        times = torch.randint(0, 9, (nq,), generator=make, dtype=torch.int32)
        first = torch.randint(0, 7, (nk,), generator=make, dtype=torch.int32)
        until = first + torch.randint(0, 9, (nk,), generator=make, dtype=torch.int32)
        if pattern == "all":
            first, until = torch.zeros_like(first), torch.full_like(until, FOREVER)
        elif pattern == "causal":
            times, until = _index(query_lengths), torch.full_like(until, FOREVER)
            first = _index(key_lengths)
        elif pattern == "nothing":
            until = first.clone()
        q, k, v = normal(make, nq, heads, size) * spread, normal(make, nk, heads, size), normal(make, nk, heads, size)
        sequences = torch.tensor(sequences, dtype=torch.int32)
        return q, k, v, query_offsets, key_offsets, sequences, times, first, until, size**-0.5

    yield "encoder", case([5, 31, 1, 12], [5, 31, 1, 12], [0, 1, 2, 3], 4, 32, "all")
    yield "causal", case([7, 50, 1], [7, 50, 1], [0, 1, 2], 2, 64, "causal")
    yield "intervals", case([9, 1, 40, 13], [33, 8, 1], [0, 2, 0, 1], 3, 16, "random")
    yield "shared_keys", case([1, 1, 1, 4, 1], [19, 23], [1, 0, 1, 1, 0], 4, 24, "all")
    yield "odd_head_size", case([3, 70], [37, 67], [0, 1], 1, 19, "random")
    yield "one_token", case([1], [1], [0], 1, 8, "all")
    yield "sees_nothing", case([4, 3], [6, 2], [1, 0], 2, 16, "nothing")
    yield "empty_sequences", case([0, 5, 0], [4, 0, 3], [0, 1, 2], 2, 16, "random")
    yield "unused_keys", case([5], [4, 6], [1], 2, 16, "all")
    yield "no_queries", case([], [3], [], 2, 16, "all")
    yield "nothing_at_all", case([], [], [], 1, 8, "all")
    yield "extreme_scores", case([6], [40], [0], 2, 128, "all", spread=40.0)
    q, k, v, *rest = case([11, 6], [11, 6], [0, 1], 2, 16, "causal")
    fused = torch.stack([q, k, v], 1)  # [N, 3, H, D], as one projection of all three gives it
    yield "strided", (fused[:, 0], fused[:, 1], fused[:, 2], *rest)


def _index(lengths):
    return torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths] or [torch.zeros(0, dtype=torch.int32)])


def _limits(backend, query, *rest):
    size = query.shape[-1]
    if backend == "cuda" and (size % 16 or size > 128):
        return f"its head sizes are multiples of 16 up to 128, not {size}"
    if backend == "triton" and size > 128:
        return f"its head sizes are up to 128, not {size}"
    return None


def _work(query, key, value, *rest):
    pairs, channels = _pairs(*rest), query.shape[1] * query.shape[2]
    return (2 * query.numel() + key.numel() + value.numel()) * query.element_size(), 4 * pairs * channels


def _work_bwd(query, key, value, *rest):
    """Five products: the scores once more, and the gradients of the weights, of query, key and value."""
    pairs, channels = _pairs(*rest), query.shape[1] * query.shape[2]
    elements = 3 * query.numel() + 2 * (key.numel() + value.numel())
    return elements * query.element_size(), 10 * pairs * channels


def _pairs(*integers_and_scale):
    """Pairs of a query and a key that it sees."""
    return int(Visibility(*integers_and_scale[:-1]).dense().sum())


operation = Operation(
    "attention",
    schema=f"(Tensor query, Tensor key, Tensor value, {_INTEGERS}, float scale) -> (Tensor output, Tensor lse)",
    reference=reference.attention,
    fake=_fake,
    samples=_samples,
    work=_work,
    cpp_dtypes=(torch.float32, torch.float64, torch.bfloat16),
    cuda_dtypes=(torch.float16, torch.bfloat16),
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
    keep=lambda ctx, results, *arguments: (*results, *arguments),
    backward=_backward,
    limits=_limits,
    gradients=("query", "key", "value"),
    work_bwd=_work_bwd,
)
define(
    "attention_bwd",
    f"(Tensor grad_output, Tensor output, Tensor lse, Tensor query, Tensor key, Tensor value, {_INTEGERS}, float scale)"
    " -> (Tensor grad_query, Tensor grad_key, Tensor grad_value)",
    _fake_bwd,
    triton="attention",
)
