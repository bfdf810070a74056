"""The files of a model's directory in Hugging Face's format, read without transformers."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoint import read_tensors
from ..config import MOST_POSITIONS
from ..inputs import OptionError, check_part, integers, numbers, one_of, rule, switch
from ..reading import read_text
from .assemble import EMBEDDINGS, OUTPUT_BIAS, POSITIONS, check_matrices
from .torch_file import StoredTensor, open_torch_file

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # ends the name of the file that says which of several files a tensor is in
ACTIVATIONS = {  # where Hugging Face has several names
    "swish": "silu", "gelu_python": "gelu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new",
}  # fmt: skip
SIZES = (
    "vocab_size", "src_vocab_size", "tgt_vocab_size", "decoder_vocab_size", "d_model", "encoder_layers",
    "decoder_layers", "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
)  # fmt: skip
TOKENS = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id")


# Tokens of languages: of mBART (en_XX; in fairseq [en_XX]) and NLLB (eng_Latn), of M2M100 (__en__).
LANGUAGE = re.compile(r"\[?[a-z]{2,3}_[A-Z][A-Za-z]{1,3}\]?|__[a-z]{2,3}__")


def _are_tokens(value) -> bool:
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)


# What settings must be where they are not null. Others are compared with what is allowed, or JanusConfig checks them.
RULES = {
    **dict.fromkeys(SIZES, integers(1)), **dict.fromkeys(TOKENS, integers(0)),
    "max_position_embeddings": integers(1, MOST_POSITIONS), "scale_embedding": switch,
    "activation_function": rule("be a name", lambda x: isinstance(x, str)),
    **dict.fromkeys(("num_beams", "num_return_sequences", "max_length", "max_new_tokens"), integers(1)),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size", "top_k"), integers(0)),
    **dict.fromkeys(("length_penalty", "repetition_penalty", "temperature", "top_p"), numbers()),
    "do_sample": switch, "renormalize_logits": switch, "early_stopping": one_of(True, False, "never"),
    "share_encoder_decoder_embeddings": switch, "suppress_tokens": rule("be a list of token ids", _are_tokens),
    "bad_words_ids": rule("be lists of token ids", lambda x: isinstance(x, list) and all(map(_are_tokens, x))),
}  # fmt: skip


def check_language(option: str, language: str | None, tokens: Collection[str]) -> None:
    """Raises OptionError where a language is given that is no token, or another one than a language's."""
    if language is not None and (language not in tokens or not LANGUAGE.fullmatch(language)):
        words = "be a token of the vocabulary that names a language, such as en_XX"
        raise OptionError(f"convert: {option}", words, repr(language))


def read_object(path: Path) -> dict:
    """The JSON object in a file."""
    check_part("convert", path)
    text = read_text("convert", path)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"convert: {path} must hold a JSON object, got {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"convert: {path} must hold a JSON object, got {type(values).__name__}")
    return values


def read_settings(path: Path, families: tuple[str, ...], required: tuple[str, ...]) -> dict:
    """The model's settings, all of ``required`` among them."""
    settings = read_object(path)
    if (found := settings.get("model_type")) not in families:
        names = " or ".join(f'"{name}"' for name in families)
        raise ValueError(f'convert: {path} must hold "model_type": {names}, got {found!r}')
    if missing := [name for name in required if name not in settings]:
        raise ValueError(f"convert: {path} must hold every setting of the model, got no {missing[0]!r}")
    check_settings(path, settings, required)
    heads = [settings[f"{side}_attention_heads"] for side in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        raise ValueError(f"convert: {path}: encoder and decoder must have the same attention_heads, got {heads}")
    return settings


def check_settings(path: Path, settings: Mapping, names: Iterable[str]) -> None:
    """Holds ``settings`` to the rules; null stands for a setting that is not there, which none of ``names`` may be."""
    for name, check in RULES.items():
        if settings.get(name) is not None or name in names:
            check(f"convert: {path}: {name}", settings[name])


def numbered(path: Path, numbers: dict) -> list[str]:
    """The tokens of a vocabulary by their numbers."""
    if not all(type(number) is int for number in numbers.values()):
        raise ValueError(f"convert: {path} must hold a JSON object of tokens and numbers, got another value")
    return sorted(numbers, key=numbers.__getitem__)


def sizes_told(settings: Mapping, source_vocab_size: int, target_vocab_size: int) -> dict[str, int]:
    """What the settings say of sizes that tensors have, as ``assemble`` checks them."""
    names = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim")
    vocabularies = {"source_vocab_size": source_vocab_size, "target_vocab_size": target_vocab_size}
    return {**vocabularies, **{name: settings[name] for name in names}}


def read_state(directory: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that errors name, and the tensors under our names, the embeddings of every side among them."""
    path, files = _weights(directory)
    state = {name: tensor for file in files for name, tensor in _tensors(file).items()}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"convert: {path}: {name} must be a tensor, got {type(tensor).__name__}")
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    shared, output, bias = (state.pop(name, None) for name in ("shared.weight", "lm_head.weight", "final_logits_bias"))
    for name in EMBEDDINGS[:2]:
        if shared is not None:
            state.setdefault(name, shared)
    check_matrices(state, path, *EMBEDDINGS[:2], *(name for name in POSITIONS if name in state))
    state.setdefault(EMBEDDINGS[2], state[EMBEDDINGS[1]] if output is None else output)
    if bias is not None:
        state[OUTPUT_BIAS] = bias.flatten()
    return path, state


def _weights(directory: Path) -> tuple[Path, list[Path]]:
    """The file that errors name, and the files that hold the tensors."""
    for path in (directory / name for name in WEIGHTS):
        if path.exists():
            return path, [path]
        index = path.with_name(path.name + INDEX)
        if index.exists():
            places = read_object(index).get("weight_map")
            names = list(places.values()) if isinstance(places, dict) else []
            if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
                raise ValueError(f"convert: {index} must name files beside it in 'weight_map', got {names[:3]}")
            return index, [directory / name for name in sorted(set(names))]
    return directory / WEIGHTS[0], [directory / WEIGHTS[0]]


def _tensors(path: Path) -> dict:
    if path.suffix != ".bin":
        return read_tensors(path)
    with open_torch_file(path) as contents:
        try:
            return {k: v.load() if isinstance(v, StoredTensor) else v for k, v in contents.items()}
        except Exception as error:  # a damaged archive fails in every way there is
            raise ValueError(f"convert: {path} must be a whole checkpoint, got {error!r}") from None
