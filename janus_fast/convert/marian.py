"""Marian models in Hugging Face's format, such as those of OPUS-MT, read without transformers."""

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import check_state, model_of, read_tensors
from ..config import JanusConfig
from ..model import JanusModel
from ..text import Vocabulary
from .torch_file import StoredTensor, open_torch_file

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # ends the name of the file that says which of several files a tensor is in
EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
ACTIVATIONS = {"swish": "silu"}  # where Hugging Face's name is another
REQUIRED = (
    "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads",
    "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings", "activation_function", "scale_embedding",
    "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
UNSUPPORTED = ("normalize_before", "normalize_embedding", "add_final_layer_norm")  # settings that must be off
# Settings of transformers' generate that would change what a model says, and that no option here stands for.
UNSUPPORTED_GENERATION = (
    "forced_bos_token_id", "forced_decoder_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
    "force_words_ids",
)  # fmt: skip
# Those that a caller chooses anew, and what each is when nothing is chosen: transformers' of searching and drawing.
CHOICES = {
    "num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "max_length": None, "max_new_tokens": None,
    "min_length": 0, "min_new_tokens": None, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "exponential_decay_length_penalty": None,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "penalty_alpha": None, "guidance_scale": None,
    "num_return_sequences": 1, "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None,
    "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
# The logit of a token that must never be predicted: its probability is 0 in every type, and float16 holds it.
NEVER = -1e4


def recognises(directory: str | Path) -> bool:
    """Whether ``directory`` holds a Marian model."""
    try:
        return json.loads((Path(directory) / CONFIG).read_text(encoding="utf-8")).get("model_type") == "marian"
    except (OSError, ValueError, AttributeError):  # no such file, no JSON, no JSON object
        return False


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
    Warns:
        UserWarning: the model comes with options of a search, which a model directory does not hold.
    """
    directory = Path(directory)
    settings = _settings(directory / CONFIG)
    start = _decoder_start(directory, settings)
    sizes = [settings["vocab_size"], settings["vocab_size"]]
    if not settings.get("share_encoder_decoder_embeddings", True):
        sizes[1] = settings.get("decoder_vocab_size") or sizes[0]
    added = _object(path) if (path := directory / "added_tokens.json").is_file() else {}
    if others := [token for token in added if not (token.startswith(">>") and token.endswith("<<"))]:
        warnings.warn(
            f"convert: {path}: text is not searched for added tokens other than a language such as >>deu<< at its "
            f"beginning, so {others[0]!r} can be given as a token or an id alone",
            stacklevel=2,
        )
    names = ["vocab.json", "target_vocab.json" if (directory / "target_vocab.json").is_file() else "vocab.json"]
    source, target = (
        _vocabulary(directory / pieces, directory / name, size, settings["eos_token_id"], added)
        for pieces, name, size in zip(("source.spm", "target.spm"), names, sizes, strict=True)
    )
    path, files = _weights(directory)
    state = _state(path, files)
    tied = [torch.equal(state[EMBEDDINGS[1]], state[name]) for name in EMBEDDINGS]
    config = JanusConfig(
        source_vocab_size=sizes[0],
        target_vocab_size=sizes[1],
        d_model=settings["d_model"],
        encoder_layers=settings["encoder_layers"],
        decoder_layers=settings["decoder_layers"],
        attention_heads=settings["encoder_attention_heads"],
        encoder_ffn_dim=settings["encoder_ffn_dim"],
        decoder_ffn_dim=settings["decoder_ffn_dim"],
        max_source_positions=settings["max_position_embeddings"],
        max_target_positions=settings["max_position_embeddings"],
        activation=ACTIVATIONS.get(settings["activation_function"], settings["activation_function"]),
        share_all_embeddings=all(tied),
        share_decoder_embeddings=tied[2],
        scale_embedding=settings["scale_embedding"],
        dropout=settings.get("dropout", 0.1),
        two_stream=False,
        output_bias=True,
        source_bos=False,
        bos_token_id=settings["pad_token_id"],  # Marian has no bos; pad is never predicted either
        pad_token_id=settings["pad_token_id"],
        eos_token_id=settings["eos_token_id"],
        unk_token_id=target.unknown,
        mask_token_id=target.unknown,
        decoder_start_token_id=start,
        trained_modes=("ar",),
    )
    for side in ("encoder", "decoder"):  # newer files leave the tables out
        table = position_table(config.max_source_positions, config.d_model)
        state.setdefault(f"{side}.embed_positions.weight", table)
    for name in EMBEDDINGS[1 if config.share_all_embeddings else 2 if config.share_decoder_embeddings else 3 :]:
        del state[name]
    bias = state.setdefault("decoder.output_projection.bias", torch.zeros(config.target_vocab_size))
    check_state(config, state, path)
    bias[config.pad_token_id] = NEVER
    return model_of(config, {name: tensor.float() for name, tensor in state.items()}, path).eval(), (source, target)


def position_table(count: int, width: int) -> Tensor:
    """Marian's position vectors: all sines, then all cosines, of position / 10000 ** (2 i / C)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).float()


def _object(path: Path) -> dict:
    """The JSON object in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"convert: {path} does not exist")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"convert: {path} must hold a JSON object, got {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"convert: {path} must hold a JSON object, got {type(values).__name__}")
    return values


def _settings(path: Path) -> dict:
    """The model's settings, checked for what JanusModel lacks."""
    settings = _object(path)
    if (family := settings.get("model_type")) != "marian":
        raise ValueError(f'convert: {path} must hold "model_type": "marian", got {family!r}')
    if missing := [name for name in REQUIRED if name not in settings]:
        raise ValueError(f"convert: {path} must hold every setting of the model, got no {missing[0]!r}")
    for name in UNSUPPORTED:
        if settings.get(name):
            raise ValueError(
                f"convert: {path}: {name} must be off (it is not part of JanusModel), got {settings[name]!r}"
            )
    heads = [settings[f"{side}_attention_heads"] for side in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        raise ValueError(f"convert: {path}: encoder and decoder must have the same attention_heads, got {heads}")
    return settings


def _decoder_start(directory: Path, settings: dict) -> int:
    """The first token of an output, as transformers' generate has it, whose other settings are checked here.

    They are those of ``generation_config.json``, or of the model's settings in directories without one.
    """
    path = directory / GENERATION
    generation = _object(path) if path.is_file() else settings
    path = path if path.is_file() else directory / CONFIG
    for name in UNSUPPORTED_GENERATION:
        if generation.get(name) not in (None, [], {}):
            raise ValueError(f"convert: {path}: {name} must be off (nothing here does it), got {generation[name]!r}")
    pad, eos = settings["pad_token_id"], settings["eos_token_id"]
    for name, values in {
        "bad_words_ids": (None, [[pad]], []), "pad_token_id": (None, pad), "eos_token_id": (None, eos, [eos]),
        "forced_eos_token_id": (None, eos, [eos]),
    }.items():  # fmt: skip
        if generation.get(name) not in values:
            raise ValueError(f"convert: {path}: {name} must be {values[1]} or null, got {generation[name]!r}")
    chosen = [f"{k} = {generation[k]}" for k, usual in CHOICES.items() if generation.get(k) not in (None, usual)]
    if chosen:
        warnings.warn(
            f"convert: {path}: a model directory holds no options of a search, so these are left out: "
            + ", ".join(chosen),
            stacklevel=3,
        )
    start = generation.get("decoder_start_token_id")
    return settings["decoder_start_token_id"] if start is None else start


def _vocabulary(pieces: Path, numbers: Path, size: int, eos: int, added: dict) -> Vocabulary:
    """A sentencepiece model whose pieces have the numbers that a JSON object gives them, and those that are added."""
    for path in (pieces, numbers):
        if not path.is_file():
            raise FileNotFoundError(f"convert: {path} does not exist")
    try:
        index = json.loads(numbers.read_text(encoding="utf-8"))
        index = {**added, **index}
        tokens = sorted(index, key=index.__getitem__)
        whole = [index[token] for token in tokens] == list(range(size))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"convert: {numbers} must hold a JSON object of tokens and numbers, got {error}") from None
    if not whole:
        raise ValueError(f"convert: {numbers} must number the model's {size} tokens from 0 on, got {len(tokens)}")
    if tokens[eos] != "</s>":
        raise ValueError(f"convert: {numbers} must give '</s>' the number eos_token_id = {eos}, got {tokens[eos]!r}")
    try:
        return Vocabulary.from_sentencepiece(pieces, tokens)
    except ValueError as error:
        raise ValueError(f"convert: {numbers}: {error}") from None


def _weights(directory: Path) -> tuple[Path, list[Path]]:
    """The file that errors name, and the files that hold the tensors."""
    for path in (directory / name for name in WEIGHTS):
        if path.is_file():
            return path, [path]
        index = path.with_name(path.name + INDEX)
        if index.is_file():
            places = _object(index).get("weight_map")
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


def _state(path: Path, files: list[Path]) -> dict[str, Tensor]:
    """The tensors of files under our names, the embeddings of every side among them."""
    state = {name: tensor for file in files for name, tensor in _tensors(file).items()}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"convert: {path}: {name} must be a tensor, got {type(tensor).__name__}")
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    shared, output, bias = (state.pop(name, None) for name in ("shared.weight", "lm_head.weight", "final_logits_bias"))
    for name in EMBEDDINGS[:2]:
        if shared is not None:
            state.setdefault(name, shared)
        if name not in state:
            raise ValueError(f"convert: {path} must hold every parameter of the model, got no 'model.{name}'")
    state[EMBEDDINGS[2]] = state[EMBEDDINGS[1]] if output is None else output
    if bias is not None:
        state["decoder.output_projection.bias"] = bias.flatten()
    return state
