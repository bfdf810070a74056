"""How plain PyTorch computes what the operations do.

Attention over a padded batch with a dense mask, and by FlexAttention. In both, query rows of one key sequence stand
together, so that no keys are copied. Layout and mask are made beforehand, by nobody's clock; with ``seed``, which is
the gradient of the output, gradients are computed, too.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_fast.packing import offsets_of, ranges
from janus_fast.reference.linear_activation import ACTIVATIONS
from janus_fast.visibility import Visibility


@dataclass(frozen=True)
class Peer:
    """What computes the same by other means; ``results`` makes of what ``run`` returns the operation's results, or None
    for those that it lacks. It is not timed."""

    run: Callable[[], tuple[Tensor, ...]]
    results: Callable[..., Iterable[Tensor | None]] = lambda *results: results


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def padded_attention(
    query: Tensor, key: Tensor, value: Tensor, v: Visibility, scale: float, seed: Tensor | None
) -> Peer:
    """``scaled_dot_product_attention`` with a mask [S, 1, Lq, Lk] over the S key sequences."""
    owner = _owners(v)
    order, counts = owner.argsort(stable=True), torch.bincount(owner, minlength=v.key_offsets.numel() - 1)
    queries = _Padding(offsets_of(counts), order)
    keys = _Padding(v.key_offsets, torch.arange(v.num_keys, device=query.device))
    times = queries.pad(v.query_times)[:, :, None]
    first, until = (keys.pad(t)[:, None] for t in (v.visible_from, v.visible_until))
    mask = ((first <= times) & (times < until))[:, None]  # padding: the interval [0, 0)
    leaves = [p.pad(t).transpose(1, 2).contiguous() for p, t in ((queries, query), (keys, key), (keys, value))]
    seed = None if seed is None else queries.pad(seed).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, x, attn_mask=mask, scale=scale)

    def unpad(output: Tensor, *gradients: Tensor) -> list[Tensor | None]:
        paddings = (queries, queries, keys, keys)
        rows = [p.unpad(t.transpose(1, 2)) for p, t in zip(paddings, (output, *gradients), strict=False)]
        return [rows[0], None, *rows[1:]]

    return Peer(with_gradients(attend, leaves, seed), unpad)


def flex_attention(query: Tensor, key: Tensor, value: Tensor, v: Visibility, scale: float, seed: Tensor | None) -> Peer:
    """FlexAttention over the packed rows as one sequence, with the pattern in row form as its block mask."""
    from torch.nn.attention import flex_attention as flex

    bounds = [interval.T.contiguous() for interval in v.intervals().unbind(1)]

    def sees(batch, head, q, k):
        within = [(begin[q] <= k) & (k < end[q]) for begin, end in bounds]
        return functools.reduce(torch.logical_or, within)

    mask = flex.create_block_mask(sees, None, None, v.num_queries, v.num_keys, device=query.device)
    leaves = [t.transpose(0, 1).contiguous()[None] for t in (query, key, value)]
    seed = None if seed is None else seed.transpose(0, 1)[None]
    function = compiled(flex.flex_attention)

    def attend(q: Tensor, k: Tensor, x: Tensor) -> Tensor:
        return function(q, k, x, block_mask=mask, scale=scale)

    def unpack(output: Tensor, *gradients: Tensor) -> list[Tensor | None]:
        return [output[0].transpose(0, 1), None, *(g[0].transpose(0, 1) for g in gradients)]

    return Peer(with_gradients(attend, leaves, seed), unpack)


def with_gradients(function: Callable[..., Tensor], leaves: list[Tensor], seed: Tensor | None) -> Callable:
    if seed is None:
        return lambda: (function(*leaves),)
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]

    def call() -> tuple[Tensor, ...]:
        output = function(*leaves)
        return output.detach(), *torch.autograd.grad(output, leaves, seed)

    return call


def _owners(v: Visibility) -> Tensor:
    """[Nq]: the key sequence of each query row."""
    return v.key_sequences.long().repeat_interleave(v.query_offsets.diff())


class _Padding:
    """Rows ``order`` of a packed tensor as a batch [S, L, ...] with zeros behind the shorter sequences."""

    def __init__(self, offsets: Tensor, order: Tensor):
        lengths = offsets.diff().long()
        sequences = torch.arange(lengths.numel(), device=offsets.device)
        self.order, self.shape = order, (lengths.numel(), int(lengths.max()))
        self.places = sequences.repeat_interleave(lengths), ranges(lengths)

    def pad(self, rows: Tensor) -> Tensor:
        return rows.new_zeros((*self.shape, *rows.shape[1:])).index_put_(self.places, rows[self.order])

    def unpad(self, batch: Tensor) -> Tensor:
        return batch[self.places][self.order.argsort()]


def log_probs(hidden: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """In float64, of the tokens that were chosen for each row: [N] or [N, k]; NaN of what is no token."""
    log_probs = F.linear(hidden.double(), weight.double()).log_softmax(-1)
    tokens = chosen.clamp(0, len(weight) - 1)
    return log_probs.gather(1, tokens.view(len(hidden), -1)).view(chosen.shape).masked_fill(tokens != chosen, torch.nan)


def logits_of(hidden: Tensor, weight: Tensor) -> Tensor:
    """In float32; not rounded to bfloat16 on the way, which would choose other tokens, where torch can."""
    if hidden.is_cuda and hidden.dtype != torch.float32:
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    return F.linear(hidden, weight).float()


def argmax(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits_of(hidden, weight)
    best, tokens = logits.max(-1)
    return tokens, best - logits.logsumexp(-1)


def topk(hidden: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, tokens = logits_of(hidden, weight).log_softmax(-1).topk(k)
    return tokens, best


def layer(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch._addmm_activation(bias, x, weight.t())
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def trained_linear(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor) -> Peer:
    return Peer(with_gradients(lambda *own: F.linear(*own).relu(), [x, weight, bias], seed))


def joint_loss(hidden: Tensor, weight: Tensor, targets: Tensor, ar_masked: Tensor, rows: list[int]):
    """Logits, losses and gradients of the original's terms and weights, by the functions that torch has for them."""
    hidden, weight = (t.detach().requires_grad_() for t in (hidden, weight))
    logits = F.linear(hidden, weight).float().split(rows)
    wanted = targets.split(rows)
    nll = [F.cross_entropy(*pair) for pair in zip(logits, wanted, strict=True)]
    smoothed = [F.cross_entropy(*pair, label_smoothing=0.1) for pair in zip(logits, wanted, strict=True)]
    log_p = [x.log_softmax(-1) for x in (logits[0][ar_masked], *logits[1:])]

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        both = (F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
        return sum(both) / 2

    divergences = [divergence(log_p[s], log_p[t]) for s, t in ((0, 1), (0, 2), (1, 2))]
    ar, nar, aux = smoothed
    total = ar + 0.5 * (nar + aux) + divergences[0] + 3 * divergences[1] + divergences[2]
    terms = torch.stack([*nll, *smoothed, *divergences])
    return total.detach(), terms.detach(), *torch.autograd.grad(total, (hidden, weight))


def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None) -> Peer:
    """With gradients of the sum, of weight and of bias, as the operation has them; x has the sum's."""

    def normalise(residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(residual + x, weight.shape, weight, bias, 1e-5)

    return Peer(with_gradients(normalise, [residual, weight, bias], seed))


def lengths(encoded: Tensor, offsets: Tensor, weight: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    log_probs = F.linear(means(encoded.float(), offsets), weight.float()).log_softmax(-1)
    best, lengths = log_probs[:, 2:].topk(beam)
    return lengths + 2, best


def means(encoded: Tensor, offsets: Tensor) -> Tensor:
    return torch.stack([rows.mean(0) for rows in encoded.split(offsets.diff().tolist())])


def update(tokens, scores, rows, predicted, new_scores, offsets, ratio: float, mask_token: int):
    """As a padded implementation would: a Python loop over canvases with one top-k each."""
    new_tokens, scores = tokens.index_copy(0, rows, predicted), scores.index_copy(0, rows, new_scores)
    picked, changed, starts = [], [], offsets.tolist()
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        count = int((end - start - 2) * ratio)
        worst = scores[start + 1 : end - 1].topk(count, largest=False).indices
        picked.append(worst.sort().values + start + 1)
        changed.append((new_tokens[start:end] != tokens[start:end]).any())
    rows = torch.cat(picked)
    return new_tokens, scores, F.pad(rows, (0, len(tokens) - len(rows))), torch.stack(changed)
