"""The encoder-decoder Transformer of JANUS over packed rows: no padding, any mixture of streams in one pass.

The model knows nothing of objectives or of decoding. It turns packed tokens, and a ``Visibility`` saying which
rows see which, into hidden rows; what the rows mean is the caller's affair.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import ops
from .config import JanusConfig
from .linear import Linear, factor
from .packing import ranges
from .reference.predict_lengths import mean_of_sources
from .reference.ssru import ssru
from .visibility import Visibility


class Attention(nn.Module):
    """Multi-head attention of rows ``x`` over rows ``memory``."""

    def __init__(self, config: JanusConfig):
        super().__init__()
        self.shape = (-1, config.attention_heads, config.head_size)
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)
        self.out_proj = Linear(config.d_model, config.d_model)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.k_proj(memory).view(self.shape), self.v_proj(memory).view(self.shape)

    def attend(self, x: Tensor, key: Tensor, value: Tensor, visibility: Visibility) -> Tensor:
        # [Nq, C] -> [Nq, H, D] -> [Nq, C]
        return self.out_proj(ops.attention(self.q_proj(x).view(self.shape), key, value, visibility).flatten(1))

    def forward(self, x: Tensor, memory: Tensor, visibility: Visibility) -> Tensor:
        return self.attend(x, *self.keys_values(memory), visibility)


class SSRU(nn.Module):
    """Rows ``x`` that know those before them in their sequences by a recurrence: ``janus_fast.reference.ssru``."""

    def __init__(self, config: JanusConfig):
        super().__init__()
        self.in_proj = Linear(config.d_model, config.d_model, bias=False)
        self.forget_proj = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        return ssru(self.in_proj(x), self.forget_proj(x), offsets)


class Layer(nn.Module):
    """What encoder and decoder layers share: the first block, that of feed-forward, and where norms stand."""

    def __init__(self, config: JanusConfig, ffn_dim: int, recurrent: bool = False):
        super().__init__()
        self.normalize_before, self.dropout = config.normalize_before, config.dropout
        self.activation = config.activation
        norm = partial(nn.LayerNorm, config.d_model, config.layer_norm_eps)
        if recurrent:
            self.ssru, self.ssru_layer_norm = SSRU(config), norm()
        else:
            self.self_attn, self.self_attn_layer_norm = Attention(config), norm()
        self.fc1 = Linear(config.d_model, ffn_dim)
        self.fc2 = Linear(ffn_dim, config.d_model)
        self.final_layer_norm = norm()

    def before(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return factor(norm(x) if self.normalize_before else x)

    def after(self, norm: nn.LayerNorm, residual: Tensor, x: Tensor) -> Tensor:
        if self.training and self.dropout:
            x = ops.dropout_add(x, residual, p=self.dropout)
        elif not self.normalize_before and residual.dtype == norm.weight.dtype:  # autocast may have made it another
            return ops.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)
        else:
            x = residual + x
        return x if self.normalize_before else norm(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(self.before(self.final_layer_norm, x), self.activation)
        return self.after(self.final_layer_norm, x, self.fc2(hidden))


class EncoderLayer(Layer):
    def __init__(self, config: JanusConfig):
        super().__init__(config, config.encoder_ffn_dim)

    def forward(self, x: Tensor, visibility: Visibility) -> Tensor:
        normed = self.before(self.self_attn_layer_norm, x)
        x = self.after(self.self_attn_layer_norm, x, self.self_attn(normed, normed, visibility))
        return self.feed_forward(x)


class DecoderLayer(Layer):
    def __init__(self, config: JanusConfig):
        super().__init__(config, config.decoder_ffn_dim, config.recurrent)
        self.recurrent = config.recurrent
        self.encoder_attn = Attention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)

    def forward(self, x: Tensor, visibility: Visibility, cross_keys, cross: Visibility, rows: Tensor | None) -> Tensor:
        x = (self.recur if self.recurrent else self.attend_to_self)(x, visibility, rows)
        normed = self.before(self.encoder_attn_layer_norm, x)
        x = self.after(self.encoder_attn_layer_norm, x, self.encoder_attn.attend(normed, *cross_keys, cross))
        return self.feed_forward(x)

    def attend_to_self(self, x: Tensor, visibility: Visibility, rows: Tensor | None) -> Tensor:
        normed = self.before(self.self_attn_layer_norm, x)
        queries = normed if rows is None else normed[rows]
        attended = self.self_attn(queries, normed[: visibility.num_keys], visibility)
        return self.after(self.self_attn_layer_norm, x if rows is None else x[rows], attended)

    def recur(self, x: Tensor, visibility: Visibility, rows: Tensor | None) -> Tensor:
        recalled = self.ssru(self.before(self.ssru_layer_norm, x), visibility.key_offsets)  # every row is a key
        x, recalled = (x, recalled) if rows is None else (x[rows], recalled[rows])
        return self.after(self.ssru_layer_norm, x, recalled)


class Positions(nn.Module):
    """Position vectors [positions, C]: a learned table, or sines and cosines computed once."""

    def __init__(self, config: JanusConfig, size: int):
        super().__init__()
        self.size = size
        if config.positions == "learned":
            self.weight = nn.Parameter(torch.empty(size, config.d_model))
        else:
            # Vaswani et al. 2017, section 3.5, in fairseq's layout: all sines, then all cosines.
            half = config.d_model // 2
            step = math.log(10000) / max(half - 1, 1)
            frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -step)
            angle = (torch.arange(size, dtype=torch.float32) + config.position_offset)[:, None] * frequency
            self.register_buffer("weight", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions, self.weight)


class Stack(nn.Module):
    """Embeddings and layers of one side."""

    def __init__(self, config: JanusConfig, layers: list[Layer], embed_tokens: nn.Embedding, positions: int):
        super().__init__()
        self.dropout = config.dropout
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.embed_tokens = embed_tokens
        self.embed_positions = Positions(config, positions)
        self.layers = nn.ModuleList(layers)
        self.checkpoint_activations = False  # gradients compute what a layer computed again, and keep its input alone
        norm = partial(nn.LayerNorm, config.d_model, config.layer_norm_eps)
        self.layernorm_embedding = norm() if config.layernorm_embedding else None
        self.layer_norm = norm() if config.normalize_before else None

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.scale * self.embed_tokens(tokens) + self.embed_positions(positions)
        x = x if self.layernorm_embedding is None else self.layernorm_embedding(x)
        return ops.dropout_add(x, p=self.dropout) if self.training and self.dropout else x

    def run(self, layer: Layer, x: Tensor, *arguments) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(layer, x, *arguments, use_reentrant=False)
        return layer(x, *arguments)

    def finish(self, x: Tensor) -> Tensor:
        return x if self.layer_norm is None else self.layer_norm(x)


class Encoder(Stack):
    def __init__(self, config: JanusConfig, embed_tokens: nn.Embedding):
        layers = [EncoderLayer(config) for _ in range(config.encoder_layers)]
        super().__init__(config, layers, embed_tokens, config.max_source_positions)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        visibility = Visibility.bidirectional(offsets)
        x = self.embed(tokens, ranges(offsets.diff().long()))
        for layer in self.layers:
            x = self.run(layer, x, visibility)
        return self.finish(x)


class Decoder(Stack):
    def __init__(self, config: JanusConfig, embed_tokens: nn.Embedding):
        layers = [DecoderLayer(config) for _ in range(config.decoder_layers)]
        super().__init__(config, layers, embed_tokens, config.max_target_positions)
        self.recurrent = config.recurrent
        if config.two_stream:
            self.embed_length = nn.Embedding(config.length_classes, config.d_model)
        self.output_projection = nn.Linear(config.d_model, config.target_vocab_size, bias=config.output_bias)
        if config.share_decoder_embeddings:
            self.output_projection.weight = embed_tokens.weight

    def cross_keys(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Cross-attention keys and values of every layer: computed once a source, used by every pass and candidate."""
        encoded = factor(encoded)
        return [layer.encoder_attn.keys_values(encoded) for layer in self.layers]

    def forward(
        self, tokens: Tensor, positions: Tensor, visibility: Visibility, cross_keys, cross: Visibility,
        rows: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if self.recurrent and not visibility.is_causal:
            raise ValueError("decode: visibility must be causal with decoder_autoreg 'ssru', got another pattern")
        x = self.embed(tokens, positions)
        for layer, keys in zip(self.layers[:-1], cross_keys, strict=False):
            x = self.run(layer, x, visibility, keys, cross, None)
        if rows is not None:  # only what is predicted leaves the last layer
            visibility, cross = visibility.rows(rows), cross.rows(rows)
        return self.finish(self.run(self.layers[-1], x, visibility, cross_keys[-1], cross, rows))


class JanusModel(nn.Module):
    """One encoder-decoder Transformer with an autoregressive, a non-autoregressive and an auxiliary distribution.

    Works on packed rows. ``encode`` -> encoded rows; ``decode`` -> hidden rows of a packed decoder input in which the
    first ``visibility.num_keys`` rows are both queries and keys (content) and the rest queries alone (query streams).
    ``logits(hidden)`` projects onto the vocabulary. Parameters bear fairseq's names. With ``config.two_stream`` off it
    is an ordinary Transformer: no length predictor, and content rows predict. ``config.decoder_autoreg`` "ssru" puts a
    recurrence in the place of the decoder's self-attention; ``decode`` then takes causal sequences alone.

    Source: JANUS (EMNLP 2022), section 3.
    """

    def __init__(self, config: JanusConfig):
        """A model with random parameters, as ``reset_parameters`` draws them."""
        super().__init__()
        self.config = config
        source = nn.Embedding(config.source_vocab_size, config.d_model)
        target = source if config.share_all_embeddings else nn.Embedding(config.target_vocab_size, config.d_model)
        self.encoder = Encoder(config, source)
        self.decoder = Decoder(config, target)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Xavier-uniform matrices, zero biases, embeddings of variance 1 / C; of a seed the same on every CPU."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "embed_" in name or "output_projection" in name:
                # in float64: torch's float32 numbers depend in the last place on the processor's instruction sets
                parameter.copy_(torch.randn_like(parameter, dtype=torch.float64) * self.config.d_model**-0.5)
            elif parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Source tokens [Ns] int64 packed at ``offsets`` [S + 1] int32 -> encoded rows [Ns, C]."""
        return self.encoder(tokens, offsets)

    def decode(
        self, tokens: Tensor, positions: Tensor, visibility: Visibility, encoded: Tensor, cross: Visibility,
        rows: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Decoder tokens and positions [N] int64 -> hidden rows [N, C], or [R, C] of the ascending ``rows`` [R] int64.

        ``visibility`` says which rows see which content rows, ``cross`` which of the ``encoded`` rows [Ns, C].
        """
        return self.decoder(tokens, positions, visibility, self.decoder.cross_keys(encoded), cross, rows)

    def length_logits(self, encoded: Tensor, offsets: Tensor) -> Tensor:
        """Scores of every target length, from the mean over each source's rows: [Ns, C] -> [S, length_classes]."""
        return F.linear(mean_of_sources(encoded, offsets)[0], self.decoder.embed_length.weight)

    @property
    def output_weight(self) -> Tensor:
        """The vocabulary's matrix [V, C]."""
        return self.decoder.output_projection.weight

    @property
    def output_bias(self) -> Tensor | None:
        """The vocabulary's bias [V], None without ``config.output_bias``."""
        return self.decoder.output_projection.bias

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden rows [N, C] -> vocabulary scores [N, V]."""
        return self.decoder.output_projection(hidden)
