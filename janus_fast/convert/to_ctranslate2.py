"""Writes models as directories of CTranslate2, without CTranslate2."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..inputs import OptionError
from ..model import JanusModel
from ..replacing import replacing
from ..text import Vocabulary
from .assemble import NEVER
from .ctranslate2 import ACTIVATIONS, CONFIG, NEWEST, TYPES, WEIGHTS, walk_layer

REVISION = 7  # of the layout
FLOAT32, INT8, BFLOAT16 = TYPES.index("<f4"), TYPES.index("i1"), TYPES.index("<u2")


def save(
    model: JanusModel, directory: str | Path, vocabularies: tuple[Vocabulary, Vocabulary] | None = None, *,
    quantization: str = "float32",
) -> list[str]:  # fmt: skip
    """Writes an ordinary Transformer as a directory that CTranslate2 (3.0 or newer) reads.

    Tokens that the model never predicts get a bias that leaves them no probability, for CTranslate2 forbids none. Files
    of a tokenizer are written beside ``model.bin``; CTranslate2 does not read them.

    Args:
        model: a one-stream model.
        directory: made where it does not exist; what it holds of these names is replaced.
        vocabularies: (source, target); without, a token is its id, save ``<unk>``.
        quantization: "float32", "bfloat16" or "int8", the matrices with a scale for each row.
    Returns:
        What CTranslate2 cannot store, and leaves to its callers, a sentence each.
    Raises:
        OSError: something cannot be written.
        ValueError: a model of JANUS, a recurrent decoder, or vocabularies that CTranslate2 has no place for.
    """
    config = model.config
    if config.two_stream:
        raise ValueError(
            "convert: model must be an ordinary Transformer for CTranslate2, got a model of JANUS: it predicts a word "
            "from a mask at the word's place beside the words before it, two rows a step, where CTranslate2 has one"
        )
    if config.recurrent:
        raise OptionError(
            "convert: decoder_autoreg", "be 'self-attention' for CTranslate2, which has no other", "'ssru'"
        )
    sides = _vocabularies(model, vocabularies)
    settings = {
        "add_source_bos": config.source_bos, "add_source_eos": config.add_source_eos,
        "bos_token": sides[1][config.bos_token_id], "eos_token": sides[1][config.eos_token_id],
        "unk_token": sides[1][config.unk_token_id], "decoder_start_token": sides[1][config.decoder_start_token_id],
        "layer_norm_epsilon": config.layer_norm_eps, "multi_query_attention": False,
    }  # fmt: skip
    for role, needed in (("bos", config.source_bos), ("eos", config.add_source_eos)):
        number = getattr(config, f"{role}_token_id")
        if needed and sides[0][number : number + 1] != [settings[f"{role}_token"]]:
            words = f"have the name {settings[f'{role}_token']!r} in both vocabularies"
            raise OptionError(f"convert: {role}_token_id", words, sides[0][number : number + 1])
    with replacing(directory, last=WEIGHTS) as temporary:
        _write(temporary / WEIGHTS, _variables(model), quantization)
        text = json.dumps(settings, ensure_ascii=False, indent=2, sort_keys=True)
        (temporary / CONFIG).write_text(text + "\n", encoding="utf-8")
        for name, tokens in [("shared", sides[0])] if sides[0] == sides[1] else zip(("source", "target"), sides):  # noqa: B905
            text = json.dumps(tokens, ensure_ascii=False, indent=2)
            (temporary / f"{name}_vocabulary.json").write_text(text + "\n", encoding="utf-8")
        for name, content in _tokenizers(vocabularies):
            (temporary / name).write_bytes(content)
    return _left_to_callers(model, sides)


def _vocabularies(model: JanusModel, vocabularies: tuple[Vocabulary, Vocabulary] | None) -> tuple[list[str], list[str]]:
    sizes = (model.config.source_vocab_size, model.config.target_vocab_size)
    unknown = model.config.unk_token_id
    sides = tuple(["<unk>" if number == unknown else str(number) for number in range(size)] for size in sizes)
    if vocabularies is not None:
        sides = tuple(vocabulary.tokens for vocabulary in vocabularies)
    for name, tokens in zip(("source", "target"), sides, strict=True):
        if len(set(tokens)) < len(tokens):
            twice = next(token for token in tokens if tokens.count(token) > 1)
            raise OptionError(f"convert: {name} vocabulary", "hold a token once for CTranslate2", f"{twice!r} twice")
    if vocabularies and sides[0][vocabularies[0].unknown] != sides[1][model.config.unk_token_id]:
        raise OptionError(
            "convert: vocabularies", "have one name for unknown tokens", sides[0][vocabularies[0].unknown]
        )
    return sides


def _tokenizers(vocabularies: tuple[Vocabulary, Vocabulary] | None) -> list[tuple[str, bytes]]:
    """The files that cut text into tokens, by the names under which other programs look for them."""
    source, target = vocabularies or (None, None)
    if source is None:
        return []
    models = [v.processor and v.processor.serialized_model_proto() for v in (source, target)]
    if models[0] and models[0] == models[1]:
        return [("sentencepiece.model", models[0])]
    files = [(f"{side}.spm", model) for side, model in zip(("source", "target"), models, strict=True) if model]
    if source.tokenizer is not None:
        files.append(("tokenizer.json", source.tokenizer.encode()))
    if source.codes is not None:
        files.append(("bpe.codes", source.codes.encode()))
    return files


def _left_to_callers(model: JanusModel, sides: tuple[list[str], list[str]]) -> list[str]:
    config, said = model.config, []
    for ids, where in ((config.source_prefix_ids, "before"), (config.source_suffix_ids, "behind")):
        if ids:
            names = " ".join(sides[0][number] for number in ids)
            said.append(f"its callers put {names} {where} the tokens of every source")
    if config.forced_bos_token_id is not None:
        said.append(f"its callers begin every target with {sides[1][config.forced_bos_token_id]} (target_prefix)")
    return said


def _variables(model: JanusModel) -> dict[str, Tensor | int | float]:
    """CTranslate2's names; numbers that are no tensors are flags and sizes."""
    config, state = model.config, model.state_dict()
    activation = next(number for number, name in ACTIVATIONS.items() if name == config.activation)
    held: dict[str, Tensor | int | float] = {}

    def linear(theirs: str, *ours: str) -> None:
        for part in ("weight", "bias"):
            held[f"{theirs}/{part}"] = torch.cat([state[f"{name}.{part}"] for name in ours])

    def norm(theirs: str, ours: str) -> None:
        held[f"{theirs}/gamma"], held[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        embeddings = f"{side}/embeddings" + "_0" * (side == "encoder")
        held |= {
            f"{embeddings}/weight": stack.embed_tokens.weight,
            f"{side}/position_encodings/encodings": stack.embed_positions.weight,
            f"{side}/num_heads": np.int16(config.attention_heads), f"{side}/pre_norm": config.normalize_before,
            f"{side}/activation": activation, f"{side}/scale_embeddings": config.scale_embedding,
        }  # fmt: skip
        if config.layernorm_embedding:
            norm(f"{side}/layernorm_embedding", f"{side}.layernorm_embedding")
        if config.normalize_before:
            norm(f"{side}/layer_norm", f"{side}.layer_norm")
        for number in range(len(stack.layers)):
            walk_layer(side, number, linear, norm)
    held["encoder/embeddings_merge"] = 0
    held["encoder/multi_query_attention"] = held["decoder/alibi"] = held["decoder/start_from_zero_embedding"] = False
    held["decoder/alignment_layer"], held["decoder/alignment_heads"] = np.int16(-1), np.int16(config.alignment_heads)
    held["decoder/projection/weight"] = model.output_weight
    bias = torch.zeros(config.target_vocab_size) if model.output_bias is None else model.output_bias.detach().clone()
    if config.suppressed:
        bias[config.suppressed] = NEVER
    if bias.any():
        held["decoder/projection/bias"] = bias
    return held


def _write(path: Path, variables: dict[str, Tensor | int | float], quantization: str) -> None:
    """The file of version 6: names with their type and numbers, then names that stand for others."""
    stored: dict[str, tuple[int, tuple[int, ...], bytes]] = {}
    aliases, first = [], {}
    for name in sorted(variables):
        value = variables[name]
        if not isinstance(value, Tensor):
            number = value if isinstance(value, np.int16) else np.int8(value)
            stored[name] = TYPES.index(f"<i{number.itemsize}" if number.itemsize > 1 else "i1"), (), number.tobytes()
            continue
        if (other := first.setdefault(value.data_ptr(), name)) != name:  # a table that several parts share
            aliases.append((name, other))
            continue
        tensor = value.detach().float().contiguous()
        matrix = name.endswith("/weight")
        if quantization == "int8" and matrix:
            largest = tensor.abs().amax(1)
            scale = 127.0 / torch.where(largest == 0, torch.full_like(largest, 127.0), largest)
            integers = (tensor * scale[:, None]).round().to(torch.int8)
            stored[name] = INT8, tuple(tensor.shape), integers.numpy().tobytes()
            stored[f"{name}_scale"] = FLOAT32, tuple(scale.shape), scale.numpy().tobytes()
        elif quantization == "bfloat16" and matrix:
            bits = tensor.to(torch.bfloat16).view(torch.int16)
            stored[name] = BFLOAT16, tuple(tensor.shape), bits.numpy().tobytes()
        else:
            stored[name] = FLOAT32, tuple(tensor.shape), tensor.numpy().tobytes()

    def text(words: str) -> bytes:
        return struct.pack("<H", len(words.encode()) + 1) + words.encode() + b"\0"

    with open(path, "wb") as file:
        file.write(struct.pack("<I", NEWEST) + text("TransformerSpec") + struct.pack("<II", REVISION, len(stored)))
        for name, (kind, shape, numbers) in sorted(stored.items()):
            if len(numbers) >= 2**32:
                raise OptionError(f"convert: {name}", "have less than 4 GiB for CTranslate2", len(numbers))
            file.write(text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape))
            file.write(struct.pack("<BI", kind, len(numbers)) + numbers)
        file.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases:
            file.write(text(alias) + text(name))
