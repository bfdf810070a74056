"""Writes a student with SSRU as Marian's decoders load it: a ``.bin`` of int8 and a binary shortlist.

``janus_fast.convert`` reads the first back: ``marian_binary.py`` has its layout, ``marian_native.py`` the names. The
shortlist is what slimt 0.1.0 reads (its ``slimt/Shortlist.cc``).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from janus_fast import JanusModel
from janus_fast.convert.marian_binary import VERSION
from janus_fast.convert.marian_native import ATTENTIONS, OF_ACTIVATIONS, SETTINGS
from janus_fast.packing import offsets_of
from janus_fast.text import VocabularyMap
from janus_fast.visibility import Visibility

INT8, FLOAT32, INTGEMM8 = 0x101, 0x404, 0x4101  # types of arrays
ALIGNMENT = 256  # bytes, of where arrays begin
MOST = 127  # the largest integer of an activation
# That of a weight: two products of it with an unsigned byte stay below 2^15, where sums of AVX-512 without VNNI end.
# With 127 slimt says other words (docs/speed.md); random weights are spread evenly up to their largest.
MOST_WEIGHT = 64
SHORTLIST = 0xF11A48D5013417F5  # its first number


def linears(model: JanusModel) -> Iterator[tuple[str, str, str]]:
    """Marian's name of each product, the suffix of its parameters, and our module."""
    for side, block in (("encoder", "self"), ("decoder", "context")):
        for number in range(len(getattr(model, side).layers)):
            theirs, ours = f"{side}_l{number + 1}", f"{side}.layers.{number}"
            if side == "decoder":
                yield f"{theirs}_rnn", "", f"{ours}.ssru.in_proj"
                yield f"{theirs}_rnn", "f", f"{ours}.ssru.forget_proj"
            for letter, part in zip("qkvo", ("q_proj", "k_proj", "v_proj", "out_proj"), strict=True):
                yield f"{theirs}_{block}", letter, f"{ours}.{ATTENTIONS[block]}.{part}"
            yield f"{theirs}_ffn", "1", f"{ours}.fc1"
            yield f"{theirs}_ffn", "2", f"{ours}.fc2"


def norms(model: JanusModel) -> Iterator[tuple[str, str]]:
    for side, block in (("encoder", "self"), ("decoder", "context")):
        for number in range(len(getattr(model, side).layers)):
            theirs, ours = f"{side}_l{number + 1}", f"{side}.layers.{number}"
            if side == "decoder":
                yield f"{theirs}_rnn_ffn", f"{ours}.ssru_layer_norm"
            yield f"{theirs}_{block}_Wo", f"{ours}.{ATTENTIONS[block]}_layer_norm"
            yield f"{theirs}_ffn_ffn", f"{ours}.final_layer_norm"


@torch.no_grad()
def largest_inputs(model: JanusModel, sources: list[list[int]]) -> dict[str, float]:
    """By the name of a linear module, the largest number that it multiplies. A target is its source: random words."""
    found: dict[str, float] = {}

    def look(name: str):
        def hook(_, inputs):
            found[name] = max(found.get(name, 0.0), inputs[0].abs().max().item())

        return hook

    modules = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    hooks = [module.register_forward_pre_hook(look(name)) for name, module in modules]
    lengths, tokens = torch.tensor([*map(len, sources)]), torch.tensor(sum(sources, []))
    offsets, positions = offsets_of(lengths), torch.cat([torch.arange(len(source)) for source in sources])
    encoded, visibility = model.encode(tokens, offsets), Visibility.causal(lengths)
    cross = Visibility.bidirectional(visibility.query_offsets, offsets)
    start = torch.tensor(model.config.decoder_start_token_id)
    shifted = torch.where(positions == 0, start, tokens.roll(1))
    model.logits(model.decode(shifted, positions, visibility, encoded, cross))
    for hook in hooks:
        hook.remove()
    return found


