"""Transformers of OpenNMT-py, read without OpenNMT-py."""

from pathlib import Path

import torch
from torch import Tensor

from ..model import JanusModel
from ..text import Vocabulary
from .assemble import EMBEDDINGS, OUTPUT_BIAS, POSITIONS, assemble
from .torch_file import StoredTensor, open_torch_file

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "fast_gelu": "gelu_new", "silu": "silu"}
# Options that must have one of these values, where they are there.
REQUIRED = {
    "encoder_type": ("transformer",), "decoder_type": ("transformer",),
    "self_attn_type": ("scaled-dot", "scaled-dot-flash"),
    "position_encoding": (True,), "max_relative_positions": (0,), "copy_attn": (False,), "multiquery": (False,),
    "layer_norm": ("standard",), "parallel_residual": (False,), "num_experts": (0,), "sliding_window": (0,),
    "aan_useffn": (False,), "lambda_coverage": (0, 0.0), "generator_function": ("softmax",),
}  # fmt: skip
STACKS = {"encoder": "encoder.transformer", "decoder": "decoder.transformer_layers"}
PARTS = {  # of a layer
    "self_attn.linear_query": "self_attn.q_proj", "self_attn.linear_keys": "self_attn.k_proj",
    "self_attn.linear_values": "self_attn.v_proj", "self_attn.final_linear": "self_attn.out_proj",
    "context_attn.linear_query": "encoder_attn.q_proj", "context_attn.linear_keys": "encoder_attn.k_proj",
    "context_attn.linear_values": "encoder_attn.v_proj", "context_attn.final_linear": "encoder_attn.out_proj",
    "feed_forward.w_1": "fc1", "feed_forward.w_2": "fc2", "feed_forward.layer_norm": "final_layer_norm",
    "layer_norm": "self_attn_layer_norm", "layer_norm_1": "self_attn_layer_norm",
    "layer_norm_2": "encoder_attn_layer_norm",
}  # fmt: skip
BEFORE = {".a_2": ".weight", ".b_2": ".bias"}  # how norms of the first releases were named


def recognises(path: str | Path) -> bool:
    """Whether a file of ``torch.save`` is a checkpoint of OpenNMT-py."""
    with open_torch_file(path) as contents:
        return _is_checkpoint(contents)


def _is_checkpoint(contents) -> bool:
    return isinstance(contents, dict) and {"model", "generator", "vocab", "opt"} <= contents.keys()


def load(path: str | Path) -> tuple[JanusModel, tuple[Vocabulary, Vocabulary]]:
    """Converts a Transformer of OpenNMT-py: a one-stream model, in float32 and evaluation mode, and its vocabularies.

    The file is read by a restricted unpickler: nothing that it names is imported or called. No token is kept from being
    predicted, as OpenNMT-py keeps none; sources have no end.

    Args:
        path: a checkpoint, \\*.pt, with its vocabularies as lists (release 3) or as torchtext's fields (before).
    Returns:
        The model, and ``(source, target)`` vocabularies, one object where they are the same.
    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, an unsafe pickle, or an option that ``janus_fast.JanusModel`` does not have.
    """
    with open_torch_file(path) as contents:
        if not _is_checkpoint(contents) or not isinstance(options := contents["opt"], dict):
            raise ValueError(f"convert: {path} must be a checkpoint of OpenNMT-py with its options in 'opt', got none")
        _check(path, options)
        sides = [_tokens(path, contents["vocab"], place, side) for place, side in enumerate(("src", "tgt"))]
        start = options.get("decoder_start_token") or "<s>"
        if isinstance(contents["vocab"], dict):
            start = contents["vocab"].get("decoder_start_token") or start
        try:
            model, generator = ({k: _whole(v) for k, v in contents[part].items()} for part in ("model", "generator"))
        except Exception as error:  # a damaged archive fails in every way there is
            raise ValueError(f"convert: {path} must be a whole checkpoint, got {error!r}") from None
    state = _state(path, model, generator)
    source, target = sides

    def number(token: str) -> int:
        if token not in target:
            raise ValueError(f"convert: {path} must have {token!r} in its target vocabulary, got none")
        return target.index(token)

    if "<unk>" not in source:
        raise ValueError(f"convert: {path} must have '<unk>' in its source vocabulary, got none")
    eos, unk = number("</s>"), number("<unk>")
    pad = next((number(token) for token in ("<blank>", "<pad>") if token in target), number("<s>"))
    converted = assemble(
        state, path, {"source_vocab_size": len(source), "target_vocab_size": len(target)},
        attention_heads=options.get("heads", 8), activation=ACTIVATIONS[options.get("pos_ffn_activation_fn") or "relu"],
        layer_norm_eps=options.get("norm_eps") or 1e-6, source_bos=False, add_source_eos=False,
        alignment_heads=options.get("alignment_heads", 0) if options.get("lambda_align") else 1,  # as in CTranslate2
        bos_token_id=number("<s>"), pad_token_id=pad, eos_token_id=eos, unk_token_id=unk, mask_token_id=unk,
        decoder_start_token_id=number(start), suppress_tokens=(),
    )  # fmt: skip
    first = Vocabulary(source)
    return converted, (first, first if source == target else Vocabulary(target))


