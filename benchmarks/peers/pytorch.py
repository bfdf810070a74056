"""Mask-predict as code on PyTorch usually does it: padded batches, every row through everything, a module a layer.

The way of fairseq's non-autoregressive models (Ghazvininejad et al. 2019): in each pass all rows of all canvases go
through the decoder, its cross-attention projects the encoder's output anew, and every row is projected onto the
vocabulary.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.process import serve


class Attention(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        self.heads, width = config["attention_heads"], config["d_model"]
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """Queries [B, Lq, C] over ``memory`` [B, Lk, C], of which ``visible`` [B, Lk] is no padding."""
        q, k, v = (
            projection(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, D]
            for projection, rows in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config: dict, side: str):
        super().__init__()
        width, hidden = config["d_model"], config[f"{side}_ffn_dim"]

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(width, config["layer_norm_eps"])

        self.self_attn, self.self_attn_layer_norm = Attention(config), norm()
        if side == "decoder":
            self.encoder_attn, self.encoder_attn_layer_norm = Attention(config), norm()
        self.fc1, self.fc2, self.final_layer_norm = nn.Linear(width, hidden), nn.Linear(hidden, width), norm()

    def forward(
        self, x: Tensor, visible: Tensor, memory: Tensor | None = None, readable: Tensor | None = None
    ) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, x, visible))
        if memory is not None:
            x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, memory, readable))
        return self.final_layer_norm(x + self.fc2(F.relu(self.fc1(x))))


class Stack(nn.Module):
    def __init__(self, config: dict, side: str, embed_tokens: nn.Embedding):
        super().__init__()
        self.scale, self.embed_tokens = math.sqrt(config["d_model"]), embed_tokens
        self.embed_positions = nn.Embedding(config[f"max_{SIDES[side]}_positions"], config["d_model"])
        self.layers = nn.ModuleList(Layer(config, side) for _ in range(config[f"{side}_layers"]))

    def forward(self, tokens: Tensor, *masks_and_memory: Tensor) -> Tensor:
        x = self.scale * self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, *masks_and_memory)
        return x


SIDES = {"encoder": "source", "decoder": "target"}


class MaskPredict(nn.Module):
    """A post-norm model with one table of embeddings; parameters bear fairseq's names."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        table = nn.Embedding(config["source_vocab_size"], config["d_model"])
        self.encoder, self.decoder = (Stack(config, side, table) for side in SIDES)
        self.decoder.embed_length = nn.Embedding(config["length_classes"], config["d_model"])

    @torch.inference_mode()
    def decode(self, sources: list[list[int]], iterations: int, length_beam: int) -> list[list[int]]:
        """The best of ``length_beam`` candidates of every source, without ``bos`` and ``eos``."""
        bos, pad, eos, mask = (self.config[f"{name}_token_id"] for name in ("bos", "pad", "eos", "mask"))
        table = self.encoder.embed_tokens.weight
        device = table.device
        source = nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sources], batch_first=True, padding_value=pad)
        source = source.to(device)
        readable = source != pad
        memory = self.encoder(source, readable)
        mean = (memory * readable[..., None]).sum(1) / readable.sum(1, keepdim=True)
        best = F.linear(mean, self.decoder.embed_length.weight).argmax(-1)
        window = torch.arange(length_beam, device=device) - length_beam // 2
        lengths = (best[:, None] + window).flatten()  # [B * length_beam]
        memory, readable = (t.repeat_interleave(length_beam, 0) for t in (memory, readable))

        places = torch.arange(int(lengths.max()), device=device)
        visible = places < lengths[:, None]
        words = (places > 0) & (places < lengths[:, None] - 1)
        tokens = torch.full(visible.shape, pad, device=device).masked_fill(words, mask)
        tokens[:, 0] = bos
        tokens.scatter_(1, lengths[:, None] - 1, eos)
        scores = torch.full(visible.shape, math.inf, device=device)  # of what is no word: never the worst
        for iteration in range(1, iterations + 1):
            masked = tokens == mask
            logits = F.linear(self.decoder(tokens, visible, memory, readable), table).float()
            logits[..., [bos, pad, eos, mask]] = -math.inf
            log_probs, predicted = logits.log_softmax(-1).max(-1)
            tokens, scores = torch.where(masked, predicted, tokens), torch.where(masked, log_probs, scores)
            counts = ((lengths - 2) * (1 - iteration / iterations)).long()
            ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
            tokens = tokens.masked_fill(ranks < counts[:, None], mask)
        means = scores.masked_fill(~words, 0.0).sum(1) / (lengths - 2)
        chosen = (means.view(-1, length_beam).argmax(1).cpu() + torch.arange(len(sources)) * length_beam).tolist()
        tokens, lengths = tokens.tolist(), lengths.tolist()
        return [tokens[i][1 : lengths[i] - 1] for i in chosen]


def prepare(job: dict):
    directory = Path(job["model"])
    model = MaskPredict(json.loads((directory / "config.json").read_text())).eval()
    state = load_file(directory / "model.safetensors")
    state["decoder.embed_tokens.weight"] = state["encoder.embed_tokens.weight"]
    model.load_state_dict(state)
    model.to(job.get("device", "cpu"), getattr(torch, job["compute_type"]))
    torch.set_num_threads(job["intra_threads"])
    batch, (iterations, length_beam) = job["batch"], (job["options"][name] for name in ("iterations", "length_beam"))
    workers = ThreadPoolExecutor(job["inter_threads"])

    def decode() -> list[list[list[int]]]:
        results = []
        for sources in job["calls"]:
            parts = [sources[i : i + batch] for i in range(0, len(sources), batch)]
            for part in workers.map(lambda part: model.decode(part, iterations, length_beam), parts):
                results += part
        return [[ids] for ids in results]

    return decode, {"version": torch.__version__}


if __name__ == "__main__":
    serve(prepare)
