"""An ordinary Transformer of the tensors that a converter found, under the names that JanusModel's parameters have."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain, count

import torch
from torch import Tensor

from .. import parameters
from ..checkpoint import check_state, model_of
from ..config import JanusConfig
from ..inputs import OptionError
from ..model import JanusModel

EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
POSITIONS = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")
OUTPUT_BIAS = "decoder.output_projection.bias"
SIDES = ("encoder", "decoder")
PADS = ("<pad>", "<blank>", "<start>")  # what the token may be called that stands for nothing
# The logit of a token that must never be predicted: its probability is 0 in every type, and float16 holds it.
NEVER = -1e4


def assemble(
    state: Mapping[str, Tensor], origin, told: Mapping[str, int] | None = None, *, max_positions: int = 1024, **settings
) -> JanusModel:
    """The one-stream model of ``state``, in float32 and evaluation mode: sizes, norms, shared embeddings and learned
    positions are what its tensors say, and ``settings`` are the other fields of ``janus_fast.JanusConfig``.

    ``state`` holds the embeddings of each side and the output matrix, whether they are one or not. ``told`` is what
    a configuration says of sizes, which must be those; tables of sines have ``max_positions``.

    Raises:
        ValueError: tensors missing, unknown, of the wrong shape or not finite; ``origin`` is what messages call them.
    """
    state = {name: tensor.float() for name, tensor in state.items()}
    held = [name for name in POSITIONS if name in state]
    check_matrices(state, origin, *EMBEDDINGS, *held, *(f"{side}.layers.0.fc1.weight" for side in SIDES))

    def alike(what: str, suffix: str) -> bool:
        found = {f"{side}.{suffix}" in state for side in SIDES}
        if len(found) == 2:
            raise ValueError(f"convert: {origin}: both sides or neither must have {what}, got one of them")
        return found == {True}

    learned = alike("a table of positions", "embed_positions.weight")
    sizes = [len(state[name]) for name in POSITIONS] if learned else [max_positions] * 2
    tied = [torch.equal(state[EMBEDDINGS[1]], state[name]) for name in EMBEDDINGS]
    config = JanusConfig.of_file(
        origin,
        source_vocab_size=len(state[EMBEDDINGS[0]]),
        target_vocab_size=len(state[EMBEDDINGS[1]]),
        d_model=state[EMBEDDINGS[1]].shape[1],
        encoder_layers=layers(state, "encoder"),
        decoder_layers=layers(state, "decoder"),
        encoder_ffn_dim=len(state["encoder.layers.0.fc1.weight"]),
        decoder_ffn_dim=len(state["decoder.layers.0.fc1.weight"]),
        max_source_positions=sizes[0],
        max_target_positions=sizes[1],
        positions="learned" if learned else "sinusoidal",
        normalize_before=alike("a final norm", "layer_norm.weight"),
        layernorm_embedding=alike("a norm of embeddings", "layernorm_embedding.weight"),
        share_all_embeddings=all(tied),
        share_decoder_embeddings=tied[2],
        output_bias=OUTPUT_BIAS in state,
        two_stream=False,
        trained_modes=("ar",),
        **settings,
    )
    for name, value in (told or {}).items():
        if getattr(config, name) != value:
            words = f"be what the configuration says, {value}"
            raise OptionError(f"convert: {origin}: {name}", words, getattr(config, name))
    expected = parameters.shapes(config)
    state = {name: tensor for name, tensor in state.items() if name in expected or name not in EMBEDDINGS}
    check_state(config, state, origin)
    return model_of(config, state, origin).eval()


def check_matrices(state: Mapping[str, Tensor], origin, *names: str) -> None:
    """Raises ValueError unless all of ``names`` are in ``state``, and matrices."""
    for name in names:
        if name not in state:
            raise ValueError(f"convert: {origin} must hold every parameter of the model, got no {name!r}")
        if state[name].dim() != 2:
            raise ValueError(f"convert: {origin}: {name} must be a matrix, got shape {list(state[name].shape)}")


def layers(state: Mapping[str, Tensor], side: str) -> int:
    """The layers that are there: one that is named by a great number stands for no others."""
    return len({match[1] for name in state if (match := re.match(rf"{side}\.layers\.(\d+)\.", name))})


def free_name(tokens: Sequence[str]) -> str:
    """A name that none of ``tokens`` has, for the token of ``add_pad``."""
    return next(name for name in chain(PADS, map("<start{}>".format, count(2))) if name not in tokens)


def add_pad(state: dict[str, Tensor]) -> int:
    """A token behind the target's others, for a decoder that starts with a vector of zeros; returns its id.

    It is never predicted. Where both sides have one table of embeddings it is the source's, too.
    """
    shared = torch.equal(state[EMBEDDINGS[0]], state[EMBEDDINGS[1]])
    size = len(state[EMBEDDINGS[1]])
    for name in EMBEDDINGS[0 if shared else 1 :]:
        state[name] = torch.cat([state[name], torch.zeros(1, state[name].shape[1])])
    bias = state.get(OUTPUT_BIAS, torch.zeros(size))
    state[OUTPUT_BIAS] = torch.cat([bias, torch.tensor([NEVER])])
    return size
