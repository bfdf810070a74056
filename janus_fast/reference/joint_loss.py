"""The joint loss by definition: logits, log-softmax, cross-entropies and symmetric divergences."""

import torch
from torch import Tensor


def joint_loss(
    hidden: dict[str, Tensor], weight: Tensor, targets: dict[str, Tensor], ar_masked: Tensor | None,
    cross_entropy: dict[str, float], divergence: dict[tuple[str, str], float], label_smoothing: float,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Returns the weighted sum and its terms by name (``ar_ce``, ``ar_nll``, ``kl_ar_nar``, ...), unweighted."""
    accumulate = torch.promote_types(weight.dtype, torch.float32)
    log_p = {name: (rows @ weight.T).to(accumulate).log_softmax(-1) for name, rows in hidden.items()}
    total, terms = weight.new_zeros((), dtype=accumulate), {}
    for name, factor in cross_entropy.items():
        count = max(targets[name].numel(), 1)
        nll = -log_p[name].gather(1, targets[name][:, None]).sum() / count
        smooth = -log_p[name].sum() / (count * weight.shape[0])
        terms[f"{name}_nll"] = nll
        terms[f"{name}_ce"] = (1 - label_smoothing) * nll + label_smoothing * smooth
        total = total + factor * terms[f"{name}_ce"]
    for (first, second), factor in divergence.items():
        p, q = (log_p[name][ar_masked] if name == "ar" else log_p[name] for name in (first, second))
        terms[f"kl_{first}_{second}"] = 0.5 * ((p.exp() - q.exp()) * (p - q)).sum() / max(p.shape[0], 1)
        total = total + factor * terms[f"kl_{first}_{second}"]
    return total, terms
