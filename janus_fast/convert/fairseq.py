"""Checkpoints of fairseq, the authors' JANUS models and ordinary Transformers, read without fairseq."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load_unique_state, unique_state
from ..config import JanusConfig
from ..inputs import OptionError, check_part
from ..model import JanusModel
from ..reading import read_text
from ..text.vocabulary import SPECIAL_TOKENS, Vocabulary, read_codes
from .assemble import EMBEDDINGS, SIDES, layers
from .torch_file import Record, StoredTensor, open_torch_file

# fairseq keeps the position rows 0 .. pad for padding: the first token of a sentence has row pad + 1.
POSITION_OFFSET = 2
EOS, UNK = 2, 3
OVERWRITE, COUNT = " #fairseq:overwrite", re.compile(r"[+-]?\d+")  # what ends a line of a dictionary
OLD_OUTPUT = "decoder.embed_out"  # before version 0.10; where the output is the embedding, it was not stored
OLD_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
POSITIONS = ("encoder.embed_positions", "decoder.embed_positions")
# Settings that must be off, and why in JANUS. The first two are known from the state dict, too.
NO_PART = "it is not part of JanusModel"
ONE_EMBEDDING_PATH = "the original applies it to autoregressive inputs only, so its two modes see different embeddings"
UNSUPPORTED = {
    "layernorm_embedding": ONE_EMBEDDING_PATH,
    "project_in_dim": ONE_EMBEDDING_PATH,
    "quant_noise_pq": ONE_EMBEDDING_PATH,
    "quant_noise_scalar": ONE_EMBEDDING_PATH,
    "adaptive_input": "adaptive embeddings are not part of JanusModel",
    "adaptive_softmax_cutoff": "an adaptive output is not part of JanusModel",
    "no_cross_attention": "JanusModel attends to the source",
    "cross_self_attention": "JanusModel attends to the source and to the target one after the other",
    "no_token_positional_embeddings": "JanusModel has positions",
}


def load(
    checkpoint: str | Path,
    source_dict: str | Path | None = None,
    target_dict: str | Path | None = None,
    bpe: str | Path | None = None,
) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary] | None]:
    """Converts a fairseq checkpoint: the model, in float32 and evaluation mode, and its vocabularies.

    The file is read by a restricted unpickler: nothing that it names is imported or called, and the optimizer's state
    is not read at all. The architecture that the file names tells JANUS, whose mask token is ``unk`` as in the
    original, from fairseq's ``transformer``, which becomes a one-stream model.

    Args:
        checkpoint: a file written by fairseq's training command, in float32, float16 or bfloat16.
        source_dict, target_dict: its ``dict.<language>.txt``; both or neither.
        bpe: the codes, of subword-nmt, that its text was encoded with; goes with dictionaries.
    Returns:
        The model, and ``(source, target)`` vocabularies, which are one object where the model shares them (None
        without dictionaries).
    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, an unsafe pickle, another architecture, a setting that
            ``janus_fast.JanusModel`` does not have, NaN weights, a dictionary of another size.
    """
    if (source_dict is None) != (target_dict is None):
        missing = "source_dict" if source_dict is None else "target_dict"
        raise OptionError(f"convert: {missing}", "be given, too, when the other dictionary is", None)
    if bpe is not None and source_dict is None:
        raise OptionError("convert: bpe", "go with source_dict and target_dict", f"{bpe} alone")
    with open_torch_file(checkpoint) as contents:
        if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
            raise ValueError(f"convert: {checkpoint} must be a fairseq checkpoint, got no 'model' in it")
        settings = _settings(contents, checkpoint)
        try:
            state = {k: v.load() if isinstance(v, StoredTensor) else v for k, v in contents["model"].items()}
        except Exception as error:  # a damaged archive fails in every way there is
            raise ValueError(f"convert: {checkpoint} must be a whole checkpoint, got {error!r}") from None
    tied = settings.get("share_decoder_input_output_embed") or settings.get("share_all_embeddings")
    if not tied and not {EMBEDDINGS[2], OLD_OUTPUT} & state.keys():
        raise ValueError(f"convert: {checkpoint} must hold every parameter of the model, got no {EMBEDDINGS[2]!r}")
    model = _convert(
        state, checkpoint, two_stream=_two_stream(settings), attention_heads=settings["encoder_attention_heads"],
        activation=settings.get("activation_fn", "relu"), scale_embedding=not settings.get("no_scale_embedding"),
        dropout=settings.get("dropout", 0.1), max_source_positions=settings.get("max_source_positions", 1024),
        max_target_positions=settings.get("max_target_positions", 1024), allow_prenorm=False,
    )  # fmt: skip
    for side in ("encoder", "decoder"):  # before its third version, fairseq's pre-norm stacks ended without a norm
        if bool(settings.get(f"{side}_normalize_before")) != model.config.normalize_before:
            raise ValueError(
                f"convert: {checkpoint}: {side}_normalize_before must say whether there is a '{side}.layer_norm', got "
                f"{settings.get(f'{side}_normalize_before')}"
            )
    if source_dict is None:
        return model, None
    source, target = read_dictionary(source_dict, bpe), read_dictionary(target_dict, bpe)
    for vocabulary, path, size in (
        (source, source_dict, model.config.source_vocab_size),
        (target, target_dict, model.config.target_vocab_size),
    ):
        if len(vocabulary) != size:
            raise ValueError(
                f"convert: {path} must hold the checkpoint's {size} tokens, 4 special ones included, "
                f"got {len(vocabulary)}"
            )
    if model.config.share_all_embeddings and source.tokens != target.tokens:
        words = "equal source_dict when embeddings are shared"
        raise OptionError("convert: target_dict", words, f"{source_dict}, {target_dict}")
    return model, (source, source if source.tokens == target.tokens else target)


def from_state_dict(
    state_dict: Mapping[str, Tensor], *, attention_heads: int, two_stream: bool = True, activation: str = "relu",
    scale_embedding: bool = True, dropout: float = 0.1, max_source_positions: int = 1024,
    max_target_positions: int = 1024, allow_prenorm: bool = False,
) -> JanusModel:  # fmt: skip
    """Makes a model of a fairseq state dict: sizes, norms, positions and shared embeddings as its tensors say.

    Args:
        state_dict: fairseq's names, those from before its version 0.10, too, and tensors of any float dtype. Without
            an output of its own the decoder has that of its embeddings.
        two_stream: a model of JANUS; otherwise fairseq's ``transformer``.
        attention_heads, activation, scale_embedding, dropout: what tensors do not tell.
        max_source_positions, max_target_positions: sizes of sinusoidal position tables; a learned one has its own.
        allow_prenorm: accept a pre-norm model of JANUS, whose autoregressive outputs then differ from the original's.
    Returns:
        The model, in float32 and evaluation mode, on the CPU.
    Raises:
        ValueError: tensors missing, unknown, of the wrong shape or not finite, or a model that JanusModel is not.
    """
    return _convert(
        state_dict, "state_dict", two_stream=two_stream, attention_heads=attention_heads, activation=activation,
        scale_embedding=scale_embedding, dropout=dropout, max_source_positions=max_source_positions,
        max_target_positions=max_target_positions, allow_prenorm=allow_prenorm,
    )  # fmt: skip


def read_dictionary(path: str | Path, bpe: str | Path | None = None) -> Vocabulary:
    """fairseq's ``dict.txt``: lines ``token count``; ids begin with ``<s> <pad> </s> <unk>``.

    A token that is there already is an error unless its line ends with ``#fairseq:overwrite``: it is read as its last
    id then, and every id of it stays. ``bpe`` as in :func:`load`.
    """
    for file in filter(None, (path, bpe)):
        check_part("convert", file)
    tokens = list(SPECIAL_TOKENS[: UNK + 1])
    known = set(tokens)
    text = read_text("convert", path)
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        entry = line.rstrip()
        token, space, count = entry.removesuffix(OVERWRITE).rpartition(" ")
        if not space or not COUNT.fullmatch(count):
            raise ValueError(f"convert: {path} must hold lines 'token count', got {line!r} in line {number}")
        if token in known and not entry.endswith(OVERWRITE):
            raise ValueError(f"convert: {path} must hold a token once, got {token!r} twice, again in line {number}")
        tokens.append(token)
        known.add(token)
    return Vocabulary(tokens, codes=None if bpe is None else read_codes(bpe))


def _settings(contents: dict, origin) -> dict:
    """The model's settings, from ``cfg`` (omegaconf) or ``args`` (argparse), checked for what JanusModel lacks."""
    settings = contents.get("args")
    if settings is None and isinstance(config := _unwrap(contents.get("cfg")), dict):
        settings = _unwrap(config.get("model"))
    if not isinstance(settings, dict):
        raise ValueError(f"convert: {origin} must hold the model's settings, got neither 'cfg' nor 'args'")
    settings = {name: _unwrap(value) for name, value in settings.items()}
    if not _two_stream(settings) and not str(settings.get("arch")).startswith("transformer"):
        raise ValueError(
            f"convert: {origin} must be a checkpoint of JANUS or of a transformer, got architecture "
            f"{settings.get('arch')!r}"
        )
    for name, reason in UNSUPPORTED.items():
        if settings.get(name) and (name != "layernorm_embedding" or _two_stream(settings)):
            reason = reason if _two_stream(settings) else NO_PART
            raise ValueError(f"convert: {origin}: {name} must be off ({reason}), got {settings[name]!r}")
    heads = [settings.get(f"{side}_attention_heads") for side in ("encoder", "decoder")]
    if heads[0] != heads[1] or heads[0] is None:
        raise ValueError(f"convert: {origin}: encoder and decoder must have the same attention_heads, got {heads}")
    return settings


