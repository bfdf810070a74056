"""The parameters that a model has, as its configuration says: their names, which are fairseq's, and their shapes."""

import math
from collections.abc import Iterator

from .config import JanusConfig

Shape = tuple[int, ...]


def shapes(config: JanusConfig) -> dict[str, Shape]:
    """Every parameter by name, a shared one once, under the name that the files of a model use."""
    return dict(_all(config))


def count(config: JanusConfig) -> int:
    """How many numbers a model is made of."""
    return sum(map(math.prod, shapes(config).values()))


def is_matrix(name: str) -> bool:
    """Whether a parameter is the matrix of a linear layer or a table of tokens: what can be stored as int8."""
    parts = name.split(".")
    return parts[-1] == "weight" and (parts[-2].endswith(("_proj", "_projection", "_tokens")) or parts[-2][:2] == "fc")


def _all(config: JanusConfig) -> Iterator[tuple[str, Shape]]:
    width = config.d_model
    sides = (
        ("encoder", config.encoder_layers, config.encoder_ffn_dim, config.max_source_positions, ("self_attn",)),
        (
            "decoder", config.decoder_layers, config.decoder_ffn_dim, config.max_target_positions,
            ("encoder_attn",) if config.recurrent else ("self_attn", "encoder_attn"),
        ),
    )  # fmt: skip
    yield "encoder.embed_tokens.weight", (config.source_vocab_size, width)
    if not config.share_all_embeddings:
        yield "decoder.embed_tokens.weight", (config.target_vocab_size, width)
    if not config.share_decoder_embeddings:
        yield "decoder.output_projection.weight", (config.target_vocab_size, width)
    if config.output_bias:
        yield "decoder.output_projection.bias", (config.target_vocab_size,)
    if config.two_stream:
        yield "decoder.embed_length.weight", (config.length_classes, width)
    for side, layers, ffn_dim, positions, attentions in sides:
        if config.positions == "learned":
            yield f"{side}.embed_positions.weight", (positions, width)
        if config.layernorm_embedding:
            yield from _norm(f"{side}.layernorm_embedding", width)
        if config.normalize_before:
            yield from _norm(f"{side}.layer_norm", width)
        for number in range(layers):
            layer = f"{side}.layers.{number}"
            if "self_attn" not in attentions:
                yield f"{layer}.ssru.in_proj.weight", (width, width)
                yield from _linear(f"{layer}.ssru.forget_proj", width, width)
                yield from _norm(f"{layer}.ssru_layer_norm", width)
            for attention in attentions:
                for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _linear(f"{layer}.{attention}.{projection}", width, width)
                yield from _norm(f"{layer}.{attention}_layer_norm", width)
            yield from _linear(f"{layer}.fc1", ffn_dim, width)
            yield from _linear(f"{layer}.fc2", width, ffn_dim)
            yield from _norm(f"{layer}.final_layer_norm", width)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