def _whole(value) -> Tensor:
    return value.load() if isinstance(value, StoredTensor) else value


def _check(path, options: dict) -> None:
    for name, allowed in REQUIRED.items():
        if name in options and options[name] not in allowed:
            raise ValueError(
                f"convert: {path}: {name} must be {allowed[0]!r} (JanusModel has no other), got {options[name]!r}"
            )
    activation = options.get("pos_ffn_activation_fn") or "relu"
    if str(activation) not in ACTIVATIONS:
        raise ValueError(f"convert: {path}: pos_ffn_activation_fn must be one of {[*ACTIVATIONS]}, got {activation!r}")
    if options.get("num_kv") not in (None, 0, options.get("heads", 8)):
        raise ValueError(f"convert: {path}: num_kv must be 0 (JanusModel has no other), got {options['num_kv']!r}")


def _tokens(path, vocabularies, place: int, side: str) -> list[str]:
    """The tokens of a side: a list; before release 3, the ``itos`` of torchtext's vocabulary, in one of its places."""
    if isinstance(vocabularies, dict) and vocabularies.get("src_feats"):
        raise ValueError(f"convert: {path} must do without features of source tokens, which JanusModel lacks")
    try:
        held = vocabularies[side] if isinstance(vocabularies, dict) else vocabularies[place][1]
        if isinstance(held, dict) and "fields" in held:
            ((_, held),) = held["fields"]
    except (KeyError, IndexError, TypeError, ValueError):  # there are no tokens in any of these places
        held = None
    if isinstance(held, dict):
        held = held.get("vocab", held)
        held = held.get("itos") if isinstance(held, dict) else None
    if not isinstance(held, list) or not held or not all(isinstance(token, str) for token in held):
        raise ValueError(f"convert: {path} must hold the tokens of '{side}' as one list, got {type(held).__name__}")
    return list(held)


def _state(path, model: dict[str, Tensor], generator: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names; biases that OpenNMT-py left out are zero."""
    for name, tensor in (*model.items(), *generator.items()):
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"convert: {path}: {name} must be a tensor, got {type(tensor).__name__}")
    state, left = {}, {}
    for name, tensor in model.items():
        for old, new in BEFORE.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        left[name] = tensor
    for side, table, positions in zip(STACKS, EMBEDDINGS, POSITIONS, strict=False):
        embeddings = f"{side}.embeddings.make_embedding"
        for theirs, ours in ((f"{embeddings}.emb_luts.0.weight", table), (f"{embeddings}.pe.pe", positions)):
            if theirs in left:
                state[ours] = left.pop(theirs)
        if positions in state and state[positions].dim() > 2:
            state[positions] = state[positions].flatten(0, -2)
    for name in sorted(left):
        for side, stack in STACKS.items():
            if name.startswith(f"{side}.layer_norm."):
                state[name] = left.pop(name)
            elif name.startswith(stack + "."):
                number, _, rest = name.removeprefix(stack + ".").partition(".")
                part, _, kind = rest.rpartition(".")
                if part in PARTS:
                    state[f"{side}.layers.{number}.{PARTS[part]}.{kind}"] = left.pop(name)
    if left:
        raise ValueError(f"convert: {path} must hold the parameters of the model alone, got {min(left)!r}")
    output = {name.removeprefix("0."): tensor for name, tensor in generator.items()}
    if "weight" in output:
        state[EMBEDDINGS[2]] = output["weight"]
    if "bias" in output:
        state[OUTPUT_BIAS] = output["bias"]
    for name in [name for name in state if name.endswith((".fc1.weight", ".fc2.weight", "_proj.weight"))]:
        state.setdefault(name.removesuffix("weight") + "bias", torch.zeros(state[name].shape[:1]))
    return state
