"""The joint loss of several distributions over the same vocabulary, without logits in memory."""

from collections.abc import Mapping

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation, needs_gradients, normal, once

MOST_STREAMS, MOST_TIED = 8, 3
CROSS_ENTROPY = {"ar": 1.0, "nar": 0.5, "aux": 0.5}
DIVERGENCE = {("ar", "nar"): 1.0, ("ar", "aux"): 3.0, ("nar", "aux"): 1.0}


def joint_loss(
    hidden: dict[str, Tensor],
    weight: Tensor,
    targets: dict[str, Tensor],
    ar_masked: Tensor | Mapping[str, Tensor] | None = None,
    *,
    cross_entropy: dict[str, float] | None = None,
    divergence: dict[tuple[str, str], float] | None = None,
    detach: dict[tuple[str, str], str] | None = None,
    label_smoothing: float = 0.1,
    backend: str = "auto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted cross-entropies and symmetric Kullback-Leibler divergences of up to eight distributions, in nats.

    Computes, with ``log_p[s] = (hidden[s] @ weight.T).log_softmax(-1)`` for the streams s, such as ar, nar and aux,

        ce(s) = (1 - label_smoothing) * mean(-log_p[s][row, target]) + label_smoothing * mean(-log_p[s])
        J(s, t) = mean over rows of 0.5 * ((p[s] - p[t]) * (log_p[s] - log_p[t])).sum(-1)
        total = sum(cross_entropy[s] * ce(s)) + sum(divergence[s, t] * J(s, t))

    without holding logits of more than a few rows. Gradients flow into both sides of every J, unless ``detach`` keeps
    them from one. An empty set of rows contributes 0. Under autocast, rows and weight are taken in its dtype.

    Args:
        hidden: rows of each stream, [N_s, C] float32 or bfloat16, with Triton also float16 (other floating types:
            reference), under any names; those that divergences tie, three at most, predict the same tokens in the
            same order.
        weight: [V, C], the output matrix, dtype and device of ``hidden``; C is at least 1.
        targets: [N_s] int64 per stream.
        ar_masked: [N_nar] int64, the ``ar`` row of each ``nar`` row, none twice; needed where a divergence names
            ``ar``, left alone where there is none. Or by stream the rows of it that divergences compare: all of a
            stream that is not named.
        cross_entropy, divergence: weights of the terms, finite numbers; the defaults are the original's, cut to the
            streams given, and 1 for cross-entropies of other streams.
        detach: for a pair of ``divergence``, the stream that its gradient must not reach, as a teacher.
        label_smoothing: the weight of the uniform distribution, in [0, 1].
        backend: "auto" or one of ``janus_fast.backends("joint_loss", device)``.
    Returns:
        The total, accumulated in float32 or better, differentiable in ``hidden`` and ``weight`` (kernels once,
        ``backend="reference"`` as often as you like); and a dict of its unweighted terms, to look at: no gradient flows
        back from them. The kernels compute the gradients along with the total, the same to the bit in every call,
        whatever the number of threads.
    Raises:
        ValueError: a term names a stream that ``hidden`` lacks, targets do not match rows, ``ar_masked`` is missing;
            there are more streams than eight, or more tied ones than three, or a number is out of range.
        TypeError: dtypes differ, a tensor is sparse, or a number is none.
        NotImplementedError: the named backend cannot run this call.
        RuntimeError: targets that are no tokens, or ``ar_masked`` that are no rows; on a GPU when it comes to it, for
            nothing waits for it.
    Source: JANUS (EMNLP 2022), equations of the joint objective; weights as in the authors' code.
    """
    op = "joint_loss"
    _check.mapping(op, "hidden", hidden, "streams to [N, C] rows, not logits")
    _check.mapping(op, "targets", targets, "streams to [N] tokens")
    if cross_entropy is None:
        cross_entropy = {s: CROSS_ENTROPY.get(s, 1.0) for s in hidden}
    if divergence is None:
        divergence = {pair: w for pair, w in DIVERGENCE.items() if all(s in hidden for s in pair)}
    detach, streams = {} if detach is None else detach, list(hidden)
    _check.mapping(op, "cross_entropy", cross_entropy, "streams to weights")
    for name, terms, what in (("divergence", divergence, "weights"), ("detach", detach, "one of both")):
        _check.mapping(op, name, terms, f"pairs of streams to {what}")
        for pair in terms:
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{op}: {name} must be a dict from pairs of streams to {what}, got the key {pair!r}")
    for name, terms in (("cross_entropy", cross_entropy), ("divergence", divergence)):
        _check.numbers(op, **{f"{name}[{key!r}]": own for key, own in terms.items()})
    _check.numbers(op, label_smoothing=label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing must be in [0, 1], got {label_smoothing}")
    if isinstance(ar_masked, Tensor):
        masked = {"ar": ar_masked} if "ar" in hidden else {}  # as in calls that leave the stream out
    elif ar_masked is None or isinstance(ar_masked, Mapping):
        masked = ar_masked or {}
    else:
        kind = type(ar_masked).__name__
        raise TypeError(f"joint_loss: ar_masked must be a tensor or a dict from streams to [M] rows, got {kind}")
    tied = list(dict.fromkeys(s for pair in divergence for s in pair))
    _check_terms(hidden, weight, targets, cross_entropy, divergence, detach)
    _check_tied(hidden, weight, tied, masked, "ar" in tied and ar_masked is None)
    weight, *given = _check.autocast(weight, *hidden.values())
    for name, rows in zip(streams, given, strict=True):
        _check.same("joint_loss", ("weight", weight), (f"hidden[{name!r}]", rows))
    wanted = [
        targets[s] if s in cross_entropy else weight.new_zeros(len(hidden[s]), dtype=torch.int64) for s in streams
    ]
    masked = {s: rows for s, rows in masked.items() if s in tied}
    arguments = (
        torch.cat(given), weight, torch.cat(wanted),
        torch.cat([*masked.values(), weight.new_empty(0, dtype=torch.int64)]), [rows.shape[0] for rows in given],
        [float(cross_entropy.get(s, 0.0)) for s in streams], [streams.index(s) for pair in divergence for s in pair],
        [float(w) for w in divergence.values()],
        [streams.index(detach[pair]) if pair in detach else -1 for pair in divergence], float(label_smoothing),
    )  # fmt: skip
    chosen = operation.choose(backend, *arguments[:2])
    # The kernels compute gradients with the total: to recompute the logits for them would cost a third more.
    gradients = chosen != "reference" and needs_gradients(*arguments[:2])
    total, terms, *_ = operation.run(chosen, *arguments, gradients, [streams.index(s) for s in masked])
    nll, smoothed, divergences = terms.detach().split([len(streams), len(streams), len(divergence)])
    named = {}
    for s in cross_entropy:
        named[f"{s}_nll"], named[f"{s}_ce"] = nll[streams.index(s)], smoothed[streams.index(s)]
    for (first, second), value in zip(divergence, divergences, strict=True):
        named[f"kl_{first}_{second}"] = value
    return total, named


def _keep(ctx, results, *arguments):
    total, _, *gradients = results
    return total, *(g if wanted else None for g, wanted in zip(gradients, ctx.needs_input_grad, strict=False))


def _backward(ctx, gradient, total, *gradients):
    scaled = iter(once(ctx, _scaled, gradient, total, *(g for g in gradients if g is not None)))
    return *(None if g is None else next(scaled) for g in gradients), *[None] * 10


def _scaled(gradient, total, *gradients):
    return tuple(gradient * g for g in gradients)


def _check_terms(hidden, weight, targets, cross_entropy, divergence, detach) -> None:
    if not 1 <= len(hidden) <= MOST_STREAMS:
        raise ValueError(f"joint_loss: hidden must hold from 1 to {MOST_STREAMS} streams, got {len(hidden)}")
    for stream in [*cross_entropy, *(s for pair in divergence for s in pair)]:
        if stream not in hidden:
            raise ValueError(f"joint_loss: hidden must hold every stream that a term names, got no {stream!r}")
    _check.matrix("joint_loss", "weight", weight, letters="V, C")
    if weight.shape[0] == 0:
        raise ValueError(f"joint_loss: weight must have at least one row, got shape {list(weight.shape)}")
    for stream, rows in hidden.items():
        _check.matrix("joint_loss", f"hidden[{stream!r}]", rows, weight.shape[1])
    for stream in cross_entropy:
        if stream not in targets:
            raise ValueError(f"joint_loss: targets must hold every stream of cross_entropy, got no {stream!r}")
        own = f"targets[{stream!r}]", targets[stream]
        _check.vector("joint_loss", *own, hidden[stream].shape[0], torch.int64)
        _check.same("joint_loss", ("weight", weight), own, dtype=False)
    for first, second in divergence:
        if first == second or (second, first) in divergence:
            raise ValueError(f"joint_loss: divergence must name pairs of streams once, got {(first, second)}")
    for pair, stream in detach.items():
        if pair not in divergence or stream not in pair:
            raise ValueError(f"joint_loss: detach must name a stream of a divergence's pair, got {pair}: {stream!r}")


def _check_tied(hidden, weight, tied, masked, lacks_masked: bool) -> None:
    if lacks_masked:
        raise ValueError("joint_loss: ar_masked must be given when a divergence names 'ar', got None")
    if len(tied) > MOST_TIED:
        raise ValueError(f"joint_loss: divergence must tie at most {MOST_TIED} streams, got {len(tied)}")
    for stream, rows in masked.items():
        if stream not in hidden:
            raise ValueError(f"joint_loss: ar_masked must be of streams of hidden, got {stream!r}")
        _check.vector("joint_loss", "ar_masked", rows, None, torch.int64)
        _check.same("joint_loss", ("weight", weight), ("ar_masked", rows), dtype=False)
    sizes = {s: masked[s].numel() if s in masked else hidden[s].shape[0] for s in tied}
    for stream, size in sizes.items():
        if size != sizes[tied[0]]:
            raise ValueError(
                f"joint_loss: streams {tied[0]!r} and {stream!r} must predict the same rows, "
                f"got {sizes[tied[0]]} and {size}"
            )


def _fake(
    hidden, weight, targets, ar_masked, rows, cross_entropy, pairs, divergence, detached, smoothing, gradients,
    masked=(0,),
):  # fmt: skip
    accumulate = torch.promote_types(weight.dtype, torch.float32)
    return (
        hidden.new_empty((), dtype=accumulate),
        hidden.new_empty((2 * len(rows) + len(divergence),), dtype=accumulate),
        hidden.new_empty(hidden.shape if gradients else (0, hidden.shape[1])),
        weight.new_empty(weight.shape if gradients else (0, weight.shape[1])),
    )


def _samples():
    """(label, (hidden, weight, targets, ar_masked, rows, weights of terms ..)): subsets of terms, odd sizes."""
    make = torch.Generator().manual_seed(3)

    def case(rows, channels, vocabulary, cross_entropy, pairs=(), divergence=(), detached=None, spread=1.0, **options):
        hidden = normal(make, sum(rows), channels) * spread
        weight = normal(make, vocabulary, channels) * channels**-0.5
        targets = torch.randint(vocabulary, (sum(rows),), generator=make)
        masked = torch.randperm(rows[0], generator=make)[: max(rows[1:]) if 0 in pairs else 0]
        detached = [-1] * len(divergence) if detached is None else detached
        smoothing, gradients = options.get("smoothing", 0.1), options.get("gradients", True)
        lists = list(rows), list(cross_entropy), list(pairs), list(divergence), detached
        return hidden, weight, targets, masked, *lists, smoothing, gradients

    joint = (1.0, 0.5, 0.5), (0, 1, 0, 2, 1, 2), (1.0, 3.0, 1.0)
    yield "janus", case((150, 90, 90), 64, 1700, *joint)
    yield "no_gradients", case((150, 90, 90), 64, 1700, *joint, gradients=False)
    yield "odd_sizes", case((41, 23, 23), 19, 259, *joint)
    yield "autoregressive", case((200, 0, 0), 61, 500, (1.0, 0.0, 0.0))
    yield "cmlm", case((0, 70, 0), 32, 333, (0.0, 1.0, 0.0), smoothing=0.0)
    yield "two_streams", case((60, 33, 0), 48, 600, (1.0, 1.0, 0.0), (1, 0), (2.0,))
    yield "divergence_alone", case((0, 30, 30), 16, 100, (0.0, 0.0, 0.0), (1, 2), (1.0,), detached=[2])
    yield "teachers", case((50, 20, 20), 33, 400, *joint, detached=[0, 2, -1])
    yield "one_row", case((1, 1, 1), 128, 97, *joint)
    yield "one_token", case((4, 2, 2), 8, 1, *joint, gradients=False)
    yield "two_tokens", case((4, 2, 2), 8, 2, *joint)
    yield "no_rows", case((0, 0, 0), 16, 40, *joint)
    yield "extreme_logits", case((20, 9, 9), 32, 600, *joint, spread=60.0)
    hidden, weight, *rest = case((40, 25, 25), 24, 300, *joint)
    yield "strided", (torch.stack([hidden] * 2, 1)[:, 1], torch.stack([weight] * 2, 1)[:, 0], *rest)
    hidden, weight, targets, _, *rest = case((31, 17, 31, 0, 9), 24, 300, (1.0,) * 5, (2, 0), (5.0,))
    yield "five_streams", (hidden, weight, targets, torch.empty(0, dtype=torch.int64), *rest, [])
    hidden, weight, targets, _, *rest = case((20, 30, 25, 12), 24, 300, (1.0,) * 4, (0, 2, 1, 2), (1.0, 2.0))
    masked = torch.cat([torch.randperm(n, generator=make)[:12] for n in (20, 30, 25)])
    yield "masked_streams", (hidden, weight, targets, masked, *rest, [0, 1, 2])
    yield "two_divergences", case((40, 12, 12), 24, 300, (1.0, 0.5, 0.5), (2, 0, 0, 1), (3.0, 1.0), detached=[-1, 0])


def _work(hidden, weight, *rest):
    products, passes = (3, 4) if rest[8] else (1, 1)  # with gradients, both matrices are read and two are written
    return (
        passes * (hidden.numel() + weight.numel()) * hidden.element_size(),
        2 * products * hidden.shape[0] * weight.numel(),
    )


operation = Operation(
    "joint_loss",
    schema="(Tensor hidden, Tensor weight, Tensor targets, Tensor ar_masked, int[] rows, float[] cross_entropy, "
    "int[] pairs, float[] divergence, int[] detached, float label_smoothing, bool gradients, "
    "int[] masked=[0])"
    " -> (Tensor total, Tensor terms, Tensor grad_hidden, Tensor grad_weight)",
    reference=reference.joint_loss,
    fake=_fake,
    samples=_samples,
    work=_work,
    keep=_keep,
    backward=_backward,
    cpp_dtypes=(torch.float32, torch.bfloat16),
    triton_dtypes=(torch.float32, torch.bfloat16, torch.float16),
)
