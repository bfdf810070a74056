"""Sizes and switches of a model, validated when made."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .inputs import unwrap_numbers

ACTIVATIONS = ("relu", "gelu", "silu")
POSITIONS = ("learned", "sinusoidal")
MOST_POSITIONS = 2**17  # tables of sines are as long, which are in no file that could contradict
MODES = ("ar", "nar")  # of decoding: left to right, in parallel


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class JanusConfig:
    """Everything that fixes the shape and the arithmetic of a ``janus_fast.JanusModel``.

    Names follow Hugging Face's encoder-decoder configurations. Sources and targets end with ``eos``.

    Attributes:
        source_vocab_size, target_vocab_size: tokens of each vocabulary.
        d_model: channels C of a row, a multiple of ``attention_heads``.
        encoder_layers, decoder_layers: layers of each side.
        attention_heads: heads of every attention.
        encoder_ffn_dim, decoder_ffn_dim: channels within the feed-forward blocks.
        max_source_positions, max_target_positions: the longest sequences in tokens, ``bos`` and ``eos`` included.
        length_classes: target lengths that the length predictor tells apart; longer ones share the last class.
        activation: "relu", "gelu" or "silu".
        positions: "learned" or "sinusoidal".
        position_offset: the position of a sequence's first token in the sinusoidal table.
        normalize_before: norms stand before the blocks (pre-norm), not behind them.
        share_all_embeddings: the embeddings of both sides are one, and the output matrix is, too.
        share_decoder_embeddings: the output matrix is that of the target's embeddings.
        scale_embedding: embeddings are multiplied by sqrt(C).
        layer_norm_eps: added to the variance in every norm.
        dropout: the probability of training's dropout, in [0, 1).
        two_stream: a model of JANUS; without, an ordinary Transformer, which decodes left to right alone: the row of a
            word predicts the next one.
        output_bias: the vocabulary's scores have a bias.
        source_bos: sources begin with ``bos``.
        bos_token_id, pad_token_id, eos_token_id, unk_token_id: special tokens, in this order the first ones by default.
        mask_token_id: what stands for a word to be predicted; ``unk_token_id`` in models of the original code.
        decoder_start_token_id: stands before the first word of a target; ``bos_token_id`` unless given.
        trained_modes: the modes of decoding that a model was trained for; None where that is not known.
    Raises:
        ValueError: a value out of range, or two that do not fit each other.
    """

    source_vocab_size: int
    target_vocab_size: int
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    attention_heads: int = 4
    encoder_ffn_dim: int = 1024
    decoder_ffn_dim: int = 1024
    max_source_positions: int = 256
    max_target_positions: int = 256
    length_classes: int = 256
    activation: str = "relu"
    positions: str = "learned"
    position_offset: int = 0
    normalize_before: bool = False
    share_all_embeddings: bool = True
    share_decoder_embeddings: bool = True
    scale_embedding: bool = True
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    two_stream: bool = True
    output_bias: bool = False
    source_bos: bool = True
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2
    unk_token_id: int = 3
    mask_token_id: int = 4
    decoder_start_token_id: int | None = None
    trained_modes: tuple[str, ...] | None = None

    def __post_init__(self):
        unwrap_numbers(self)
        if self.decoder_start_token_id is None:
            object.__setattr__(self, "decoder_start_token_id", self.bos_token_id)
        if self.trained_modes is not None:
            modes = self.trained_modes
            if not isinstance(modes, (list, tuple)) or not modes or not all(mode in MODES for mode in modes):
                raise ValueError(f"JanusConfig: trained_modes must be some of {MODES} or None, got {modes!r}")
            object.__setattr__(self, "trained_modes", tuple(modes))
        positive = (
            "source_vocab_size target_vocab_size d_model encoder_layers decoder_layers attention_heads "
            "encoder_ffn_dim decoder_ffn_dim max_source_positions max_target_positions length_classes"
        )
        for name in positive.split():
            value = getattr(self, name)
            if not _is_integer(value) or value < 1:
                raise ValueError(f"JanusConfig: {name} must be a positive integer, got {value!r}")
        if not _is_integer(self.position_offset) or self.position_offset < 0:
            raise ValueError(
                f"JanusConfig: position_offset must be a non-negative integer, got {self.position_offset!r}"
            )
        for name in ("max_source_positions", "max_target_positions", "position_offset"):
            if getattr(self, name) > MOST_POSITIONS:
                raise ValueError(f"JanusConfig: {name} must be at most {MOST_POSITIONS}, got {getattr(self, name)}")
        switches = (
            "normalize_before share_all_embeddings share_decoder_embeddings scale_embedding two_stream output_bias "
            "source_bos"
        )
        for name in switches.split():
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"JanusConfig: {name} must be true or false, got {getattr(self, name)!r}")
        if self.d_model % self.attention_heads:
            raise ValueError(
                f"JanusConfig: d_model must be a multiple of attention_heads = {self.attention_heads}, "
                f"got {self.d_model}"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"JanusConfig: d_model must be even with sinusoidal positions, got {self.d_model}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"JanusConfig: activation must be one of {ACTIVATIONS}, got {self.activation!r}")
        if self.positions not in POSITIONS:
            raise ValueError(f"JanusConfig: positions must be one of {POSITIONS}, got {self.positions!r}")
        if not isinstance(self.dropout, (int, float)) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"JanusConfig: dropout must be in [0, 1), got {self.dropout!r}")
        if not isinstance(self.layer_norm_eps, (int, float)) or not 0.0 < self.layer_norm_eps < math.inf:
            raise ValueError(
                f"JanusConfig: layer_norm_eps must be a positive, finite number, got {self.layer_norm_eps!r}"
            )
        if self.share_all_embeddings and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                "JanusConfig: target_vocab_size must equal source_vocab_size when share_all_embeddings is set, "
                f"got {self.target_vocab_size} and {self.source_vocab_size}"
            )
        if self.share_all_embeddings and not self.share_decoder_embeddings:
            raise ValueError("JanusConfig: share_decoder_embeddings must be true when share_all_embeddings is set")
        for name in ("bos", "pad", "eos", "unk", "mask", "decoder_start"):
            value = getattr(self, f"{name}_token_id")
            if not _is_integer(value) or not 0 <= value < self.target_vocab_size:
                raise ValueError(
                    f"JanusConfig: {name}_token_id must be an integer in "
                    f"[0, target_vocab_size = {self.target_vocab_size}), got {value!r}"
                )
        ids = [self.bos_token_id, self.pad_token_id, self.eos_token_id, self.unk_token_id]
        no_bos = not self.two_stream and self.bos_token_id == self.pad_token_id  # as in Marian
        if len({*ids, self.mask_token_id}) < 5 - self.predictable_mask - no_bos:
            raise ValueError(
                "JanusConfig: bos, pad, eos, unk and mask_token_id must be distinct, save mask and unk, "
                f"got {[*ids, self.mask_token_id]}"
            )
        if self.two_stream and self.decoder_start_token_id != self.bos_token_id:
            raise ValueError(
                f"JanusConfig: decoder_start_token_id must be bos_token_id = {self.bos_token_id} when two_stream is "
                f"set, got {self.decoder_start_token_id}"
            )

    @property
    def head_size(self) -> int:
        """Channels of a head, C / ``attention_heads``."""
        return self.d_model // self.attention_heads

    @property
    def predictable_mask(self) -> bool:
        """True in models converted from the original code, whose mask token is ``unk``, an ordinary word."""
        return self.mask_token_id == self.unk_token_id

    def source_ids(self, words: list[int]) -> list[int]:
        """``words`` as the encoder reads them."""
        return [*([self.bos_token_id] if self.source_bos else []), *words, self.eos_token_id]

    def target_ids(self, words: list[int]) -> list[int]:
        """``words`` between what the decoder starts with and ``eos``."""
        return [self.decoder_start_token_id, *words, self.eos_token_id]

    def to_json(self) -> str:
        """The text of ``config.json``."""
        values = {"model_type": "janus", **dataclasses.asdict(self)}
        if self.trained_modes is None:
            del values["trained_modes"]
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, origin: str | Path = "config.json") -> "JanusConfig":
        """What ``to_json`` wrote; ``origin`` is what error messages call it.

        Raises:
            ValueError: it is no JSON, of another system, or has unknown, missing or bad values.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"JanusConfig: {origin} must hold a JSON object, got {error}") from None
        family = values.pop("model_type", None) if isinstance(values, dict) else None
        if family != "janus":
            raise ValueError(
                f'JanusConfig: {origin} must hold "model_type": "janus", got {family!r}; janus-fast convert makes '
                "model directories of fairseq checkpoints (JANUS, transformer) and of Marian models alone"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"JanusConfig: {origin} must hold known keys only, got {unknown}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"JanusConfig: {origin}: {error}") from None
