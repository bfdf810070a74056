"""JANUS's training step as the authors' code takes it, in plain PyTorch: padded batches and dense masks.

The encoder runs twice, once for the autoregressive streams and once for the masked ones. Each pair of streams goes
through the decoder on its own: a content stream [B, Lc] and a query stream [B, Lq] that attends to it, under masks
[B, Lq, Lc]; every layer projects the keys and values of either attention anew for each stream. All rows, padding too,
go through everything, and those of the query streams and of the masked content are projected onto the vocabulary.
Losses come from whole distributions: cross-entropies with label smoothing, and divergences in both directions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Streams:
    """A content and a query stream, padded. Masks are 0 where a row sees a column, and minus infinity elsewhere."""

    content: Tensor  # [B, Lc]
    content_positions: Tensor
    content_mask: Tensor  # [B, 1, Lc, Lc]
    query: Tensor  # [B, Lq]
    query_positions: Tensor
    query_mask: Tensor  # [B, 1, Lq, Lc]


@dataclass
class Batch:
    source: Tensor  # [B, S], padded on the left
    source_positions: Tensor
    source_real: Tensor  # bool
    autoregressive: Streams
    masked: Streams
    ar_targets: Tensor  # [B, L - 1], padded with -1
    ar_masked: Tensor  # [B, L - 1] bool: where the target is a masked word
    is_mask: Tensor  # [B, Lc] bool: the mask tokens of the content
    is_query: Tensor  # [B, Lq] bool: the query rows that are no padding
    targets: Tensor  # the masked words, sentence by sentence
    lengths: Tensor


def collate(sources: list, targets: list, masks: list[Tensor], config) -> Batch:
    """Ids with their ends, and which words of each target are masked [L] bool -> one padded batch."""
    pad, mask = config.pad_token_id, config.mask_token_id
    sources, targets = ([torch.as_tensor(ids) for ids in side] for side in (sources, targets))
    source = _padded([s.flip(0) for s in sources], pad).flip(1)
    real = _padded([torch.ones_like(s) for s in sources], 0).flip(1).bool()

    def along(tensors: list[Tensor]) -> Tensor:
        return _padded([torch.arange(len(t)) for t in tensors], 0)

    left = [t[:-1] for t in targets]
    content = _padded(left, pad)
    sees = torch.ones(content.shape[1], content.shape[1], dtype=torch.bool).tril()[None, None]
    inside = torch.stack([torch.arange(content.shape[1]) < len(t) for t in left])[:, None, None]
    causal = _additive(sees & inside)
    autoregressive = Streams(
        content, along(left), causal, _padded([torch.full_like(t, mask) for t in left], pad), along(left), causal
    )

    pieces = [_masked_streams(target, masked, mask) for target, masked in zip(targets, masks, strict=True)]
    names = ("content", "content_positions", "query", "query_positions")
    streams = {name: _padded([piece[name] for piece in pieces], pad * (name in names[::2])) for name in names}
    columns, rows = streams["content"].shape[1], streams["query"].shape[1]
    masked = Streams(
        **streams, content_mask=_additive(_dense([piece["content_sees"] for piece in pieces], columns, columns)),
        query_mask=_additive(_dense([piece["query_sees"] for piece in pieces], rows, columns)),
    )  # fmt: skip
    return Batch(
        source, _padded([torch.arange(len(s)).flip(0) for s in sources], 0).flip(1), real, autoregressive, masked,
        ar_targets=_padded([t[1:] for t in targets], -1), ar_masked=_padded([m[1:] for m in masks], False),
        is_mask=_padded([piece["is_mask"] for piece in pieces], False),
        is_query=_padded([torch.ones_like(piece["query"], dtype=torch.bool) for piece in pieces], False),
        targets=torch.cat([t[m] for t, m in zip(targets, masks, strict=True)]),
        lengths=torch.tensor([len(t) for t in targets]).clamp(max=config.length_classes - 1),
    )  # fmt: skip


def _masked_streams(target: Tensor, masked: Tensor, mask: int) -> dict[str, Tensor]:
    """One sentence. Content: the words that are seen, the mask tokens, the words behind these; queries: mask tokens."""
    place = torch.arange(len(target))
    hidden, seen = target[masked], target[~masked]
    m, u = len(hidden), len(seen)
    earlier = torch.ones(m, m, dtype=torch.bool).tril(-1)  # [i, j]: masked word j stands before masked word i
    at_most, never = earlier | torch.eye(m, dtype=torch.bool), torch.zeros(m + u, m, dtype=torch.bool)
    everything = torch.ones(m, u, dtype=torch.bool)
    return {
        "content": torch.cat([seen, torch.full_like(hidden, mask), hidden]),
        "content_positions": torch.cat([place[~masked], place[masked], place[masked]]),
        "query": torch.full_like(hidden, mask),
        "query_positions": place[masked],
        "is_mask": torch.tensor([0] * u + [1] * m + [0] * m).bool(),
        "content_sees": torch.cat([
            torch.cat([torch.ones(u + m, u + m, dtype=torch.bool), never], 1),
            torch.cat([everything, ~at_most, at_most], 1),
        ]),
        "query_sees": torch.cat([everything, ~earlier, earlier], 1),
    }  # fmt: skip


def _padded(rows: list[Tensor], value) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _dense(blocks: list[Tensor], rows: int, columns: int) -> Tensor:
    """[B, 1, rows, columns]; rows that are padding see what is no padding."""
    dense = torch.zeros(len(blocks), 1, rows, columns, dtype=torch.bool)
    for b, block in enumerate(blocks):
        dense[b, 0, :, : block.shape[1]] = True
        dense[b, 0, : block.shape[0], : block.shape[1]] = block
    return dense


def _additive(sees: Tensor) -> Tensor:
    return torch.zeros(sees.shape).masked_fill(~sees, -math.inf)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, width = config.attention_heads, config.d_model
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            projection(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, D]
            for projection, rows in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config, side: str):
        super().__init__()
        width, hidden = config.d_model, getattr(config, f"{side}_ffn_dim")
        self.self_attn, self.self_attn_layer_norm = Attention(config), nn.LayerNorm(width, config.layer_norm_eps)
        if side == "decoder":
            self.encoder_attn = Attention(config)
            self.encoder_attn_layer_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout, self.activation = nn.Dropout(config.dropout), getattr(F, config.activation)

    def forward(self, x: Tensor, columns: Tensor, mask: Tensor, *memory: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, columns, mask)))
        if memory:
            encoded, memory_mask = memory
            x = self.encoder_attn_layer_norm(x + self.dropout(self.encoder_attn(x, encoded, memory_mask)))
        return self.final_layer_norm(x + self.dropout(self.fc2(self.activation(self.fc1(x)))))


class Stack(nn.Module):
    def __init__(self, config, side: str, embed_tokens: nn.Embedding):
        super().__init__()
        self.scale, self.embed_tokens = math.sqrt(config.d_model), embed_tokens
        positions = config.max_source_positions if side == "encoder" else config.max_target_positions
        self.embed_positions = nn.Embedding(positions, config.d_model)
        self.layers = nn.ModuleList(Layer(config, side) for _ in range(getattr(config, f"{side}_layers")))
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.scale * self.embed_tokens(tokens) + self.embed_positions(positions))


class PaddedJanus(nn.Module):
    """A post-norm model with learned positions and one table of embeddings; parameters bear fairseq's names."""

    def __init__(self, config, label_smoothing: float = 0.1):
        super().__init__()
        table = nn.Embedding(config.source_vocab_size, config.d_model)
        self.encoder, self.decoder = (Stack(config, side, table) for side in ("encoder", "decoder"))
        self.decoder.embed_length = nn.Embedding(config.length_classes, config.d_model)
        self.decoder.output_projection = nn.Linear(config.d_model, config.target_vocab_size, bias=False)
        self.decoder.output_projection.weight = table.weight
        self.label_smoothing = label_smoothing

    def encode(self, batch: Batch) -> Tensor:
        mask = self.memory_mask(batch)
        x = self.encoder.embed(batch.source, batch.source_positions)
        for layer in self.encoder.layers:
            x = layer(x, x, mask)
        return x

    def memory_mask(self, batch: Batch) -> Tensor:
        weight = self.decoder.embed_length.weight
        return torch.zeros_like(batch.source, dtype=weight.dtype).masked_fill(~batch.source_real, -math.inf)[
            :, None, None
        ]

    def decode(self, streams: Streams, encoded: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Hidden rows of content and queries."""
        content = self.decoder.embed(streams.content, streams.content_positions)
        query = self.decoder.embed(streams.query, streams.query_positions)
        memory = encoded, self.memory_mask(batch)
        for layer in self.decoder.layers:
            query, content = (
                layer(query, content, streams.query_mask, *memory),
                layer(content, content, streams.content_mask, *memory),
            )
        return content, query

    def loss(self, batch: Batch) -> Tensor:
        project = self.decoder.output_projection
        encoded = self.encode(batch)
        _, query = self.decode(batch.autoregressive, encoded, batch)
        ar = project(query)  # [B, L - 1, V]
        encoded = self.encode(batch)
        content, query = self.decode(batch.masked, encoded, batch)
        nar, aux = project(content), project(query)  # [B, Lc, V], [B, Lq, V]
        means = (encoded * batch.source_real[..., None]).sum(1) / batch.source_real.sum(1, keepdim=True)
        length = F.cross_entropy(F.linear(means, self.decoder.embed_length.weight), batch.lengths)
        nar, aux = nar[batch.is_mask], aux[batch.is_query]
        total = self.cross_entropy(ar.flatten(0, 1), batch.ar_targets.flatten())
        total = total + 0.5 * (self.cross_entropy(nar, batch.targets) + self.cross_entropy(aux, batch.targets))
        ar = ar[batch.ar_masked]
        return total + 0.1 * length + divergence(ar, nar) + 3 * divergence(ar, aux) + divergence(nar, aux)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p, real = F.log_softmax(logits, -1), targets >= 0
        nll = -log_p.gather(1, targets.clamp(min=0)[:, None])[real].mean()
        uniform = -log_p.mean(-1)[real].mean()
        return (1 - self.label_smoothing) * nll + self.label_smoothing * uniform


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Of two rows of logits the mean of both Kullback-Leibler divergences."""
    log_p, log_q = F.log_softmax(first, -1), F.log_softmax(second, -1)
    there = F.kl_div(log_p, F.softmax(second, -1), reduction="sum")
    back = F.kl_div(log_q, F.softmax(first, -1), reduction="sum")
    return 0.5 * (there + back) / len(first)
