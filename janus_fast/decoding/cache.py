"""One autoregressive step of the decoder, with cached keys and values."""

import torch
from torch import Tensor

from ..model import JanusModel
from ..visibility import Visibility


class StepDecoder:
    """Feeds one token a hypothesis and returns the hidden row that predicts the next.

    Each step of a two-stream model has two rows a hypothesis: the content row (the token) and the query row (a mask at
    the same position). Only content rows are keys; in the last layer only the query rows go on. A one-stream model has
    the content row alone, which predicts. Keys and values of the content rows stay in ``[R, capacity, H, D]``; places
    not yet written are invisible because their interval begins after the query's time. Several hypotheses share their
    source's cross-attention keys through the visibility, without copies.
    """

    def __init__(self, model: JanusModel, encoded: Tensor, source_offsets: Tensor):
        self.decoder, self.config = model.decoder, model.config
        self.source_offsets = source_offsets
        self.cross_keys = self.decoder.cross_keys(encoded)
        self.position = 0
        self.caches = None

    def step(self, tokens: Tensor, sources: Tensor) -> Tensor:
        """Tokens [R] int64 of hypotheses, the source [R] int32 of each -> hidden rows [R, C]."""
        hypotheses, position = tokens.numel(), self.position
        self._reserve(hypotheses, position + 1)
        capacity = self.caches[0][0].shape[1]
        streams = 1 + self.config.two_stream
        if self.config.two_stream:
            tokens = torch.cat([tokens, torch.full_like(tokens, self.config.mask_token_id)])
        x = self.decoder.embed(tokens, torch.full_like(tokens, position))
        arange = torch.arange(tokens.numel() + 1, dtype=torch.int32, device=tokens.device)
        index = arange[:hypotheses]
        slots = arange.new_tensor(range(capacity)).repeat(hypotheses)
        visibility = Visibility(
            arange, arange[: hypotheses + 1] * capacity, index.repeat(streams),
            torch.full_like(arange[:-1], position), slots, torch.full_like(slots, capacity),
        )  # fmt: skip
        cross = Visibility.bidirectional(arange, self.source_offsets, sources.repeat(streams))
        for layer, cache, cross_keys in zip(self.decoder.layers, self.caches, self.cross_keys, strict=True):
            queries = normed = layer.before(layer.self_attn_layer_norm, x)
            for stored, new in zip(cache, layer.self_attn.keys_values(normed[:hypotheses]), strict=True):
                stored[:, position] = new
            if layer is self.decoder.layers[-1] and self.config.two_stream:
                rows = torch.arange(hypotheses, 2 * hypotheses, device=tokens.device)
                x, queries = x[hypotheses:], normed[hypotheses:]
                visibility, cross = visibility.rows(rows), cross.rows(rows)
            attended = layer.self_attn.attend(queries, *(stored.flatten(0, 1) for stored in cache), visibility)
            x = layer.after_self_attention(x, attended, cross_keys, cross)
        self.position += 1
        return self.decoder.finish(x)

    def reorder(self, origins: Tensor) -> None:
        """Hypothesis r continues the one that was ``origins[r]``."""
        self.caches = [[stored[origins] for stored in cache] for cache in self.caches]

    def _reserve(self, hypotheses: int, length: int) -> None:
        if self.caches is None:
            shape = (hypotheses, 0, self.config.attention_heads, self.config.head_size)
            empty = self.cross_keys[0][0].new_zeros(shape)
            self.caches = [[empty, empty] for _ in self.decoder.layers]
        capacity = self.caches[0][0].shape[1]
        if length > capacity:
            grown = max(16, capacity * 3 // 2)
            pad = (0, 0, 0, 0, 0, grown - capacity)
            self.caches = [[torch.nn.functional.pad(stored, pad) for stored in cache] for cache in self.caches]
