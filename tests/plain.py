"""The model made of PyTorch's own operations, with gradients: one sentence at a time, rows under a dense mask."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def hidden_rows(model, source: list[int], rows: list[tuple[int, int]], sees: list[set[int]]) -> Tensor:
    """Decoder rows (token, position) -> [rows, C]; row i attends to the rows ``sees[i]``, and to all of the source."""
    encoded = encode(model, source)
    mask = torch.tensor([[j in own for j in range(len(rows))] for own in sees])
    x = _embed(model.decoder, *zip(*rows, strict=True))
    for layer in model.decoder.layers:
        x = _block(layer.self_attn_layer_norm, x, lambda y, a=layer.self_attn: _attend(a, y, y, mask))
        everything = mask.new_ones(len(rows), len(source))
        cross = layer.encoder_attn
        x = _block(layer.encoder_attn_layer_norm, x, lambda y, a=cross, m=everything: _attend(a, y, encoded, m))
        x = _feed_forward(layer, x)
    return x


def encode(model, source: list[int]) -> Tensor:
    """A source -> [tokens, C]."""
    x = _embed(model.encoder, source, range(len(source)))
    everything = torch.ones(len(source), len(source), dtype=torch.bool)
    for layer in model.encoder.layers:
        x = _block(layer.self_attn_layer_norm, x, lambda y, a=layer.self_attn: _attend(a, y, y, everything))
        x = _feed_forward(layer, x)
    return x


def length_loss(model, sources: list[list[int]], lengths: list[int]) -> Tensor:
    """The mean cross-entropy of these lengths of targets."""
    means = torch.stack([encode(model, source).mean(0) for source in sources])
    return F.cross_entropy(means @ model.decoder.embed_length.weight.T, torch.tensor(lengths))


def _embed(stack, tokens, positions) -> Tensor:
    words, places = stack.embed_tokens.weight[list(tokens)], stack.embed_positions.weight[list(positions)]
    return math.sqrt(words.shape[1]) * words + places


def _block(norm, x: Tensor, what) -> Tensor:
    return F.layer_norm(x + what(x), x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _feed_forward(layer, x: Tensor) -> Tensor:
    first, second = layer.fc1, layer.fc2
    inside = lambda y: (y @ first.weight.T + first.bias).relu() @ second.weight.T + second.bias  # noqa: E731
    return _block(layer.final_layer_norm, x, inside)


def _attend(attention, x: Tensor, memory: Tensor, sees: Tensor) -> Tensor:
    heads = attention.shape[1]

    def project(name, rows):  # [rows, C] -> [heads, rows, C / heads]
        part = getattr(attention, name)
        return (rows @ part.weight.T + part.bias).unflatten(1, (heads, -1)).transpose(0, 1)

    query, key, value = project("q_proj", x), project("k_proj", memory), project("v_proj", memory)
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    seen = scores.masked_fill(~sees, -math.inf).softmax(-1) @ value
    return seen.transpose(0, 1).flatten(1) @ attention.out_proj.weight.T + attention.out_proj.bias
