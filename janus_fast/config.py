"""Sizes and switches of a model, validated when made."""

import dataclasses
import json
import math
from dataclasses import MISSING, dataclass
from functools import partial
from pathlib import Path

from . import foreign
from .decoding.modes import MODES
from .inputs import OptionError, check_fields, documented, integers, one_of, option, rule, switch, unwrap_numbers

ACTIVATIONS = ("relu", "gelu", "silu", "gelu_new", "quick_gelu")
POSITIONS = ("learned", "sinusoidal")
AUTOREGS = ("self-attention", "ssru")
FROM_TRANSFORMERS = ("architectures", "auto_map", "dtype", "transformers_version")
MOST_POSITIONS = 2**17  # tables of sines are as long, which are in no file that could contradict
MOST_AHEAD = 7  # a pass that checks K words and drafts K has (K + 1)(K + 2) rows


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# Fields of sizes and switches; those of a `setting` are options of `janus-fast train`, too.
_positive = rule("be a positive integer", lambda x: _is_integer(x) and x >= 1)
_natural = rule("be a non-negative integer", lambda x: _is_integer(x) and x >= 0)
_share = rule("be in [0, 1)", lambda x: isinstance(x, (int, float)) and 0.0 <= x < 1.0)
_finite = rule("be a positive, finite number", lambda x: isinstance(x, (int, float)) and 0.0 < x < math.inf)
_modes = rule(
    f"be some of {tuple(MODES)} or None",
    lambda x: x is None or isinstance(x, (list, tuple)) and all(mode in tuple(MODES) for mode in x),
)


def _are_ids(x) -> bool:
    return isinstance(x, (list, tuple)) and all(_is_integer(token) and token >= 0 for token in x)


_ids = rule("be a list of token ids", _are_ids)
_ids_or_none = rule("be a list of token ids or None", lambda x: x is None or _are_ids(x))
setting = partial(option, setting=True)
# A field that came later: at its default it stays out of config.json, so that versions without it read the model.
later = partial(option, later=True)


