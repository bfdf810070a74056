"""The joint loss of the autoregressive, non-autoregressive and auxiliary distributions."""

from torch import Tensor

from ..reference.joint_loss import joint_loss as reference_joint_loss

CROSS_ENTROPY = {"ar": 1.0, "nar": 0.5, "aux": 0.5}
DIVERGENCE = {("ar", "nar"): 1.0, ("ar", "aux"): 3.0, ("nar", "aux"): 1.0}


def joint_loss(
    hidden: dict[str, Tensor],
    weight: Tensor,
    targets: dict[str, Tensor],
    ar_masked: Tensor | None = None,
    *,
    cross_entropy: dict[str, float] | None = None,
    divergence: dict[tuple[str, str], float] | None = None,
    label_smoothing: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted cross-entropies and symmetric Kullback-Leibler divergences of up to three distributions, in nats.

    Computes, with ``log_p[s] = (hidden[s] @ weight.T).log_softmax(-1)`` for the streams s = ar, nar, aux,

        ce(s) = (1 - label_smoothing) * mean(-log_p[s][row, target]) + label_smoothing * mean(-log_p[s])
        J(s, t) = mean over rows of 0.5 * ((p[s] - p[t]) * (log_p[s] - log_p[t])).sum(-1)
        total = sum(cross_entropy[s] * ce(s)) + sum(divergence[s, t] * J(s, t))

    Gradients flow into both sides of every J. An empty set of rows contributes 0.

    Args:
        hidden: rows of each stream, [N_s, C]; ``nar`` and ``aux`` predict the same tokens in the same order.
        weight: [V, C], the output matrix.
        targets: [N_s] int64 per stream.
        ar_masked: [N_nar] int64, the ``ar`` row of each ``nar`` row; needed where a divergence names ``ar``.
        cross_entropy, divergence: weights of the terms; the defaults are the original's, cut to the streams given.
        label_smoothing: the weight of the uniform distribution.
    Returns:
        The total, accumulated in float32 or better, and a dict of its unweighted terms.
    Raises:
        ValueError: a term names a stream that ``hidden`` lacks, targets do not match rows, ``ar_masked`` is missing.
    Source: JANUS (EMNLP 2022), equations of the joint objective; weights as in the authors' code.
    """
    if cross_entropy is None:
        cross_entropy = {s: w for s, w in CROSS_ENTROPY.items() if s in hidden}
    if divergence is None:
        divergence = {pair: w for pair, w in DIVERGENCE.items() if set(pair) <= hidden.keys()}
    for stream in [*cross_entropy, *(s for pair in divergence for s in pair)]:
        if stream not in hidden:
            raise ValueError(f"joint_loss: hidden must hold every stream that a term names, got no {stream!r}")
    for stream, rows in hidden.items():
        if rows.dim() != 2 or rows.shape[1] != weight.shape[1]:
            raise ValueError(
                f"joint_loss: hidden[{stream!r}] must have shape [N, C] = [*, {weight.shape[1]}], "
                f"got {list(rows.shape)}"
            )
    for stream in cross_entropy:
        if targets[stream].shape != hidden[stream].shape[:1]:
            raise ValueError(
                f"joint_loss: targets[{stream!r}] must have shape [{hidden[stream].shape[0]}], "
                f"got {list(targets[stream].shape)}"
            )
    if ar_masked is None and any("ar" in pair for pair in divergence):
        raise ValueError("joint_loss: ar_masked must be given when a divergence names 'ar', got None")
    for first, second in divergence:
        sizes = [ar_masked.numel() if s == "ar" else hidden[s].shape[0] for s in (first, second)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"joint_loss: streams {first!r} and {second!r} must predict the same rows, "
                f"got {sizes[0]} and {sizes[1]}"
            )
    return reference_joint_loss(hidden, weight, targets, ar_masked, cross_entropy, divergence, label_smoothing)
