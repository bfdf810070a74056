"""The layers of a model in as few launches as their arithmetic allows, for decoding alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..linear import is_plain_cpu, linear
from ..model import Attention, DecoderLayer, JanusModel, Layer, Stack
from ..visibility import Visibility


class FusedModel:
    """A ``janus_fast.JanusModel`` whose projections of the same rows are one product.

    Queries, keys and values of a self-attention are one, keys and values of all cross-attentions another. The weights
    are moved together, and the model's parameters become views of them: nothing is held twice, and the model computes
    what it did. A recurrent decoder stays as it is, and has no ``refine`` and no ``step``.

    With ``whole_steps`` the decoder's layers are one operation in a step of few rows, ``ops.decoder_step``.
    """

    def __init__(self, model: JanusModel, whole_steps: bool = False):
        self.model, self.config = model, model.config
        self.heads = (model.config.attention_heads, model.config.head_size)
        self.projections = {
            layer: _joined(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
            for layer in (*model.encoder.layers, *(() if model.config.recurrent else model.decoder.layers))
        }
        self.packed = None
        if whole_steps:
            self.packed, channels = _packed(model.decoder.layers), model.config.d_model
            for layer, own in zip(model.decoder.layers, self.packed, strict=True):
                weight, bias, _ = own.tensor_split([3 * channels**2, 3 * channels * (channels + 1)])
                self.projections[layer] = weight.view(-1, channels), bias
        cross = [layer.encoder_attn for layer in model.decoder.layers]
        self.cross_projection = _joined(*(p for attention in cross for p in (attention.k_proj, attention.v_proj)))

    def encode(self, tokens: Tensor, positions: Tensor, visibility: Visibility) -> Tensor:
        encoder = self.model.encoder
        x = self.embed(encoder, tokens, encoder.embed_positions(positions))
        for layer in encoder.layers:
            qkv = self._project(layer, layer.before(layer.self_attn_layer_norm, x))
            attended = self._attend(layer.self_attn, *qkv.unbind(1), visibility)
            x = self._feed_forward(layer, layer.after(layer.self_attn_layer_norm, x, attended))
        return encoder.finish(x)

    def embed(self, stack: Stack, tokens: Tensor, positions: Tensor) -> Tensor:
        """``stack.embed`` of position vectors that are there already."""
        words = stack.embed_tokens(tokens)
        if is_plain_cpu(words):  # where add rounds elements that fill no vector otherwise, and these depend on the rows
            x = positions + stack.scale * words
        else:
            x = torch.add(positions, words, alpha=stack.scale)
        return x if stack.layernorm_embedding is None else stack.layernorm_embedding(x)

    def cross_keys(self, encoded: Tensor) -> Tensor:
        """Keys and values of each decoder layer [layers, Ns, 2, H, D], of one product."""
        layers = len(self.model.decoder.layers)
        return linear(encoded, *self.cross_projection).view(-1, layers, 2, *self.heads).transpose(0, 1)

    def refine(
        self, x: Tensor, seen: tuple[Visibility, Visibility], cross_keys: Tensor, rows: Tensor,
        seen_by_rows: tuple[Visibility, Visibility], content: int | None = None,
    ) -> Tensor:  # fmt: skip
        """A pass over whole targets: embedded rows [N, C] -> hidden ``rows`` [M, C], which alone leave the last layer.

        The first ``content`` rows (None: all of them) are keys. ``seen`` says which keys of the targets and of the
        sources all rows see, ``seen_by_rows`` which ``rows`` see.
        """
        *layers, last = self.model.decoder.layers
        for layer, keys in zip(layers, cross_keys, strict=False):
            query, key, value = self._project(layer, layer.before(layer.self_attn_layer_norm, x)).unbind(1)
            x = self._after_self_attention(layer, x, query, key[:content], value[:content], keys, seen)
        normed = last.before(last.self_attn_layer_norm, x)
        weight, bias = (part[self.config.d_model :] for part in self.projections[last])
        key, value = linear(normed[:content], weight, bias).view(-1, 2, *self.heads).unbind(1)
        x = x.index_select(0, rows)
        query = last.self_attn.q_proj(last.before(last.self_attn_layer_norm, x)).view(-1, *self.heads)
        x = self._after_self_attention(last, x, query, key, value, cross_keys[-1], seen_by_rows)
        return self.model.decoder.finish(x)

    def step(
        self, x: Tensor, seen: tuple[Visibility, Visibility], cross_keys: Tensor, caches: Tensor, places: Tensor,
        seen_by_rows: tuple[Visibility, Visibility], selected: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """A step over R tokens: embedded rows [R, C], two-stream [2 R, C], -> the hidden rows that predict [R, C].

        Keys and values of the first R rows, the content, go to ``places`` [R] of ``caches`` [layers, Nk, 2, H, D]. In
        the last layer the query rows of a two-stream model alone go on. With another number of these, the rows that are
        ``selected`` do.
        """
        layers, content = self.model.decoder.layers, places.numel()
        pick = slice(-content, None) if selected is None else selected
        given = x, caches, places, cross_keys, self.packed
        if self.packed is not None and ops.OPERATIONS["decoder_step"].limits("cuda", *given) is None:
            options = {"activation": self.config.activation, "normalize_before": self.config.normalize_before}
            rows = ops.decoder_step(*given, *seen, **options, eps=self.config.layer_norm_eps)
            return self.model.decoder.finish(rows[pick])
        for layer, keys, cache in zip(layers, cross_keys, caches, strict=True):
            qkv = self._project(layer, layer.before(layer.self_attn_layer_norm, x))
            cache.index_copy_(0, places, qkv[:content, 1:])
            if layer is layers[-1]:
                x, qkv, seen = x[pick], qkv[pick], seen_by_rows
            x = self._after_self_attention(layer, x, qkv[:, 0], *cache.unbind(1), keys, seen)
        return self.model.decoder.finish(x)

    def _project(self, layer: Layer, x: Tensor) -> Tensor:
        """Queries, keys and values [N, 3, H, D]."""
        return linear(x, *self.projections[layer]).view(-1, 3, *self.heads)

    def _attend(
        self, attention: Attention, query: Tensor, key: Tensor, value: Tensor, visibility: Visibility
    ) -> Tensor:
        return attention.out_proj(ops.attention(query, key, value, visibility).flatten(1))

    def _after_self_attention(
        self, layer: DecoderLayer, x: Tensor, query: Tensor, key: Tensor, value: Tensor, cross_keys: Tensor,
        seen: tuple[Visibility, Visibility],
    ) -> Tensor:  # fmt: skip
        """The layer from the product that gives queries, keys and values on."""
        visibility, cross = seen
        x = layer.after(layer.self_attn_layer_norm, x, self._attend(layer.self_attn, query, key, value, visibility))
        normed = layer.before(layer.encoder_attn_layer_norm, x)
        x = layer.after(
            layer.encoder_attn_layer_norm, x, layer.encoder_attn.attend(normed, *cross_keys.unbind(1), cross)
        )
        return self._feed_forward(layer, x)

    def _feed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        normed = layer.before(layer.final_layer_norm, x)
        hidden = linear(normed, layer.fc1.weight, layer.fc1.bias, self.config.activation)
        return layer.after(layer.final_layer_norm, x, layer.fc2(hidden))


@torch.no_grad()
def _together(parameters: list[nn.Parameter]) -> Tensor:
    """One vector, of which the parameters become views."""
    joined = torch.cat([parameter.flatten() for parameter in parameters])
    for parameter, own in zip(parameters, joined.split([p.numel() for p in parameters]), strict=True):
        parameter.data = own.view_as(parameter)
    return joined


def _joined(*linears: nn.Linear) -> tuple[Tensor, Tensor]:
    """One weight and one bias, of which those of ``linears`` become views."""
    weight = _together([part.weight for part in linears])
    return weight.view(-1, linears[0].in_features), _together([part.bias for part in linears])


def _packed(layers: Sequence[DecoderLayer]) -> Tensor:
    """What ``ops.decoder_step`` calls parameters, of which those of the ``layers`` become views."""
    parameters = []
    for layer in layers:
        own, cross = layer.self_attn, layer.encoder_attn
        projections = own.q_proj, own.k_proj, own.v_proj
        parameters += [*(part.weight for part in projections), *(part.bias for part in projections)]
        others = (
            own.out_proj, layer.self_attn_layer_norm, cross.q_proj, cross.out_proj, layer.encoder_attn_layer_norm,
            layer.fc1, layer.fc2, layer.final_layer_norm,
        )  # fmt: skip
        parameters += [parameter for part in others for parameter in (part.weight, part.bias)]
    return _together(parameters).view(len(layers), -1)
