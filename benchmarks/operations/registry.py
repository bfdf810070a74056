"""What is timed: each operation at the sizes at which a model calls it, and its peers (``pytorch.py``)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.operations import pytorch
from janus_fast.ops import OPERATIONS
from janus_fast.packing import offsets_of
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
TIMED = [name for name, operation in OPERATIONS.items() if not operation.written()]  # others do so but once


@dataclass(frozen=True)
class Case:
    """One call: ``arguments`` in the order of the operation's schema; ``peers`` compute the same, by usual means.

    With ``seed``, the gradient of the first result, gradients are computed, too. ``log_probs(chosen)`` are those of
    integers that the first result chooses and the second one scores, in float64.
    """

    operation: str
    label: str
    arguments: tuple
    peers: dict[str, Callable[[], pytorch.Peer]]  # made when they are asked for
    seed: Tensor | None = None
    random: bool = False  # what peers compute differs from the definition by the numbers that they draw
    log_probs: Callable[[Tensor], Tensor] | None = None

    def work(self) -> tuple[int, int]:
        """Bytes that have to be moved and floating-point operations, those of gradients included."""
        operation = OPERATIONS[self.operation]
        parts = [operation.work(*self.arguments)]
        if self.seed is not None:
            parts.append(operation.work_bwd(*self.arguments))
        return tuple(map(sum, zip(*parts, strict=True)))


def cases(
    configuration: Configuration, sentences: int | list[int], dtype: torch.dtype, device: torch.device | str = "cpu",
    rows: int | None = None,
) -> Iterator[Case]:  # fmt: skip
    """Every operation, at the shapes of decoding or training ``sentences`` sentences of 10 to 40 tokens at once, or
    sentences of the lengths given. ``rows`` is how many rows the operations have that work on rows alone."""
    make = torch.Generator().manual_seed(0)
    if isinstance(sentences, list):
        lengths, sentences = torch.tensor(sentences), len(sentences)
    else:
        lengths = torch.randint(10, 41, (sentences,), generator=make) if sentences > 1 else torch.tensor([25])
    offsets, canvases = offsets_of(lengths), lengths.repeat_interleave(LENGTH_BEAM)

    def normal(rows: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(rows, configuration.channels, generator=make) * scale).to(device, dtype)

    def attention(label: str, visibility: Visibility, gradients: bool = False) -> Case:
        shape = (-1, configuration.heads, configuration.channels // configuration.heads)
        query, key, value = (normal(n).view(shape) for n in (visibility.num_queries, *2 * [visibility.num_keys]))
        v, scale, seed = visibility.to(device), shape[2] ** -0.5, normal(len(query)).view(shape) if gradients else None
        integers = (v.query_offsets, v.key_offsets, v.key_sequences, v.query_times, v.visible_from, v.visible_until)
        peers = {
            "torch": lambda: pytorch.padded_attention(query, key, value, v, scale, seed),
            "flex": lambda: pytorch.flex_attention(query, key, value, v, scale, seed),
        }
        return Case("attention", label, (query, key, value, *integers, scale), peers, seed)

    def torch_alone(function: Callable[[], tuple]) -> dict[str, Callable[[], pytorch.Peer]]:
        return {"torch": lambda: pytorch.Peer(function)}

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
    yield attention(
        "training, masked streams, with gradients", Visibility.janus(lengths - lengths // 2, lengths // 2), True
    )

    weight = normal(configuration.vocabulary, configuration.channels**-0.5)
    hidden = normal(rows or int(canvases.sum()))
    yield Case(
        "linear_argmax", "first refinement", (hidden, weight, None),
        torch_alone(lambda: pytorch.argmax(hidden, weight)),
        log_probs=lambda tokens: pytorch.log_probs(hidden, weight, tokens),
    )  # fmt: skip
    beam, k = normal(rows or sentences * BEAM), 2 * BEAM
    yield Case(
        "linear_topk", "beam step", (beam, weight, None, k), torch_alone(lambda: pytorch.topk(beam, weight, k)),
        log_probs=lambda tokens: pytorch.log_probs(beam, weight, tokens),
    )  # fmt: skip

    classes = configuration.length_classes
    encoded, length_weight = normal(int(lengths.sum())), normal(classes, configuration.channels**-0.5)
    begins = offsets.to(device)
    yield Case(
        "predict_lengths", "once a sentence", (encoded, begins, length_weight, LENGTH_BEAM, False, 2, classes - 1),
        torch_alone(lambda: pytorch.lengths(encoded, begins, length_weight, LENGTH_BEAM)),
        log_probs=lambda chosen: pytorch.log_probs(pytorch.means(encoded.double(), begins), length_weight, chosen),
    )  # fmt: skip

    written = lengths if rows is None else torch.tensor([rows])
    masked = (written // 2).clamp(min=1)
    streams = [int(n.sum()) for n in (written, masked, masked)]
    ar_masked = torch.randperm(streams[0], generator=make)[: streams[1]].to(device)
    targets = torch.randint(configuration.vocabulary, (sum(streams),), generator=make).to(device)
    losses = (normal(sum(streams)), weight, targets, ar_masked, streams)
    terms = ([1.0, 0.5, 0.5], [0, 1, 0, 2, 1, 2], [1.0, 3.0, 1.0], [-1, -1, -1], 0.1, True)
    yield Case(
        "joint_loss", "training, with gradients", (*losses, *terms), torch_alone(lambda: pytorch.joint_loss(*losses))
    )

    trained = rows or sum(streams)
    x, residual = normal(trained), normal(trained)
    yield Case(
        "dropout_add", "training, behind a block", (x, residual, 0.3, torch.tensor(1, device=device)),
        torch_alone(lambda: (residual + F.dropout(x, 0.3),)), random=True,
    )  # fmt: skip

    def add_layer_norm(label: str, count: int, gradients: bool = False) -> Case:
        x, residual, seed = normal(count), normal(count), normal(count) if gradients else None
        norm = normal(1)[0], normal(1)[0]
        peers = {"torch": lambda: pytorch.add_layer_norm(x, residual, *norm, seed)}
        return Case("add_layer_norm", label, (x, residual, *norm, 1e-5), peers, seed)

    yield add_layer_norm("refinement, behind a block", rows or int(canvases.sum()))
    yield add_layer_norm("training, behind a block, with gradients", trained, gradients=True)

    trained_layer = normal(trained), normal(configuration.channels, configuration.channels**-0.5), normal(1)[0]
    seed = normal(trained)
    yield Case(
        "trained_linear", "training, with ReLU and gradients", (*trained_layer, True),
        {"torch": lambda: pytorch.trained_linear(*trained_layer, seed)}, seed,
    )  # fmt: skip

    def layer(label: str, x: Tensor, outputs: int, activation: str = "none") -> Case:
        own = x, normal(outputs, configuration.channels**-0.5), normal(outputs)[:, 0].contiguous(), activation
        return Case("linear_activation", label, own, torch_alone(lambda: (pytorch.layer(*own),)))

    yield layer("refinement, queries, keys and values", hidden, 3 * configuration.channels)
    yield layer("beam step, feed-forward", beam, 2 * configuration.channels, "relu")

    total = int(canvases.sum())
    tokens, predicted = (
        torch.randint(5, configuration.vocabulary, (total,), generator=make).to(device) for _ in range(2)
    )
    scores, new_scores = (-torch.rand(total, generator=make).to(device) for _ in range(2))
    every = torch.arange(total, device=device)
    state = (tokens, scores, every, predicted, new_scores, offsets_of(canvases).to(device))
    yield Case("update_mask", "after a pass", (*state, 0.5, 4), torch_alone(lambda: pytorch.update(*state, 0.5, 4)))