def write_model(model: JanusModel, sources: list[list[int]], file: Path) -> None:
    """Writes a post-norm model with one table of embeddings; activations are scaled as those of ``sources`` need it."""
    config, inputs = model.config, largest_inputs(model, sources)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    items: list[tuple[str, int, tuple[int, ...], bytes]] = []

    def numbers(name: str, array) -> None:
        array = np.atleast_2d(np.asarray(array, np.float32))
        items.append((name, FLOAT32, array.shape, array.tobytes()))

    def matrix(name: str, weight: np.ndarray, shape: tuple[int, ...]) -> None:
        factor = np.float32(MOST_WEIGHT / np.abs(weight).max())
        integers = np.rint(weight * factor).astype(np.int8)
        items.append((name, INTGEMM8, shape, integers.tobytes() + factor.tobytes()))

    for theirs, suffix, ours in linears(model):
        weight = state[f"{ours}.weight"]
        matrix(f"{theirs}_W{suffix}", weight, weight.shape[::-1])  # transposed there, but for its bytes
        numbers(f"{theirs}_W{suffix}{OF_ACTIVATIONS}", MOST / inputs[ours])
        if f"{ours}.bias" in state:
            numbers(f"{theirs}_b{suffix}", state[f"{ours}.bias"])
    for theirs, ours in norms(model):
        numbers(f"{theirs}_ln_scale", state[f"{ours}.weight"])
        numbers(f"{theirs}_ln_bias", state[f"{ours}.bias"])
    matrix("Wemb", state["encoder.embed_tokens.weight"], state["encoder.embed_tokens.weight"].shape)
    numbers(f"none{OF_ACTIVATIONS}", MOST / inputs["decoder.output_projection"])  # of the output, which is Wemb, too
    numbers("decoder_ff_logit_out_b", state["decoder.output_projection.bias"])
    settings = {
        "type": "transformer", "transformer-decoder-autoreg": "rnn", "dec-cell": "ssru",
        "transformer-heads": config.attention_heads, "transformer-ffn-activation": config.activation,
        "transformer-postprocess": "dan", "enc-depth": config.encoder_layers, "dec-depth": config.decoder_layers,
    }  # fmt: skip
    text = "".join(f"{name}: {value}\n" for name, value in settings.items()).encode() + b"\0"
    items.append((SETTINGS, INT8, (len(text),), text))
    items = [(name, kind, shape, data + bytes(-len(data) % ALIGNMENT)) for name, kind, shape, data in items]
    head = struct.pack("<QQ", VERSION, len(items))
    for name, kind, shape, data in items:
        head += struct.pack("<QQQQ", len(name) + 1, kind, len(shape), len(data))
    head += b"".join(name.encode() + b"\0" for name, *_ in items)
    head += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in items)
    gap = -(len(head) + 8) % ALIGNMENT
    file.write_bytes(head + struct.pack("<Q", gap) + bytes(gap) + b"".join(data for *_, data in items))


def write_shortlist(words: VocabularyMap, source_size: int, file: Path) -> None:
    """Writes a map of single words. Those of every source must be the first ones, as of the most frequent."""
    frequent = int(words.rules[()].max()) + 1
    none = np.array([], np.int64)
    lists = [np.sort(words.rules.get((word,), none)) for word in range(source_size)]
    offsets = np.cumsum([0, *map(len, lists)]).astype("<u8")
    targets = np.concatenate(lists).astype("<u4")
    best = max(map(len, lists))
    content = struct.pack("<QQQQ", frequent, best, len(offsets), len(targets)) + offsets.tobytes() + targets.tobytes()
    file.write_bytes(struct.pack("<QQ", SHORTLIST, checksum(content)) + content)


def checksum(content: bytes) -> int:
    """Of the whole 64-bit numbers of ``content``, each mixed into those before it."""
    found = 0
    for number in np.frombuffer(content[: len(content) // 8 * 8], "<u8").tolist():
        found ^= (number + 0x9E3779B9 + (found << 6) + (found >> 2)) & (2**64 - 1)
    return found
