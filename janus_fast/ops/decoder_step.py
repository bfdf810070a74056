"""All layers of a decoder over the rows of a step."""

from dataclasses import fields

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.inputs import choice
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, library, normal
from janus_fast.packing import offsets_of
from janus_fast.reference.decoder_step import hidden_of, shapes
from janus_fast.reference.linear_activation import ACTIVATIONS
from janus_fast.visibility import FOREVER, Visibility

MOST_ROWS, MOST_FLOATS = 8, (96 << 10) // 4  # in shared memory; of the CUDA kernel


def decoder_step(
    x: Tensor, caches: Tensor, places: Tensor, cross_keys: Tensor, parameters: Tensor, visibility: Visibility,
    cross_visibility: Visibility, *, activation: str = "relu", normalize_before: bool = False, eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:  # fmt: skip
    """The layers of a Transformer's decoder over a few rows, as in a step of greedy search: one launch on a GPU.

    Computes, for every layer, where ``block(f, x)`` is ``norm(x + f(x))``, or ``x + f(norm(x))`` where norms stand
    before,

        query, key, value = linear(x).split(C, 1)
        cache[places] = stack([key, value], 1)[:R]              # keys and values of the first rows, in place
        x = block(out(attention(query, *cache, visibility)), x)
        x = block(cross_out(attention(cross_query(x), *keys, cross_visibility)), x)
        x = block(second(activation(first(x))), x)

    Args:
        x: [N, C] float32 or bfloat16 (other floating types: reference), embedded. The CUDA kernel takes up to 8 rows,
            fewer where wide feed-forward blocks of them do not fit shared memory, and heads of multiples of 16 up to
            128.
        caches: [L, Nk, 2, H, D] with H D = C, contiguous; keys and values of each layer.
        places: [R] int64, R at most N, rows of ``caches``, all different.
        cross_keys: [L, Ns, 2, H, D], keys and values of the sources; the last three dimensions are contiguous.
        parameters: [L, P], contiguous; what each layer has, one after another, in the order that
            ``janus_fast/reference/decoder_step.py`` lists.
        visibility, cross_visibility: which rows see which rows of ``caches``, and of ``cross_keys``.
        activation: as of ``linear_activation``.
        normalize_before: norms stand before each block; none stands behind the last one then.
        eps: added to the variance in every norm, at least 0.
        backend: "auto" or one of ``janus_fast.backends("decoder_step", device)``. On the CPU it is the definition.
    Returns:
        [N, C] in the dtype of ``x``; the CUDA kernel keeps all but ``caches`` in float32 on the way. The reference is
        differentiable.
    Raises:
        ValueError: shapes or devices differ, what must be contiguous is not, eps is out of range, or there is no such
            activation.
        TypeError: dtypes differ, a tensor is sparse, or an argument is of another kind.
        NotImplementedError: the named backend cannot run this call.
    Source: Vaswani et al. 2017, section 3.
    """
    op = "decoder_step"
    _check.switches(op, normalize_before=normalize_before)
    _check.numbers(op, eps=eps)
    if eps < 0:
        raise ValueError(f"{op}: eps must be at least 0, got {eps}")
    _check.matrix(op, "x", x)
    channels = x.shape[1]
    for name, tensor in (("caches", caches), ("cross_keys", cross_keys)):
        _check.floating(op, name, tensor)
        if tensor.ndim != 5 or tensor.shape[2] != 2 or tensor.shape[3] * tensor.shape[4] != channels:
            letters = f"[L, {'Nk' if tensor is caches else 'Ns'}, 2, H, D] with H * D = {channels}"
            raise ValueError(f"{op}: {name} must have shape {letters}, got {list(tensor.shape)}")
    if cross_keys.shape[0] != caches.shape[0] or cross_keys.shape[3:] != caches.shape[3:]:
        rule = f"[{caches.shape[0]}, Ns, 2, {caches.shape[3]}, {caches.shape[4]}], the layers and heads of caches"
        raise ValueError(f"{op}: cross_keys must have shape {rule}, got {list(cross_keys.shape)}")
    _check.matrix(op, "parameters", parameters, letters="L, P")
    if parameters.shape[0] != caches.shape[0] or hidden_of(parameters.shape[1], channels) is None:
        rule = f"[{caches.shape[0]}, 6 C^2 + 2 C F + 13 C + F] with C = {channels} and F of at least 1"
        raise ValueError(f"{op}: parameters must have shape {rule}, got {list(parameters.shape)}")
    for name, tensor in (("caches", caches), ("parameters", parameters), ("cross_keys[0, 0]", cross_keys[:1, :1])):
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {list(tensor.stride())}")
    _check.vector(op, "places", places, None, torch.int64)
    if places.shape[0] > x.shape[0]:
        raise ValueError(f"{op}: places must have at most the rows of x, {x.shape[0]}, got {places.shape[0]}")
    _check.same(op, ("x", x), ("caches", caches), ("cross_keys", cross_keys), ("parameters", parameters))
    _check.same(op, ("x", x), ("places", places), dtype=False)
    integers = []
    for name, seen, keys in (("visibility", visibility, caches), ("cross_visibility", cross_visibility, cross_keys)):
        if not isinstance(seen, Visibility):
            raise TypeError(f"{op}: {name} must be a janus_fast.Visibility, got {type(seen).__name__}")
        if (seen.num_queries, seen.num_keys) != (x.shape[0], keys.shape[1]):
            rule = f"be of {x.shape[0]} queries and {keys.shape[1]} keys"
            raise ValueError(f"{op}: {name} must {rule}, got {seen.num_queries} and {seen.num_keys}")
        _check.same(op, ("x", x), (name, seen.query_offsets), dtype=False)
        integers += vars(seen).values()
    choice(f"{op}: activation", activation, [*ACTIVATIONS])
    arguments = x, caches, places, cross_keys, parameters, *integers, activation, normalize_before, eps
    chosen = operation.choose(backend, x, caches, places, cross_keys, parameters)
    if chosen == "reference" and not torch.is_grad_enabled():
        # As one operator where no gradients are asked for, so that what is traced on a CPU is what a GPU is given.
        return torch.ops.janus_fast.decoder_step(*arguments)
    return operation.run(chosen, *arguments)


def _limits(backend, x, caches=None, places=None, cross_keys=None, parameters=None, *rest):
    if backend != "cuda" or parameters is None:
        return None
    (rows, channels), size = x.shape, caches.shape[4]
    hidden = hidden_of(parameters.shape[1], channels)
    if rows > MOST_ROWS:
        return f"it takes at most {MOST_ROWS} rows, not {rows}"
    if size % 16 or size > 128:
        return f"its head sizes are multiples of 16 up to 128, not {size}"
    if hidden % 8:
        return f"its feed-forward blocks have multiples of 8 channels, not {hidden}"
    if rows * max(channels, hidden) + 2 * MOST_ROWS + 128 + 16 * 130 > MOST_FLOATS:
        return f"{rows} rows of {max(channels, hidden)} channels do not fit shared memory"
    return None


def _samples():
    make = torch.Generator().manual_seed(12)

    def case(rows, heads=2, size=16, hidden=40, activation="relu", before=False, content=None, spread=1.0, layers=2):
        """Rows of two sentences, the first of which has the larger half."""
        channels, content = heads * size, rows if content is None else content
        x = normal(make, rows, channels)
        caches, cross = normal(make, layers, 23, 2, heads, size), normal(make, 19, layers, 2, heads, size)
        scales = [spread * (shape[1] ** -0.5 if len(shape) == 2 else 1.0) for shape in shapes(channels, hidden)]
        parts = [normal(make, layers, *shape).flatten(1) for shape in shapes(channels, hidden)]
        parameters = torch.cat([part * scale for part, scale in zip(parts, scales, strict=True)], 1)
        places = torch.randperm(23, generator=make)[:content]
        halves = offsets_of(torch.tensor([rows - rows // 2, rows // 2]))

        def seen(key_lengths, forever):
            keys = sum(key_lengths)
            first = torch.randint(0, 4, (keys,), generator=make, dtype=torch.int32) * (not forever)
            until = torch.randint(3, 9, (keys,), generator=make, dtype=torch.int32)
            times = torch.randint(0, 6, (rows,), generator=make, dtype=torch.int32)
            until = torch.full_like(first, FOREVER) if forever else until
            return halves, offsets_of(torch.tensor(key_lengths)), torch.tensor([1, 0]).int(), times, first, until

        integers = *seen([17, 6], False), *seen([8, 11], True)
        return x, caches, places, cross.transpose(0, 1), parameters, *integers, activation, before, 1e-5

    yield "odd_sizes", case(5)
    yield "one_row", case(1)
    yield "most_rows", case(MOST_ROWS, heads=3)
    yield "query_rows", case(6, content=3)
    yield "nothing_is_kept", case(2, content=0, before=True)
    yield "norms_before", case(3, before=True)
    yield "one_layer", case(2, layers=1)
    yield "one_head", case(2, heads=1, size=128, hidden=264)
    yield "no_rows", case(0)
    for activation in ACTIVATIONS:
        yield activation, case(2, activation=activation, before=True, spread=2.0)
    *given, activation, before, eps = case(4)
    given[10] = given[9].clone()  # visible until they are visible
    yield "sees_nothing", (*given, activation, before, eps)


def _work(x, caches, places, cross_keys, parameters, *rest):
    (rows, channels), layers = x.shape, caches.shape[0]
    pairs = [int(Visibility(*integers).dense().sum()) for integers in (rest[:6], rest[6:12])]
    size = parameters.numel() + 2 * layers * channels * (sum(pairs) + places.numel()) + 2 * x.numel()
    return size * x.element_size(), 2 * rows * parameters.numel() + 4 * layers * channels * sum(pairs)


_INTEGERS = ", ".join(f"Tensor {prefix}{field.name}" for prefix in ("", "cross_") for field in fields(Visibility))

operation = Operation(
    "decoder_step",
    schema="(Tensor x, Tensor(a!) caches, Tensor places, Tensor cross_keys, Tensor parameters, "
    f"{_INTEGERS}, str activation, bool normalize_before, float eps) -> Tensor",
    reference=reference.decoder_step,
    fake=lambda x, *rest: x.new_empty(x.shape),
    samples=_samples,
    work=_work,
    cuda_dtypes=(torch.float32, torch.bfloat16),
    limits=_limits,
)
library.impl("decoder_step", reference.decoder_step, "CompositeExplicitAutograd")  # on any device
