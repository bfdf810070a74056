"""The joint loss by definition: logits, log-softmax, cross-entropies and symmetric divergences."""

from collections.abc import Sequence

import torch
from torch import Tensor


def joint_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, ar_masked: Tensor, rows: list[int], cross_entropy: list[float],
    pairs: list[int], divergence: list[float], detached: list[int], label_smoothing: float, gradients: bool,
    masked: Sequence[int] = (0,),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The weighted sum of all terms, and the terms: -log p of the targets and its smoothed form per stream, then J.

    ``hidden`` holds ``rows`` rows of each stream, one after the other; ``pairs`` two of their numbers for each
    divergence, ``detached`` the one that it leaves alone, or -1. Divergences compare all rows of a stream, or of those
    in ``masked`` the rows in ``ar_masked``, as many of each. Last the gradients of the sum, or nothing.
    """
    if gradients:
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        with torch.enable_grad():
            total, terms, *_ = joint_loss(
                *leaves, targets, ar_masked, rows, cross_entropy, pairs, divergence, detached, label_smoothing, False,
                masked,
            )  # fmt: skip
        return total.detach(), terms.detach(), *torch.autograd.grad(total, leaves, materialize_grads=True)
    chosen = dict(zip(masked, ar_masked.view(max(len(masked), 1), -1), strict=False))
    accumulate = torch.promote_types(weight.dtype, torch.float32)
    log_p = (hidden @ weight.T).to(accumulate).log_softmax(-1).split(rows)
    nll, uniform = [], []
    for rows_of_stream, wanted in zip(log_p, targets.split(rows), strict=True):
        count = max(wanted.numel(), 1)
        nll.append(-rows_of_stream.gather(1, wanted[:, None]).sum() / count)
        uniform.append(-rows_of_stream.sum() / (count * weight.shape[0]))
    # A factor times a tensor of no dimension has a float64 derivative in forward mode, as of torch 2.13.
    nll = torch.stack(nll)
    smoothed = (1 - label_smoothing) * nll + label_smoothing * torch.stack(uniform)
    divergences = []
    for first, second, fixed in zip(pairs[::2], pairs[1::2], detached, strict=True):
        p, q = (log_p[s][chosen[s]] if s in chosen else log_p[s] for s in (first, second))
        p, q = (x.detach() if s == fixed else x for s, x in ((first, p), (second, q)))
        divergences.append(((p.exp() - q.exp()) * (p - q)).sum() / (2 * max(p.shape[0], 1)))
    terms = torch.stack([*nll, *smoothed, *divergences])
    total = (terms[len(rows) :] * terms.new_tensor([*cross_entropy, *divergence])).sum()
    return total, terms, hidden[:0], weight[:0]
