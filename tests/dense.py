"""An ordinary Transformer made of PyTorch's own layers: one sentence at a time, in float64."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

ATTENTIONS = {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}
LINEAR = {"fc1": "linear1", "fc2": "linear2"}
NORMS = {
    "encoder": {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"},
    "decoder": {"self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3"},
}


def log_probs(
    weights: Mapping[str, Tensor], source: list[int], target: list[int], *, heads: int, activation: Callable,
    positions: tuple[Tensor, Tensor], prenorm: bool = False, scale: bool = True,
) -> Tensor:  # fmt: skip
    """log P(next token) behind each token of ``target``: [len(target), V].

    ``weights`` bear fairseq's names; ``positions`` are the vectors of a source's and a target's tokens, first to last.
    """
    weights = {name: tensor.double() for name, tensor in weights.items()}

    def run(side: str, ids: list[int], *memory: Tensor) -> Tensor:
        table = weights[f"{side}.embed_tokens.weight"]
        factor = math.sqrt(table.shape[1]) if scale else 1.0
        x = factor * table[ids] + positions[side == "decoder"][: len(ids)].double()
        if (norm := f"{side}.layernorm_embedding") + ".weight" in weights:
            x = nn.functional.layer_norm(x, x.shape[-1:], weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        options = {"tgt_mask": nn.Transformer.generate_square_subsequent_mask(len(ids)).double()} if memory else {}
        for state in _layers(weights, side):
            kind = nn.TransformerDecoderLayer if memory else nn.TransformerEncoderLayer
            layer = kind(
                table.shape[1], heads, state["linear1.bias"].numel(), 0.0, activation, batch_first=True,
                norm_first=prenorm, dtype=torch.float64,
            )  # fmt: skip
            layer.load_state_dict(state)
            x = layer(x[None], *(m[None] for m in memory), **options)[0]
        if prenorm:
            norm = [weights[f"{side}.layer_norm.{part}"] for part in ("weight", "bias")]
            x = nn.functional.layer_norm(x, x.shape[-1:], *norm)
        return x

    with torch.no_grad():
        hidden = run("decoder", target, run("encoder", source))
        logits = hidden @ weights["decoder.output_projection.weight"].T
        return (logits + weights.get("decoder.output_projection.bias", 0.0)).log_softmax(-1)


def _layers(weights: Mapping[str, Tensor], side: str) -> list[dict[str, Tensor]]:
    """The state of each layer under the names of PyTorch's."""
    states = []
    while f"{side}.layers.{len(states)}.fc1.weight" in weights:
        layer, state = f"{side}.layers.{len(states)}", {}
        for part in ("weight", "bias"):
            for ours, theirs in (ATTENTIONS if side == "decoder" else {"self_attn": "self_attn"}).items():
                stacked = [weights[f"{layer}.{ours}.{name}_proj.{part}"] for name in "qkv"]
                state[f"{theirs}.in_proj_{part}"] = torch.cat(stacked)
                state[f"{theirs}.out_proj.{part}"] = weights[f"{layer}.{ours}.out_proj.{part}"]
            for ours, theirs in (LINEAR | NORMS[side]).items():
                state[f"{theirs}.{part}"] = weights[f"{layer}.{ours}.{part}"]
        states.append(state)
    return states
