"""All layers of a decoder over rows that are fed in one step, by definition."""

from collections.abc import Callable
from math import prod

import torch.nn.functional as F
from torch import Tensor

from janus_fast.reference.attention import attention
from janus_fast.reference.linear_activation import linear_activation


def shapes(channels: int, hidden: int) -> list[tuple[int, ...]]:
    """Of the parameters of a layer as they lie one after another: weights and biases of three blocks with their norms.

    Queries, keys and values of self-attention, and its output projection; queries of cross-attention, and its output
    projection; the two linear layers of the feed-forward block.
    """
    outputs_inputs = [(3 * channels, channels), (channels, channels), None, (channels, channels), (channels, channels),
                      None, (hidden, channels), (channels, hidden), None]  # fmt: skip
    norm = (channels,), (channels,)
    return [shape for sizes in outputs_inputs for shape in ((sizes, sizes[:1]) if sizes else norm)]


def hidden_of(parameters: int, channels: int) -> int | None:
    """The width of feed-forward blocks with which a layer has so many parameters."""
    hidden, rest = divmod(parameters - 6 * channels**2 - 13 * channels, 2 * channels + 1)
    return hidden if hidden > 0 and rest == 0 else None


def decoder_step(
    x: Tensor, caches: Tensor, places: Tensor, cross_keys: Tensor, parameters: Tensor, query_offsets: Tensor,
    key_offsets: Tensor, key_sequences: Tensor, query_times: Tensor, visible_from: Tensor, visible_until: Tensor,
    cross_query_offsets: Tensor, cross_key_offsets: Tensor, cross_key_sequences: Tensor, cross_query_times: Tensor,
    cross_visible_from: Tensor, cross_visible_until: Tensor, activation: str, normalize_before: bool, eps: float,
) -> Tensor:  # fmt: skip
    """Returns the rows [N, C] behind the last layer; writes the keys and values of the first rows to ``caches``."""
    channels, (heads, size), content = x.shape[1], caches.shape[3:], places.shape[0]
    own = query_offsets, key_offsets, key_sequences, query_times, visible_from, visible_until
    cross = (
        cross_query_offsets, cross_key_offsets, cross_key_sequences, cross_query_times, cross_visible_from,
        cross_visible_until,
    )  # fmt: skip
    of_layer = shapes(channels, hidden_of(parameters.shape[1], channels))

    def block(x: Tensor, norm: tuple, compute: Callable) -> Tensor:
        """A block, the norm before or behind it, and the residual."""
        if normalize_before:
            return x + compute(F.layer_norm(x, (channels,), *norm, eps))
        return F.layer_norm(x + compute(x), (channels,), *norm, eps)

    def attend(query: Tensor, keys: Tensor, seen: tuple) -> Tensor:
        return attention(query.view(-1, heads, size), *keys.unbind(1), *seen, size**-0.5)[0].flatten(1)

    def layer(x: Tensor, cache: Tensor, source: Tensor, packed: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(packed.split([*map(prod, of_layer)]), of_layer, strict=True)]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        qkv, out, norm, cross_query, cross_out, cross_norm, first, second, last_norm = pairs

        def attend_to_self(x: Tensor) -> Tensor:
            query, both = linear_activation(x, *qkv, "none").split([channels, 2 * channels], 1)
            cache.index_copy_(0, places, both[:content].view(-1, 2, heads, size))
            return linear_activation(attend(query, cache, own), *out, "none")

        def attend_to_source(x: Tensor) -> Tensor:
            query = linear_activation(x, *cross_query, "none")
            return linear_activation(attend(query, source, cross), *cross_out, "none")

        def feed_forward(x: Tensor) -> Tensor:
            return linear_activation(linear_activation(x, *first, activation), *second, "none")

        x = block(x, norm, attend_to_self)
        return block(block(x, cross_norm, attend_to_source), last_norm, feed_forward)

    for each in zip(caches, cross_keys, parameters, strict=True):
        x = layer(x, *each)
    return x
