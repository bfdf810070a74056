"""The joint loss by definition: logits, log-softmax, cross-entropies and symmetric divergences."""

import torch
from torch import Tensor


def joint_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, ar_masked: Tensor, rows: list[int], cross_entropy: list[float],
    pairs: list[int], divergence: list[float], detached: list[int], label_smoothing: float, gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The weighted sum of all terms, and the terms: -log p of the targets and its smoothed form per stream, then J.

    ``hidden`` holds ``rows`` rows of ar, nar and aux, one stream after the other; ``pairs`` two of their numbers for
    each divergence, ``detached`` the one that it leaves alone, or -1. Last the gradients of the sum, or nothing.
    """
    if gradients:
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        with torch.enable_grad():
            total, terms = _losses(*leaves, targets, ar_masked, rows, cross_entropy, pairs, divergence, detached,
                                   label_smoothing)  # fmt: skip
        return total.detach(), terms.detach(), *torch.autograd.grad(total, leaves, materialize_grads=True)
    total, terms = _losses(hidden, weight, targets, ar_masked, rows, cross_entropy, pairs, divergence, detached,
                           label_smoothing)  # fmt: skip
    return total, terms, hidden[:0], weight[:0]


def _losses(hidden, weight, targets, ar_masked, rows, cross_entropy, pairs, divergence, detached, label_smoothing):
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
        p, q = (log_p[s][ar_masked] if s == 0 else log_p[s] for s in (first, second))
        p, q = (x.detach() if s == fixed else x for s, x in ((first, p), (second, q)))
        divergences.append(((p.exp() - q.exp()) * (p - q)).sum() / (2 * max(p.shape[0], 1)))
    terms = torch.stack([*nll, *smoothed, *divergences])
    return (terms[3:] * terms.new_tensor([*cross_entropy, *divergence])).sum(), terms
