"""Marian models in Hugging Face's format, such as those of OPUS-MT, read without transformers."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from .. import foreign
from ..inputs import check_part
from ..model import JanusModel
from ..reading import read_text
from ..text import Vocabulary
from .assemble import EMBEDDINGS, NEVER, OUTPUT_BIAS, POSITIONS, assemble
from .generation import read_generation
from .hub import ACTIVATIONS, CONFIG, read_object, read_settings, read_state, sizes_told

REQUIRED = (
    "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings", "activation_function", "scale_embedding",
    "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
UNSUPPORTED = ("normalize_before", "normalize_embedding", "add_final_layer_norm")  # settings that must be off


def recognises(directory: str | Path) -> bool:
    """Whether ``directory`` holds a Marian model."""
    return foreign.family(directory) == "marian"


def load(directory: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary]]:
    """Converts a Marian model: a one-stream model, in float32 and evaluation mode, and its vocabularies.

    Weights in PyTorch's own format are read by a restricted unpickler: nothing that the file names is imported or
    called. Positions become tables: Marian's sines have frequencies of their own. A learned table in the file is kept;
    Transformers (5.23.0) reads one, too, but leaves it out of what it saves. ``<pad>``, which Marian's own files do
    not have, gets an output bias that leaves it no probability, so that the other tokens share all of it.

    Args:
        directory: holds ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, or either in several files
            and an index, ``source.spm``, ``target.spm``, ``vocab.json``, ``target_vocab.json`` where the target has
            numbers of its own, ``added_tokens.json`` and ``generation_config.json`` where there are such.
    Returns:
        The model, and ``(source, target)`` vocabularies.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, a setting that ``janus_fast.JanusModel`` does not have, weights that are not finite,
            a vocabulary of another size.
    """
    directory = Path(directory)
    settings = read_settings(directory / CONFIG, ("marian",), REQUIRED)
    for name in UNSUPPORTED:
        if settings.get(name):
            raise ValueError(
                f"convert: {directory / CONFIG}: {name} must be off (it is not part of JanusModel), got "
                f"{settings[name]!r}"
            )
    generation = read_generation(directory, settings)
    sizes = [settings["vocab_size"], settings["vocab_size"]]
    if not settings.get("share_encoder_decoder_embeddings", True):
        sizes[1] = settings.get("decoder_vocab_size") or sizes[0]
    added = read_object(path) if (path := directory / "added_tokens.json").exists() else {}
    if others := [token for token in added if not (token.startswith(">>") and token.endswith("<<"))]:
        warnings.warn(
            f"convert: {path}: text is not searched for added tokens other than a language such as >>deu<< at its "
            f"beginning, so {others[0]!r} can be given as a token or an id alone",
            stacklevel=2,
        )
    names = ["vocab.json", "target_vocab.json" if (directory / "target_vocab.json").exists() else "vocab.json"]
    source, target = (
        _vocabulary(directory / pieces, directory / name, size, settings["eos_token_id"], added)
        for pieces, name, size in zip(("source.spm", "target.spm"), names, sizes, strict=True)
    )
    path, state = read_state(directory)
    for name in POSITIONS:  # newer files leave the tables out
        state.setdefault(name, position_table(settings["max_position_embeddings"], state[EMBEDDINGS[0]].shape[1]))
    pad, eos = settings["pad_token_id"], settings["eos_token_id"]
    bias = state.get(OUTPUT_BIAS, torch.zeros(sizes[1])).clone()
    if pad < len(bias):
        bias[pad] = NEVER
    state[OUTPUT_BIAS] = bias
    model = assemble(
        state, path, sizes_told(settings, *sizes), attention_heads=settings["encoder_attention_heads"],
        alignment_heads=1,  # as CTranslate2 converts these
        activation=ACTIVATIONS.get(settings["activation_function"], settings["activation_function"]),
        scale_embedding=settings["scale_embedding"], dropout=settings.get("dropout", 0.1), source_bos=False,
        add_source_eos=False, source_suffix_ids=(eos,),  # CTranslate2 leaves the end to its callers
        bos_token_id=pad,  # Marian has no bos; pad is never predicted either
        pad_token_id=pad, eos_token_id=eos, unk_token_id=target.unknown, mask_token_id=target.unknown,
        decoder_start_token_id=generation.start, forced_bos_token_id=generation.forced_bos,
        suppress_tokens=tuple(sorted({pad, *generation.never})),
    )  # fmt: skip
    return model, (source, target)


def position_table(count: int, width: int) -> Tensor:
    """Marian's position vectors: all sines, then all cosines, of position / 10000 ** (2 i / C)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def _vocabulary(pieces: Path, numbers: Path, size: int, eos: int, added: dict) -> Vocabulary:
    """A sentencepiece model whose pieces have the numbers that a JSON object gives them, and those that are added."""
    for path in (pieces, numbers):
        check_part("convert", path)
    text = read_text("convert", numbers)
    try:
        index = json.loads(text)
        index = {**added, **index}
        tokens = sorted(index, key=index.__getitem__)
        whole = len(tokens) == size and [index[token] for token in tokens] == list(range(size))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"convert: {numbers} must hold a JSON object of tokens and numbers, got {error}") from None
    if not whole:
        raise ValueError(f"convert: {numbers} must number the model's {size} tokens from 0 on, got {len(tokens)}")
    if (found := dict(enumerate(tokens)).get(eos)) != "</s>":
        raise ValueError(f"convert: {numbers} must give '</s>' the number eos_token_id = {eos}, got {found!r}")
    try:
        return Vocabulary.from_sentencepiece(pieces, tokens)
    except ValueError as error:
        raise ValueError(f"convert: {numbers}: {error}") from None