def _two_stream(settings: dict) -> bool:
    return "janus" in str(settings.get("arch"))


def _unwrap(node):
    """What an omegaconf node holds; an argparse namespace is a record of its settings already."""
    return node.get("_content", node.get("_val", node)) if isinstance(node, Record) else node


def _convert(
    state: Mapping[str, Tensor], origin, *, two_stream, attention_heads, activation, scale_embedding, dropout,
    max_source_positions, max_target_positions, allow_prenorm,
) -> JanusModel:  # fmt: skip
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"convert: {origin}: {name} must be a tensor, got {type(tensor).__name__}")
        for part in ("project_in_dim", *["layernorm_embedding"] * two_stream):
            if f".{part}." in name:
                reason = ONE_EMBEDDING_PATH if two_stream else NO_PART
                raise ValueError(f"convert: {origin}: {part} must be absent ({reason}), got {name!r}")
    if two_stream and "decoder.embed_length.weight" not in state:
        raise ValueError(
            f"convert: {origin} must be a JANUS model, which predicts lengths, got no 'decoder.embed_length.weight'"
        )
    state = _of_today(state)
    prenorm = {f"{side}.layer_norm.weight" in state for side in ("encoder", "decoder")}
    if len(prenorm) == 2:
        raise ValueError(
            f"convert: {origin}: encoder and decoder must both be pre-norm or both post-norm, got one each"
        )
    if prenorm == {True} and two_stream and not allow_prenorm:
        raise ValueError(
            f"convert: {origin} must be post-norm, got pre-norm: the original's pre-norm autoregressive stream enters "
            "cross-attention without its norm, so those weights would give other outputs here"
        )
    learned = {f"{name}.weight" in state for name in POSITIONS}
    if len(learned) == 2:
        raise ValueError(
            f"convert: {origin}: encoder and decoder must have the same kind of positions, got learned and sinusoidal"
        )
    learned = learned == {True}

    def size(name: str, dim: int) -> int:
        if name not in state:
            raise ValueError(f"convert: {origin} must hold every parameter of the model, got no {name!r}")
        if state[name].dim() != 2:
            raise ValueError(f"convert: {origin}: {name} must be a matrix, got shape {list(state[name].shape)}")
        return state[name].shape[dim]

    vocab_sizes = [size(name, 0) for name in EMBEDDINGS]
    tied = [torch.equal(state[EMBEDDINGS[1]], state[name]) for name in EMBEDDINGS]
    config = JanusConfig.of_file(
        origin,
        source_vocab_size=vocab_sizes[0],
        target_vocab_size=vocab_sizes[1],
        d_model=size(EMBEDDINGS[1], 1),
        encoder_layers=layers(state, "encoder"),
        decoder_layers=layers(state, "decoder"),
        attention_heads=attention_heads,
        encoder_ffn_dim=size("encoder.layers.0.fc1.weight", 0),
        decoder_ffn_dim=size("decoder.layers.0.fc1.weight", 0),
        max_source_positions=size(f"{POSITIONS[0]}.weight", 0) - POSITION_OFFSET if learned else max_source_positions,
        max_target_positions=size(f"{POSITIONS[1]}.weight", 0) - POSITION_OFFSET if learned else max_target_positions,
        length_classes=size("decoder.embed_length.weight", 0) if two_stream else JanusConfig.length_classes,
        activation="silu" if activation == "swish" else activation,  # fairseq's name of it
        positions="learned" if learned else "sinusoidal",
        position_offset=0 if learned else POSITION_OFFSET,
        normalize_before=prenorm == {True},
        share_all_embeddings=all(tied),
        share_decoder_embeddings=tied[2],
        scale_embedding=scale_embedding,
        dropout=dropout,
        mask_token_id=UNK,
        two_stream=two_stream,
        layernorm_embedding=any(f"{side}.layernorm_embedding.weight" in state for side in SIDES),
        source_bos=two_stream,
        decoder_start_token_id=None if two_stream else EOS,
        trained_modes=("ar", "nar") if two_stream else ("ar",),
    )
    model = JanusModel(config).float()  # whatever torch's default dtype is
    aliases = set(EMBEDDINGS) - set(unique_state(model))
    tables = (f"{name}.{part}" for name in POSITIONS for part in ("_float_tensor", "weights"))  # sinusoidal ones
    ignored = {"encoder.version", "decoder.version", *tables, *aliases}
    state = {name: tensor for name, tensor in state.items() if name not in ignored}
    if learned:
        state |= {f"{name}.weight": state[f"{name}.weight"][POSITION_OFFSET:] for name in POSITIONS}
    load_unique_state(model, state, origin)
    return model.eval()


def _of_today(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names that fairseq has had since its version 0.10."""
    today = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name):
            parts = zip("qkv", tensor.tensor_split(3), strict=True)
            today |= {f"{match[1]}{letter}_proj.{match[2]}": part for letter, part in parts}
        elif match := re.fullmatch(r"((encoder|decoder)\.layers\.\d+\.)layer_norms\.(\d)\.(weight|bias)", name):
            norms = OLD_NORMS[match[2]]
            today[f"{match[1]}{norms[int(match[3])]}.{match[4]}" if int(match[3]) < len(norms) else name] = tensor
        else:
            today[name] = tensor
    output = today.pop(OLD_OUTPUT, today.get(EMBEDDINGS[1]))
    if output is not None:
        today.setdefault(EMBEDDINGS[2], output)
    return today
