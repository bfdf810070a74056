"""Transformers in CTranslate2's format, read without CTranslate2."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..inputs import OptionError, check_part
from ..model import JanusModel
from ..reading import read_bytes
from ..text import Vocabulary
from .assemble import EMBEDDINGS, OUTPUT_BIAS, PADS, POSITIONS, add_pad, assemble, free_name
from .hub import check_language, read_object

WEIGHTS, CONFIG = "model.bin", "config.json"
NEWEST = 6  # version of the file; of its layout, "revision", 7
TYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "<u2")  # by number; the last are the bits of bfloat16
TYPES_BY_SIZE = {4: 0, 2: 2, 1: 1}  # before version 4
SPECS = {"TransformerSpec": None, "TransformerBase": 8, "TransformerBig": 16}  # and heads, where files do not say
ACTIVATIONS = {0: "relu", 1: "gelu_new", 2: "silu", 3: "gelu", 4: "quick_gelu"}
# What stands for parts that JanusModel lacks, by what their names hold.
LACKING = {
    "relative_": "relative positions", "rotary": "rotary positions", "num_heads_kv": "fewer heads of keys than queries",
    "linear_0_noact": "gated feed-forward blocks", "project_": "projections of embeddings", "_norm/": "these norms",
    "head_dim": "heads of a size of their own", "sliding_window": "a window of attention",
    "weight_zero": "quantised weights of this kind", "layer_scalar": "scaled layers", "memory_kv": "merged attention",
    "queries_scale": "queries of another scale", "embeddings_": "features of source tokens",
    "scale_outputs": "scaled outputs", "final_logit_softcapping": "capped logits",
}  # fmt: skip
IGNORED = ("alignment_layer", "embeddings_merge", "alibi_use_positive_positions", "scale_alibi")
SENTENCEPIECE = ("sentencepiece.model", "spm.model")
LINEAR = {  # of an attention: the parts that lie side by side in each
    "self_attention": (("q_proj", "k_proj", "v_proj"), ("out_proj",)),
    "attention": (("q_proj",), ("k_proj", "v_proj"), ("out_proj",)),
}


def walk_layer(side: str, number: int, linear: Callable[..., None], norm: Callable[[str, str], None]) -> None:
    """Calls ``linear(theirs, *ours)`` and ``norm(theirs, ours)`` for the parts of a layer, with their names."""
    theirs, ours = f"{side}/layer_{number}", f"{side}.layers.{number}"
    for block, own in (("self_attention", "self_attn"), ("attention", "encoder_attn")):
        if block == "self_attention" or side == "decoder":
            for place, parts in enumerate(LINEAR[block]):
                linear(f"{theirs}/{block}/linear_{place}", *(f"{ours}.{own}.{part}" for part in parts))
            norm(f"{theirs}/{block}/layer_norm", f"{ours}.{own}_layer_norm")
    linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
    linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")


def recognises(directory: str | Path) -> bool:
    """Whether ``directory`` holds a model of CTranslate2."""
    return (Path(directory) / WEIGHTS).exists()


def load(
    directory: str | Path, source_language: str | None = None, target_language: str | None = None
) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary]]:
    """Converts a Transformer of CTranslate2: a one-stream model, in float32 and evaluation mode, and its vocabularies.

    What ``config.json`` there says of the tokens that begin and end sources and targets becomes the model's. No token
    is kept from being predicted, as CTranslate2 keeps none. Where its decoder starts with a vector of zeros, as
    Marian's does, a token of that embedding, which is never predicted, is added behind the target's others. A
    sentencepiece model beside ``model.bin`` or in the folder above (as in Argos' packages) makes the vocabularies take
    text.

    Args:
        directory: holds ``model.bin``, in a file version from 3 to 6 (CTranslate2 1 to 4), and vocabularies, as .json
            or .txt.
        source_language: of a model whose callers begin targets (mBART-25), the token that stands behind the end of a
            source; without, callers bring both.
        target_language: of such a model, the token that every target begins with: what its decoder starts with.
    Returns:
        The model, and ``(source, target)`` vocabularies, one object where the directory has one.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, another kind of model, or a part that ``janus_fast.JanusModel`` does not have.
    """
    directory = Path(directory)
    file = _File(directory / WEIGHTS)
    settings = _settings(directory, file)
    heads, pre_norm, activation, scaled = (_alike(file, *setting) for setting in (
        ("num_heads", SPECS[file.spec] or 8), ("pre_norm", 1), ("activation", 0), ("scale_embeddings", None),
    ))  # fmt: skip
    state = _state(file)
    width = state[EMBEDDINGS[1]].shape[-1]
    start, unknown = settings["decoder_start_token"], settings["unk_token"]
    languages = {"source_language": source_language, "target_language": target_language}
    if start is None and target_language is None:
        raise ValueError(
            f"convert: {directory / CONFIG}: decoder_start_token must be a token, got null: each call's target_prefix "
            "begins with one of its own there, and here the model says which (--target-language)"
        )
    for name, language in languages.items():
        if language is not None and start is not None:
            raise OptionError(f"convert: {name}", "be left out with a model that has a decoder_start_token", language)
    start = target_language if start is None else start
    zero = file.flag("decoder/start_from_zero_embedding")
    looking = file.scalar("decoder/alignment_heads", file.scalar("alignment_heads", 1))  # in older files
    file.check_all_used()
    for side in ("encoder", "decoder"):
        if (f"{side}.layer_norm.weight" in state) != bool(pre_norm):
            raise ValueError(
                f"convert: {file.path}: {side}/layer_norm must be there when norms stand before the blocks, and only "
                f"then (JanusModel has no others), got pre_norm = {pre_norm}"
            )
    if activation not in ACTIVATIONS:
        raise ValueError(f"convert: {file.path}: activation must be one of {ACTIVATIONS}, got {activation}")
    source, target = _vocabularies(directory)
    pad = next((target.index(token) for token in PADS if token in target), None)
    if zero:
        pad = add_pad(state)
        name = free_name(target)
        shared, target = source is target, [*target, name]
        source = target if shared or len(source) < len(state[EMBEDDINGS[0]]) else source
        start = name
    for name, tokens, table in (("source", source, EMBEDDINGS[0]), ("target", target, EMBEDDINGS[1])):
        if len(tokens) != len(state[table]):
            raise ValueError(
                f"convert: {directory}: the {name} vocabulary must hold the model's {len(state[table])} tokens, got "
                f"{len(tokens)}"
            )

    def number(role: str, token: str | None, default: int | None = None) -> int:
        if token not in target and default is not None:
            return default
        if token not in target:
            raise ValueError(f"convert: {directory}: {role} must be a token of the target vocabulary, got {token!r}")
        return target.index(token)

    for name, tokens in (("source_language", source), ("target_language", target)):
        check_language(name, languages[name], tokens)
    eos, unk = number("eos_token", settings["eos_token"]), number("unk_token", unknown)
    bos = number("bos_token", settings["bos_token"], pad)
    for role, needed, token, there in (
        ("bos_token", settings["add_source_bos"], settings["bos_token"], bos),
        ("eos_token", settings["add_source_eos"], settings["eos_token"], eos),
    ):
        if needed and source[there : there + 1] != [token]:
            raise ValueError(
                f"convert: {directory}: {role} {token!r} must have one number in both vocabularies, got another"
            )
    model = assemble(
        state, file.path, attention_heads=heads, alignment_heads=looking,
        activation=ACTIVATIONS[activation], position_offset=1,
        scale_embedding=_is_scaled(file.path, scaled, width), layer_norm_eps=settings.get("layer_norm_epsilon") or 1e-5,
        source_bos=settings["add_source_bos"], add_source_eos=settings["add_source_eos"], bos_token_id=bos,
        pad_token_id=bos if pad is None else pad, eos_token_id=eos, unk_token_id=unk, mask_token_id=unk,
        decoder_start_token_id=number("decoder_start_token", start), suppress_tokens=(),
        # Marian's models of Hugging Face leave the end to their tokenizer; those of OpenNMT-py have none.
        source_suffix_ids=(
            (eos, source.index(source_language)) if source_language
            else (eos,) if zero and not settings["add_source_eos"] else ()
        ),
    )  # fmt: skip
    return model, _with_text(directory, source, target)


def stored_as(directory: str | Path) -> str:
    """What ``janus_fast.save`` stores the weights of ``directory`` as without changing them: "int8" or "float32".

    Its integers reach 127 in every row. Those of CTranslate2 1 need not, and would be rounded anew.
    """
    variables = _File(Path(directory) / WEIGHTS).variables.values()
    integers = [array.astype(np.int16) for array in variables if array.dtype == np.int8 and array.ndim == 2]
    largest = [np.abs(array).max(1) for array in integers]
    return "int8" if largest and all(np.isin(rows, (0, 127)).all() for rows in largest) else "float32"


class _File:
    """The variables of a ``model.bin``, under the names of today, and which of them were asked for."""

    def __init__(self, path: Path):
        check_part("convert", path)
        self.path, self.used = path, set()
        try:
            self._read(memoryview(read_bytes(path)))
        except (struct.error, ValueError, IndexError, KeyError) as error:
            raise ValueError(f"convert: {path} must be a whole model.bin of CTranslate2, got {error}") from None
        if self.spec not in SPECS or self.revision < 2:
            raise ValueError(
                f"convert: {path} must hold a Transformer with an encoder and a decoder (TransformerSpec), got "
                f"{self.spec or 'a model of the first version'}"
            )
        if self.revision < 5:  # what holds for both sides was said once
            for name in ("num_heads", "pre_norm", "activation"):
                for side in ("encoder", "decoder"):
                    if name in self.variables:
                        self.variables[f"{side}/{name}"] = self.variables[name]
                self.used.add(name)
        for side in ("encoder", "decoder"):  # the flag's older place
            older = f"{side}/embeddings/multiply_by_sqrt_depth"
            self.used.add(older)
            if older in self.variables:
                self.variables.setdefault(f"{side}/scale_embeddings", self.variables[older])

    def _read(self, data: memoryview) -> None:
        at = 0

        def take(form: str):
            nonlocal at
            at += struct.calcsize("<" + form)
            return struct.unpack_from("<" + form, data, at - struct.calcsize("<" + form))[0]

        def text() -> str:
            nonlocal at
            length = take("H")
            at += length
            if at > len(data):
                raise ValueError("its end within a name")
            return bytes(data[at - length : at]).rstrip(b"\0").decode()

        self.version = take("I")
        if not 3 <= self.version <= NEWEST:
            raise ValueError(f"version {self.version}, where 3 to {NEWEST} are read")
        self.spec, self.revision = text(), take("I")
        self.variables: dict[str, np.ndarray] = {}
        for _ in range(take("I")):
            name = text()
            shape = [take("I") for _ in range(take("B"))]
            kind, size = take("B"), take("I")
            if self.version < 4:
                kind, size = TYPES_BY_SIZE[kind], size * kind
            count, dtype = size // np.dtype(TYPES[kind]).itemsize, TYPES[kind]
            if at + size > len(data):
                raise ValueError(f"its end within {name}")
            array = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += size
            self.variables[name] = (array.astype(np.uint32) << 16).view(np.float32) if dtype == "<u2" else array
        for _ in range(take("I")):
            alias, name = text(), text()
            for suffix in ("", "_scale"):
                if name + suffix in self.variables:
                    self.variables[alias + suffix] = self.variables[name + suffix]

    def scalar(self, name: str, default=None):
        """The number of this name."""
        self.used.add(name)
        value = self.variables.get(name)
        return default if value is None else value.item() if value.size == 1 else value

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.scalar(name, default))

    def words(self, name: str, default: str) -> str:
        """The text of this name, as files before version 6 have them."""
        self.used.add(name)
        return bytes(self.variables[name]).decode() if name in self.variables else default

    def has(self, name: str) -> bool:
        return name in self.variables

    def floats(self, name: str) -> torch.Tensor:
        """The numbers of this name in float32, however they are stored."""
        if name not in self.variables:
            raise ValueError(f"convert: {self.path} must hold every parameter of the model, got no {name!r}")
        array, scale = self.variables[name], self.variables.get(name + "_scale")
        self.used |= {name, name + "_scale"}
        numbers = array.astype(np.float32)
        if scale is not None and array.dtype.kind == "i":
            numbers /= scale.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
        elif array.dtype.kind == "i":
            raise ValueError(f"convert: {self.path}: {name} must have a scale, as it holds integers, got none")
        return torch.from_numpy(numbers)

    def check_all_used(self) -> None:
        self.used.add("layernorm_embedding")  # a flag of files before version 6, whose variables tell
        for flag in ("with_relative_position", "encoder/multi_query_attention", "decoder/alibi"):
            if self.flag(flag):
                raise ValueError(f"convert: {self.path}: {flag} must be off (JanusModel does not have it), got true")
        for name in sorted(set(self.variables) - self.used):
            if name.rpartition("/")[2] not in IGNORED:
                part = next((words for key, words in LACKING.items() if key in name), "such a part")
                raise ValueError(f"convert: {self.path} must do without {part}, which JanusModel lacks, got {name!r}")


def _alike(file: _File, name: str, default):
    """A number that both sides must share."""
    values = [file.scalar(f"{side}/{name}", default) for side in ("encoder", "decoder")]
    if values[0] != values[1]:
        raise ValueError(f"convert: {file.path}: encoder and decoder must have the same {name}, got {values}")
    return values[0]


def _is_scaled(path: Path, value, width: int) -> bool:
    """Whether embeddings are multiplied by sqrt(C), which a flag, or the factor itself, says."""
    if value is None or value in (0, 1) and not isinstance(value, float):
        return value is None or bool(value)
    if abs(value - width**0.5) > 1e-5 * width**0.5 and value != 1.0:
        raise ValueError(f"convert: {path}: scale_embeddings must be 1 or sqrt({width}), got {value}")
    return value != 1.0


def _settings(directory: Path, file: _File) -> dict:
    """What the model's tokens stand for: ``config.json``, or variables in files before version 6."""
    path = directory / CONFIG
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    values = read_object(path) if path.exists() or file.version == NEWEST else {}
    if file.version < NEWEST:
        values |= {name: file.words(name, default) for name, default in tokens.items()}
        values |= {f"add_source_{end}": file.flag(f"with_source_{end}") for end in ("bos", "eos")}
        values["decoder_start_token"] = values["bos_token" if file.flag("with_target_bos", True) else "eos_token"]
        if file.flag("user_decoder_start_tokens"):
            values["decoder_start_token"] = None
    settings = {**tokens, "add_source_bos": False, "add_source_eos": False, **values}
    if "decoder_start_token" not in settings:
        settings["decoder_start_token"] = settings["bos_token"]
    for name in ("add_source_bos", "add_source_eos"):
        if not isinstance(settings[name], bool):
            raise ValueError(f"convert: {path}: {name} must be true or false, got {settings[name]!r}")
    if settings["unk_token"] != tokens["unk_token"]:
        raise ValueError(f"convert: {path}: unk_token must be '<unk>', got {settings['unk_token']!r}")
    return settings


def _state(file: _File) -> dict[str, torch.Tensor]:
    """The tensors under our names."""
    state = {}

    def linear(name: str, *ours: str) -> None:
        weight = file.floats(f"{name}/weight")
        bias = file.floats(f"{name}/bias") if file.has(f"{name}/bias") else torch.zeros(len(weight))
        for part, whole in (("weight", weight), ("bias", bias)):
            if len(whole) % len(ours):
                raise ValueError(
                    f"convert: {file.path}: {name} must hold {len(ours)} equal parts, got {len(whole)} rows"
                )
            state.update({f"{n}.{part}": p for n, p in zip(ours, whole.chunk(len(ours)), strict=True)})

    def norm(name: str, ours: str) -> None:
        if file.has(f"{name}/gamma"):
            state[f"{ours}.weight"], state[f"{ours}.bias"] = file.floats(f"{name}/gamma"), file.floats(f"{name}/beta")

    for side, embeddings, positions in zip(("encoder", "decoder"), EMBEDDINGS, POSITIONS, strict=False):
        table = next((n for n in (f"{side}/embeddings", f"{side}/embeddings_0") if file.has(f"{n}/weight")), None)
        state[embeddings] = file.floats(f"{table or side + '/embeddings'}/weight")
        if file.has(f"{side}/position_encodings/encodings"):
            state[positions] = file.floats(f"{side}/position_encodings/encodings").squeeze()
        norm(f"{side}/layernorm_embedding", f"{side}.layernorm_embedding")
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(10**4):
            if not file.has(f"{side}/layer_{number}/ffn/linear_0/weight"):
                break
            walk_layer(side, number, linear, norm)
    linear("decoder/projection", EMBEDDINGS[2].removesuffix(".weight"))
    if OUTPUT_BIAS in state and not state[OUTPUT_BIAS].any():
        del state[OUTPUT_BIAS]
    return state


def _vocabularies(directory: Path) -> tuple[list[str], list[str]]:
    """The tokens of sources and of targets, one list where the directory has one file."""
    if (shared := _tokens(directory, "shared")) is not None:
        return shared, shared
    sides = [_tokens(directory, side) for side in ("source", "target")]
    if None in sides:
        side = ("source", "target")[sides.index(None)]
        raise FileNotFoundError(
            f"convert: {directory} must hold shared_vocabulary.json, or source_vocabulary.json and "
            f"target_vocabulary.json (or .txt), got none of the {side}"
        )
    return sides[0], sides[1]


def _tokens(directory: Path, name: str) -> list[str] | None:
    path = directory / f"{name}_vocabulary.json"
    try:
        if path.exists():
            tokens = json.loads(read_bytes(path).decode())
        elif (path := path.with_suffix(".txt")).exists():
            tokens = read_bytes(path).decode().removesuffix("\n").split("\n")
            if all(token.endswith("\r") for token in tokens):
                tokens = [token[:-1] for token in tokens]
        else:
            return None
    except ValueError as error:
        raise ValueError(f"convert: {path} must hold tokens in UTF-8, got {error}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"convert: {path} must hold a list of tokens")
    return tokens


def _with_text(directory: Path, source: list[str], target: list[str]) -> tuple[Vocabulary, Vocabulary]:
    """Vocabularies of these tokens, with the sentencepiece models that lie beside them."""
    places = [directory, *[directory.parent] * (directory.parent / "metadata.json").is_file()]  # Argos' packages
    pairs = [(place / "source.spm", place / "target.spm") for place in places]
    pairs += [(place / name,) * 2 for place in places for name in SENTENCEPIECE]
    pieces = next((pair for pair in pairs if pair[0].exists() and pair[1].exists()), (None, None))

    def vocabulary(path: Path | None, tokens: list[str]) -> Vocabulary:
        return Vocabulary(tokens) if path is None else Vocabulary.from_sentencepiece(path, tokens)

    first = vocabulary(pieces[0], source)
    return first, first if source is target and pieces[0] == pieces[1] else vocabulary(pieces[1], target)
