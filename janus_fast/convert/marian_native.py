"""Marian's own models, ``.npz`` or ``.bin`` and ``decoder.yml``, read without Marian."""

import json
import lzma
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..inputs import OptionError, check_part
from ..model import JanusModel
from ..reading import naming, read_text
from ..text import Vocabulary
from . import marian_binary
from .assemble import EMBEDDINGS, OUTPUT_BIAS, add_pad, assemble, free_name

DECODER, SETTINGS = "decoder.yml", "special:model.yml"
ACTIVATIONS = {"relu": "relu", "swish": "silu", "gelu": "quick_gelu"}
# Settings that must have one of these values, where they are there.
REQUIRED = {
    "type": ("transformer",), "right-left": (False,), "transformer-no-projection": (False,),
    "transformer-decoder-autoreg": ("self-attention", "rnn"),
    "transformer-tied-layers": ([],), "transformer-ffn-depth": (2,), "transformer-decoder-ffn-depth": (0, 2),
    "transformer-disable-position-embeddings": (False,), "lemma-dim-emb": (0,),
    "transformer-postprocess-emb": ("", "d"),
    "transformer-train-positions": (False,), "transformer-pool": (False,),
}  # fmt: skip
OF_RECURRENCE = {"dec-cell": ("ssru",), "layer-normalization": (False,), "transformer-rnn-projection": (False,)}
NORMS = {("", "dan", ""): False, ("n", "da", "n"): True}  # pre-, postprocess, postprocess-top: norms before blocks
ATTENTIONS = {"self": "self_attn", "context": "encoder_attn"}
OF_ACTIVATIONS = "_QuantMultA"  # ends the name of the scale of what a matrix is multiplied with, which we measure anew
# What a damaged .npz raises, whatever its bytes say: another method of compression, encryption.
DAMAGE = (
    EOFError, ValueError, KeyError, RuntimeError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError
)  # fmt: skip
LINES = re.compile(r"([\w-]+):(?: (.*))?")


def recognises(path: str | Path) -> bool:
    """Whether ``path`` is a model of Marian, or a directory of one."""
    path = Path(path)
    if path.is_dir():
        return (path / DECODER).exists() or bool(_models(path))
    return path.suffix == ".npz" or marian_binary.recognises(path)


def load(path: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary]]:
    """Converts a Transformer of Marian: a one-stream model, in float32 and evaluation mode, and its vocabularies.

    Positions and norms are Marian's own (its sines have fairseq's frequencies, and 1e-6 is added to variances). The
    decoder starts with a vector of zeros, the embedding of a token that is added behind the target's others and never
    predicted. Students with SSRU, as Mozilla's are, keep it.

    Args:
        path: a directory with ``decoder.yml`` that names the model and the vocabularies, or with one \\*.npz or
            \\*.bin beside its vocabularies; or that file, of which integers become float32. Vocabularies are \\*.spm or
            \\*.yml; beside the latter, ``source.spm`` and ``target.spm`` make them take text.
    Returns:
        The model, and ``(source, target)`` vocabularies.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, or a setting that ``janus_fast.JanusModel`` does not have.
    """
    file, names = _files(Path(path))
    arrays = _arrays(file)
    if SETTINGS not in arrays:
        raise ValueError(f"convert: {file} must hold its settings, {SETTINGS}, got none")
    settings = read_yaml(arrays.pop(SETTINGS).tobytes().decode(errors="replace").rstrip("\0"), f"{file}: {SETTINGS}")
    recurrent = settings.get("transformer-decoder-autoreg") == "rnn"
    for name, allowed in (REQUIRED | (OF_RECURRENCE if recurrent else {})).items():
        if name in settings and settings[name] not in allowed:
            values = " or ".join(map(repr, allowed))
            raise ValueError(
                f"convert: {file}: {name} must be {values} (JanusModel has no other), got {settings[name]!r}"
            )
    norms = tuple(settings.get(f"transformer-{part}", "") for part in ("preprocess", "postprocess", "postprocess-top"))
    norms = tuple(part.replace("d", "") if place != 1 else part for place, part in enumerate(norms))
    if norms not in NORMS:
        raise ValueError(f"convert: {file}: norms must stand behind blocks ('', 'dan', '') or before, got {norms}")
    activation = settings.get("transformer-ffn-activation", "swish")
    if activation not in ACTIVATIONS:
        raise OptionError(f"convert: {file}: transformer-ffn-activation", f"be one of {[*ACTIVATIONS]}", activation)
    state = _state(file, arrays, "_pre" if NORMS[norms] else "", recurrent)
    tokens = [_tokens(name, side) for name, side in zip(names, ("source", "target"), strict=True)]
    for side, known, table in zip(("source", "target"), tokens, EMBEDDINGS, strict=False):
        if len(known[0]) != len(state[table]):
            words = f"hold the model's {len(state[table])} tokens"
            raise OptionError(f"convert: {file}: the {side} vocabulary", words, len(known[0]))
    (source, first), (target, second) = tokens
    pad = add_pad(state)
    shared = len(state[EMBEDDINGS[0]]) > len(source)
    eos, unknown = ((target.index(token) if token in target else None) for token in ("</s>", "<unk>"))
    if None in (eos, unknown) or source[eos : eos + 1] != ["</s>"] or "<unk>" not in source:
        raise ValueError(f"convert: {file}: both vocabularies must hold </s>, with one number, and <unk>")
    model = assemble(
        state, file, max_positions=1024, position_offset=0, layer_norm_eps=1e-6, source_bos=False,
        decoder_autoreg="ssru" if recurrent else "self-attention",
        attention_heads=settings.get("transformer-heads", 8), alignment_heads=1, activation=ACTIVATIONS[activation],
        bos_token_id=pad, pad_token_id=pad, eos_token_id=eos, unk_token_id=unknown, mask_token_id=unknown,
        decoder_start_token_id=pad,
    )  # fmt: skip
    name = free_name(target)
    sides = ([*source, name] if shared else source), [*target, name]
    texts = [
        Vocabulary.from_sentencepiece(pieces, tokens) if pieces else Vocabulary(tokens)
        for pieces, tokens in zip((first, second), sides, strict=True)
    ]
    return model, (texts[0], texts[0] if sides[0] == sides[1] and first == second else texts[1])