@documented
@dataclass(frozen=True)
class JanusConfig:
    """Everything that fixes the shape and the arithmetic of a ``janus_fast.JanusModel``.

    Names follow Hugging Face's encoder-decoder configurations. Sources and targets end with ``eos``; lengths are in
    tokens, ``bos`` and ``eos`` included. A value out of range, or two that do not fit each other, are a ValueError.
    """

    source_vocab_size: int = option(MISSING, _positive, "tokens of the source vocabulary")
    target_vocab_size: int = option(MISSING, _positive, "tokens of the target vocabulary")
    d_model: int = setting(512, _positive, "width of the model", doc="channels of a row, C")
    encoder_layers: int = setting(6, _positive, "layers of the encoder")
    decoder_layers: int = setting(6, _positive, "layers of the decoder")
    attention_heads: int = setting(4, _positive, "heads of every attention", doc="``d_model`` is a multiple of them")
    encoder_ffn_dim: int = setting(1024, _positive, "width of the encoder's feed-forward blocks")
    decoder_ffn_dim: int = setting(1024, _positive, "width of the decoder's feed-forward blocks")
    max_source_positions: int = setting(256, _positive, "longest source, in tokens")
    max_target_positions: int = setting(256, _positive, "longest target, in tokens")
    length_classes: int = setting(
        256, _positive, "target lengths that the length predictor tells apart", doc="longer ones share the last class"
    )
    activation: str = setting("relu", one_of(*ACTIVATIONS), "relu, gelu, silu, gelu_new or quick_gelu")
    positions: str = setting("learned", one_of(*POSITIONS), "learned or sinusoidal")
    position_offset: int = option(0, _natural, "the position of a sequence's first token in the sinusoidal table")
    normalize_before: bool = setting(False, switch, "norms before each block instead of behind it")
    share_all_embeddings: bool = option(
        True, switch, "the embeddings of both sides are one, and the output matrix is, too"
    )
    share_decoder_embeddings: bool = option(True, switch, "the output matrix is that of the target's embeddings")
    scale_embedding: bool = option(True, switch, "embeddings are multiplied by sqrt(C)")
    layer_norm_eps: float = option(1e-5, _finite, "added to the variance in every norm")
    dropout: float = setting(0.1, _share, "share of activations dropped in training")
    two_stream: bool = setting(
        True, switch, "a model of JANUS; without, an ordinary Transformer, which decodes left to right alone",
        doc="the row of a word then predicts the next",
    )  # fmt: skip
    decoder_autoreg: str = later(
        "self-attention", one_of(*AUTOREGS), "how a row of the decoder knows those before it",
        doc='``"self-attention"``, or ``"ssru"``, the recurrence of Kim et al. 2019; that needs ``two_stream`` false',
    )  # fmt: skip
    layernorm_embedding: bool = option(False, switch, "a norm stands behind the embeddings of each side")
    output_bias: bool = option(False, switch, "the vocabulary's scores have a bias")
    source_bos: bool = option(True, switch, "sources begin with ``bos``")
    add_source_eos: bool = option(True, switch, "sources end with ``eos``")
    source_prefix_ids: tuple[int, ...] = option(
        (), _ids, "ids before those of a source", doc="which callers of CTranslate2's interface bring along"
    )
    source_suffix_ids: tuple[int, ...] = option((), _ids, "ids behind those of a source", doc="as before them")
    alignment_heads: int = option(
        0, _natural, "of how many heads callers of CTranslate2's interface get the mean attention, 0: of all"
    )
    bos_token_id: int = option(0, None, "begins sequences")
    pad_token_id: int = option(1, None, "stands for nothing")
    eos_token_id: int = option(2, None, "ends sequences")
    unk_token_id: int = option(3, None, "stands for what is not in the vocabulary")
    mask_token_id: int = option(
        4, None, "stands for a word to be predicted", doc="``unk_token_id`` in models of the original code"
    )
    decoder_start_token_id: int | None = option(
        None, None, "stands before the first word of a target", doc="``bos_token_id`` unless given"
    )
    forced_bos_token_id: int | None = option(
        None, None, "the first token of every target", doc="such as its language; None: whatever is likeliest"
    )
    suppress_tokens: tuple[int, ...] | None = option(
        None, _ids_or_none, "tokens that are never predicted left to right",
        doc="``bos``, ``pad`` and the mask unless given",
    )  # fmt: skip
    trained_modes: tuple[str, ...] | None = later(
        None, _modes, "the modes of decoding that a model was trained for", doc="None where that is not known"
    )
    permuted: bool = later(
        False, switch, "mode nar fills one word after another, each by a query that sees the known words alone",
        doc="as objective ``xlnet`` trains it, if it predicts every step; ``order`` says which word comes next",
    )  # fmt: skip
    streams_ahead: int = later(
        0, integers(0, MOST_AHEAD), "how many words behind the next one are predicted from the same words, for drafts",
        doc="each by a mask at its place that sees these words alone, as objective ``prophetnet`` trains it",
    )  # fmt: skip

    def __post_init__(self):
        unwrap_numbers(self)
        if self.decoder_start_token_id is None:
            object.__setattr__(self, "decoder_start_token_id", self.bos_token_id)
        check_fields(self, "JanusConfig: ")
        for name in ("max_source_positions", "max_target_positions", "position_offset"):
            if getattr(self, name) > MOST_POSITIONS:
                raise OptionError(f"JanusConfig: {name}", f"be at most {MOST_POSITIONS}", getattr(self, name))
        for name in ("source_prefix_ids", "source_suffix_ids", "suppress_tokens", "trained_modes"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        for name, side in (
            ("suppress_tokens", "target"),
            ("source_prefix_ids", "source"),
            ("source_suffix_ids", "source"),
        ):
            size, largest = getattr(self, f"{side}_vocab_size"), max(getattr(self, name) or [0])
            if largest >= size:
                raise OptionError(f"JanusConfig: {name}", f"be below {side}_vocab_size = {size}", largest)
        if self.d_model % self.attention_heads:
            words = f"be a multiple of attention_heads = {self.attention_heads}"
            raise OptionError("JanusConfig: d_model", words, self.d_model)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise OptionError("JanusConfig: d_model", "be even with sinusoidal positions", self.d_model)
        if self.share_all_embeddings and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                "JanusConfig: target_vocab_size must equal source_vocab_size when share_all_embeddings is set, "
                f"got {self.target_vocab_size} and {self.source_vocab_size}"
            )
        if self.share_all_embeddings and not self.share_decoder_embeddings:
            raise ValueError("JanusConfig: share_decoder_embeddings must be true when share_all_embeddings is set")
        for name in ("bos", "pad", "eos", "unk", "mask", "decoder_start", "forced_bos"):
            value = getattr(self, f"{name}_token_id")
            if name == "forced_bos" and value is None:
                continue
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
        if self.two_stream and self.recurrent:
            raise OptionError("JanusConfig: two_stream", "be False with decoder_autoreg 'ssru', which has one", True)
        if self.permuted and not self.two_stream:
            words = "be True with permuted, as an ordinary Transformer fills no masks"
            raise OptionError("JanusConfig: two_stream", words, False)
        if self.permuted and self.predictable_mask:
            words = "be another than unk_token_id with permuted, so that no word is a mask"
            raise OptionError("JanusConfig: mask_token_id", words, self.mask_token_id)
        if self.streams_ahead and not self.two_stream:
            words = "be True with streams_ahead, as an ordinary Transformer has no rows that predict alone"
            raise OptionError("JanusConfig: two_stream", words, False)
        if self.two_stream and self.decoder_start_token_id != self.bos_token_id:
            raise ValueError(
                f"JanusConfig: decoder_start_token_id must be bos_token_id = {self.bos_token_id} when two_stream is "
                f"set, got {self.decoder_start_token_id}"
            )

    @property
    def recurrent(self) -> bool:
        """Whether the decoder has a recurrence, SSRU, where others have self-attention."""
        return self.decoder_autoreg == "ssru"

    @property
    def head_size(self) -> int:
        """Channels of a head, C / ``attention_heads``."""
        return self.d_model // self.attention_heads

    @property
    def predictable_mask(self) -> bool:
        """True in models converted from the original code, whose mask token is ``unk``, an ordinary word."""
        return self.mask_token_id == self.unk_token_id

    @property
    def suppressed(self) -> list[int]:
        """Tokens that are never predicted left to right."""
        if self.suppress_tokens is not None:
            return sorted({*self.suppress_tokens})
        return sorted({self.bos_token_id, self.pad_token_id, *([] if self.predictable_mask else [self.mask_token_id])})

    def source_ids(self, words: list[int]) -> list[int]:
        """``words`` as the encoder reads them."""
        return self.with_ends([*self.source_prefix_ids, *words, *self.source_suffix_ids])

    def has_words(self, source: list[int]) -> bool:
        """Whether anything is there to be translated."""
        specials = self.bos_token_id, self.eos_token_id, *self.source_prefix_ids, *self.source_suffix_ids
        return any(token not in specials for token in source)

    def begun(self, source: list[int], output: list[int]) -> list[int]:
        """``output`` with the token that is forced to be its first; of a source without words none is made."""
        forced = self.forced_bos_token_id
        begins = forced is None or output[:1] == [forced] or not (output or self.has_words(source))
        return output if begins else [forced, *output]

    def with_ends(self, ids: list[int]) -> list[int]:
        """``ids`` between ``bos`` and ``eos``, where sources have them: what CTranslate2 makes of a caller's tokens."""
        return [*self.source_bos * [self.bos_token_id], *ids, *self.add_source_eos * [self.eos_token_id]]

    def target_ids(self, words: list[int]) -> list[int]:
        """``words`` between what the decoder starts with and ``eos``."""
        return [self.decoder_start_token_id, *words, self.eos_token_id]

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(written({"model_type": "janus", **dataclasses.asdict(self)}), indent=2) + "\n"

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
        if family == "janus_fast":  # as transformers writes it, with what is its own
            values = {name: value for name, value in values.items() if name not in FROM_TRANSFORMERS}
        elif family != "janus":
            raise ValueError(
                f'JanusConfig: {origin} must hold "model_type": "janus", got {family!r}'
                f"{foreign.described(Path(origin).parent) or ''}"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"JanusConfig: {origin} must hold known keys only, got {unknown}")
        return cls.of_file(origin, **values)

    @classmethod
    def of_file(cls, origin: str | Path, **values) -> "JanusConfig":
        """That of ``values`` which come from the file ``origin``, as a ValueError about them says."""
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"JanusConfig: {origin}: {str(error).removeprefix('JanusConfig: ')}") from None


def written(values: dict) -> dict:
    """What ``config.json`` holds of these: all but fields that came later and are at their default."""
    unsaid = {field.name: field.default for field in dataclasses.fields(JanusConfig) if field.metadata.get("later")}
    return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}
