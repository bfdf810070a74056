"""What is timed: each operation at the sizes at which a model calls it, and how plain PyTorch would do the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_fast.packing import offsets_of, ranges
from janus_fast.visibility import Visibility


@dataclass(frozen=True)
class Configuration:
    """The sizes of a model that matter to its operations."""

    channels: int
    heads: int
    vocabulary: int
    length_classes: int = 256


# Width and heads as in the literature's models for these tasks, vocabularies rounded.
CONFIGURATIONS = {"iwslt14_deen": Configuration(512, 4, 10_000), "wmt16_enro": Configuration(512, 8, 35_000)}
BATCHES = (1, 32)  # sentences
LENGTH_BEAM, BEAM = 3, 5


@dataclass(frozen=True)
class Case:
    """One call: ``arguments`` in the order of the operation's schema; ``torch`` computes the same by usual means."""

    operation: str
    label: str
    arguments: tuple
    torch: Callable[[], tuple[Tensor, ...]]
    random: bool = False  # torch's results differ from the definition's by the numbers that it draws


def cases(configuration: Configuration, sentences: int, dtype: torch.dtype) -> Iterator[Case]:
    """Every operation, at the shapes of decoding or training ``sentences`` sentences of 10 to 40 tokens at once."""
    make = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 41, (sentences,), generator=make) if sentences > 1 else torch.tensor([25])
    offsets, canvases = offsets_of(lengths), lengths.repeat_interleave(LENGTH_BEAM)

    def normal(rows: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(rows, configuration.channels, generator=make) * scale).to(dtype)

    def attention(label: str, visibility: Visibility) -> Case:
        shape = (-1, configuration.heads, configuration.channels // configuration.heads)
        query, key, value = (normal(n).view(shape) for n in (visibility.num_queries, *2 * [visibility.num_keys]))
        v, scale = visibility, shape[2] ** -0.5
        integers = (v.query_offsets, v.key_offsets, v.key_sequences, v.query_times, v.visible_from, v.visible_until)
        return Case(
            "attention", label, (query, key, value, *integers, scale), _padded_attention(query, key, value, v, scale)
        )

    sources = torch.arange(sentences, dtype=torch.int32)
    yield attention("encoder", Visibility.bidirectional(offsets))
    yield attention(
        "refinement, cross-attention",
        Visibility.bidirectional(offsets_of(canvases), offsets, sources.repeat_interleave(LENGTH_BEAM)),
    )
    steps = torch.ones(sentences * BEAM, dtype=torch.int64)
    yield attention(
        "beam step, cross-attention",
        Visibility.bidirectional(offsets_of(steps), offsets, sources.repeat_interleave(BEAM)),
    )
    yield attention("training, masked streams", Visibility.janus(lengths - lengths // 2, lengths // 2))

    weight = normal(configuration.vocabulary, configuration.channels**-0.5)
    hidden = normal(int(canvases.sum()))
    yield Case("linear_argmax", "first refinement", (hidden, weight, None), lambda: _argmax(hidden, weight))
    beam, k = normal(sentences * BEAM), 2 * BEAM
    yield Case("linear_topk", "beam step", (beam, weight, None, k), lambda: _topk(beam, weight, k))

    classes = configuration.length_classes
    encoded, length_weight = normal(int(lengths.sum())), normal(classes, configuration.channels**-0.5)
    arguments = (encoded, offsets, length_weight, LENGTH_BEAM, False, 2, classes - 1)
    yield Case("predict_lengths", "once a sentence", arguments, lambda: _lengths(encoded, offsets, length_weight))

    masked = lengths // 2
    rows = [int(n.sum()) for n in (lengths, masked, masked)]
    ar_masked = torch.randperm(rows[0], generator=make)[: rows[1]]
    arguments = (
        normal(sum(rows)), weight, torch.randint(configuration.vocabulary, (sum(rows),), generator=make), ar_masked,
        rows, [1.0, 0.5, 0.5], [0, 1, 0, 2, 1, 2], [1.0, 3.0, 1.0], [-1, -1, -1], 0.1, True,
    )  # fmt: skip
    yield Case("joint_loss", "training, with gradients", arguments, lambda: _joint_loss(*arguments[:5]))

    x, residual = normal(sum(rows)), normal(sum(rows))
    yield Case(
        "dropout_add", "behind a block", (x, residual, 0.3, torch.tensor(1)),
        lambda: (residual + F.dropout(x, 0.3),), random=True,
    )  # fmt: skip

    x, residual, channels = normal(int(canvases.sum())), normal(int(canvases.sum())), configuration.channels
    norm = (normal(1).flatten(), normal(1).flatten(), 1e-5)
    yield Case(
        "add_layer_norm", "behind a block", (x, residual, *norm),
        lambda: (F.layer_norm(residual + x, (channels,), *norm),),
    )  # fmt: skip

    total = int(canvases.sum())
    tokens, predicted = (torch.randint(5, configuration.vocabulary, (total,), generator=make) for _ in range(2))
    scores, new_scores = (-torch.rand(total, generator=make) for _ in range(2))
    state = (tokens, scores, torch.arange(total), predicted, new_scores, offsets_of(canvases))
    yield Case("update_mask", "after a pass", (*state, 0.5, 4), lambda: _update(*state, 0.5, 4))


def _padded_attention(query: Tensor, key: Tensor, value: Tensor, v: Visibility, scale: float) -> Callable:
    """``scaled_dot_product_attention`` over a padded batch; padding and mask are made beforehand, by nobody's clock."""
    sequences = v.key_sequences.long()
    q, k, x = _padded(query, v.query_offsets), _padded(key, v.key_offsets), _padded(value, v.key_offsets)
    q, k, x = (t.transpose(1, 2).contiguous() for t in (q, k[sequences], x[sequences]))  # [Q, H, L, D]
    times = _padded(v.query_times[:, None], v.query_offsets)
    first, until = (_padded(t[:, None], v.key_offsets)[sequences, :, 0] for t in (v.visible_from, v.visible_until))
    mask = ((first[:, None] <= times) & (times < until[:, None]))[:, None]  # padding: the interval [0, 0)
    rows = (
        torch.arange(len(v.query_offsets) - 1).repeat_interleave(v.query_offsets.diff()),
        ranges(v.query_offsets.diff().long()),
    )

    def call() -> tuple[Tensor]:
        return (F.scaled_dot_product_attention(q, k, x, attn_mask=mask, scale=scale),)

    call.unpad = lambda output: output.transpose(1, 2)[rows]
    return call


def _padded(rows: Tensor, offsets: Tensor) -> Tensor:
    """Packed rows [N, ...] -> [S, L, ...] with zeros behind the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(rows.split(offsets.diff().tolist())), batch_first=True)


def _argmax(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight).float()
    best, tokens = logits.max(-1)
    return tokens, best - logits.logsumexp(-1)


def _topk(hidden: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best, tokens = F.linear(hidden, weight).float().log_softmax(-1).topk(k)
    return tokens, best


def _joint_loss(hidden: Tensor, weight: Tensor, targets: Tensor, ar_masked: Tensor, rows: list[int]):
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


def _lengths(encoded: Tensor, offsets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    means = torch.stack([rows.mean(0) for rows in encoded.split(offsets.diff().tolist())])
    log_probs = F.linear(means, weight).float().log_softmax(-1)
    best, lengths = log_probs[:, 2:].topk(LENGTH_BEAM)
    return lengths + 2, best


def _update(tokens, scores, rows, predicted, new_scores, offsets, ratio: float, mask_token: int):
    """As a padded implementation would: a Python loop over canvases with one top-k each."""
    new_tokens, scores = tokens.index_copy(0, rows, predicted), scores.index_copy(0, rows, new_scores)
    picked, changed, starts = [], [], offsets.tolist()
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        count = int((end - start - 2) * ratio)
        worst = scores[start + 1 : end - 1].topk(count, largest=False).indices
        picked.append(worst.sort().values + start + 1)
        changed.append((new_tokens[start:end] != tokens[start:end]).any())
    return new_tokens, scores, torch.cat(picked), torch.stack(changed)