def _files(path: Path) -> tuple[Path, list[Path]]:
    """The file of weights, and those of the source's and the target's vocabulary."""
    directory, told = (path if path.is_dir() else path.parent), {}
    if path.is_dir() and (path / DECODER).exists():
        told = read_yaml(read_text("convert", path / DECODER), path / DECODER)
    if "models" in told:
        models, names = ([directory / str(name) for name in told.get(key) or []] for key in ("models", "vocabs"))
    else:
        models = [path] if path.is_file() else _models(directory)
        names = sorted({*directory.glob("*vocab*.yml"), *directory.glob("*vocab*.spm")})
    if len(models) != 1:
        raise ValueError(f"convert: {directory} must hold one model, *.npz or *.bin, got {len(models)}")
    if len(names) not in (1, 2):
        words = f"hold one vocabulary or two, *vocab*.yml or .spm, or name them in {DECODER}"
        raise OptionError(f"convert: {directory}", words, len(names))
    for file in (*models, *names):
        check_part("convert", file)
    return models[0], [names[0], names[-1]]


def _models(directory: Path) -> list[Path]:
    binaries = [file for file in sorted(directory.glob("*.bin")) if marian_binary.recognises(file)]
    return [*sorted(directory.glob("*.npz")), *binaries]


def _arrays(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".bin":
        return marian_binary.read(file)
    try:
        with naming(file), open(file, "rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not a decompressor's
            raise
        raise ValueError(f"convert: {file} must be a whole .npz of Marian, got {error}") from None


def read_yaml(text: str, origin) -> dict:
    """The top level of what Marian writes: ``name: value`` lines, and lists of one value a line."""
    values: dict = {}
    name = None
    for line in text.splitlines():
        item = line.strip()
        match = LINES.fullmatch(line.rstrip())
        if match is not None:
            name = match[1]
            values[name] = _value(match[2] or "")
        elif name is not None and item.startswith("- "):
            held = values[name] if isinstance(values[name], list) else []
            values[name] = [*held, _value(item[2:])]
        elif name is not None and item == "[]":
            values[name] = []
        elif item and line[0] not in " #-":
            raise ValueError(f"convert: {origin} must hold lines 'name: value', got {line!r}")
    return values


def _value(text: str):
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if text[:1] in "\"'" and len(text) > 1 and text[-1] == text[0]:
        return text[1:-1]
    if text == "[]":
        return []
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _tokens(file: Path, side: str) -> tuple[list[str], Path | None]:
    """The tokens of a side's vocabulary, and the sentencepiece model that cuts text into them."""
    if file.suffix == ".spm":
        return Vocabulary.from_sentencepiece(file).tokens, file
    numbers: dict[int, str] = {}
    key = None
    for place, line in enumerate(read_text("convert", file).split("\n"), 1):
        line = line.rstrip("\r")
        if line.startswith("? "):  # a long token: its number is in the next line
            key = line[2:]
            continue
        token, _, number = (key, "", line[2:]) if key is not None else line.rpartition(":")
        key = None
        if not line:
            continue
        try:
            numbers[int(number)] = _unquoted(token)
        except ValueError:
            raise ValueError(f"convert: {file} must hold lines 'token: number', got {line!r} in line {place}") from None
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"convert: {file} must number its tokens from 0 on, got {len(numbers)} numbers, some others")
    pieces = file.with_name(f"{side}.spm")
    return [numbers[number] for number in range(len(numbers))], pieces if pieces.exists() else None


def _unquoted(token: str) -> str:
    if token[:1] == "'" == token[-1:] and len(token) > 1:
        return token[1:-1].replace("''", "'")
    if token[:1] == '"' == token[-1:] and len(token) > 1:
        inner = re.sub(r"\\x([0-9A-Fa-f]{2})", lambda found: f"\\u00{found[1]}", token)
        inner = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda found: json.dumps(chr(int(found[1], 16)))[1:-1], inner)
        return json.loads(inner, strict=False)
    return token


def _state(file: Path, arrays: dict[str, np.ndarray], norms: str, recurrent: bool) -> dict[str, Tensor]:
    """The tensors under our names; Marian's matrices are [inputs, outputs].

    Source: ``src/models/transformer.h``, ``src/rnn/cells.h`` and ``src/layers/generic.h`` of marian-dev (2781d735,
    browsermt, 2024; the same in c9f287db, marian-nmt, 2025).
    """
    state: dict[str, Tensor] = {}
    others = (name for name in arrays if not name.startswith("special:") and not name.endswith(OF_ACTIVATIONS))
    left = {name: arrays[name] for name in others}

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(f"convert: {file} must hold every parameter of the model, got no {name!r}")
        return torch.from_numpy(left.pop(name).astype(np.float32))

    def linear(theirs: str, suffix: str, ours: str) -> None:
        state[f"{ours}.weight"] = take(f"{theirs}_W{suffix}").T.contiguous()
        state[f"{ours}.bias"] = take(f"{theirs}_b{suffix}").flatten()

    def norm(theirs: str, ours: str) -> None:
        state[f"{ours}.weight"] = take(f"{theirs}_ln_scale{norms}").flatten()
        state[f"{ours}.bias"] = take(f"{theirs}_ln_bias{norms}").flatten()

    blocks = {"encoder": ("self",), "decoder": ("context",) if recurrent else ("self", "context")}
    both = take("Wemb") if "Wemb" in left else None
    for side, table in zip(("encoder", "decoder"), EMBEDDINGS, strict=False):
        state[table] = take(f"{side}_Wemb") if f"{side}_Wemb" in left or both is None else both
        number = 1
        while f"{side}_l{number}_ffn_W1" in left:
            theirs, ours = f"{side}_l{number}", f"{side}.layers.{number - 1}"
            if "self" not in blocks[side]:
                state[f"{ours}.ssru.in_proj.weight"] = take(f"{theirs}_rnn_W").T.contiguous()
                linear(f"{theirs}_rnn", "f", f"{ours}.ssru.forget_proj")
                norm(f"{theirs}_rnn" if norms else f"{theirs}_rnn_ffn", f"{ours}.ssru_layer_norm")
            for block in blocks[side]:
                own = f"{ours}.{ATTENTIONS[block]}"
                for letter, part in zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
                    linear(f"{theirs}_{block}", letter, f"{own}.{part}")
                norm(f"{theirs}_{block}_Wo", f"{own}_layer_norm")
            linear(f"{theirs}_ffn", "1", f"{ours}.fc1")
            linear(f"{theirs}_ffn", "2", f"{ours}.fc2")
            norm(f"{theirs}_ffn_ffn", f"{ours}.final_layer_norm")
            number += 1
        if norms:
            state[f"{side}.layer_norm.weight"] = take(f"{side}_top_ln_scale").flatten()
            state[f"{side}.layer_norm.bias"] = take(f"{side}_top_ln_bias").flatten()
    output = "decoder_ff_logit_out"
    if f"{output}_Wt" in left:
        state[EMBEDDINGS[2]] = take(f"{output}_Wt")
    else:
        state[EMBEDDINGS[2]] = take(f"{output}_W").T.contiguous() if f"{output}_W" in left else state[EMBEDDINGS[1]]
    if f"{output}_b" in left:
        state[OUTPUT_BIAS] = take(f"{output}_b").flatten()
    if left:
        raise ValueError(f"convert: {file} must hold the parameters of the model alone, got {min(left)!r}")
    return state
