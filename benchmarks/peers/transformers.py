"""Hugging Face Transformers with the same weights: greedy or beam search of an ordinary Transformer, as Marian's."""

import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.process import serve


def prepare(job: dict):
    import transformers

    transformers.logging.set_verbosity_error()
    model = load(Path(job["model"]), job["device"], getattr(torch, job["compute_type"]))
    torch.set_num_threads(job["intra_threads"])
    options, batch, pad = job["options"], job["batch"], model.config.pad_token_id
    settings = {
        "num_beams": options["beam_size"], "num_return_sequences": options.get("num_hypotheses", 1), "do_sample": False,
        "min_new_tokens": options["min_decoding_length"], "max_new_tokens": options["max_decoding_length"],
    }  # fmt: skip

    @torch.inference_mode()
    def decode() -> list[list[list[int]]]:
        results = []
        for sources in job["calls"]:
            for first in range(0, len(sources), batch):
                part = [torch.tensor(source) for source in sources[first : first + batch]]
                ids = nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=pad).to(job["device"])
                words = model.generate(ids, attention_mask=(ids != pad).long(), **settings)[:, 1:].tolist()
                each = settings["num_return_sequences"]
                results += [words[i : i + each] for i in range(0, len(words), each)]
        return results

    return decode, {"version": transformers.__version__}


@lru_cache(maxsize=1)
def load(directory: Path, device: str, dtype: torch.dtype) -> nn.Module:
    config = json.loads((directory / "config.json").read_text())
    return model_of(config, load_file(directory / "model.safetensors")).to(device, dtype)


def model_of(config: dict, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A post-norm model of one stream with one table of embeddings, whose parameters bear the same names there."""
    from transformers import MarianConfig, MarianMTModel

    names = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim")
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    model = MarianMTModel(
        MarianConfig(
            vocab_size=config["source_vocab_size"], **{name: config[name] for name in (*names, *tokens)},
            encoder_attention_heads=config["attention_heads"], decoder_attention_heads=config["attention_heads"],
            max_position_embeddings=config["max_target_positions"], activation_function="relu", scale_embedding=True,
            share_encoder_decoder_embeddings=True, forced_eos_token_id=None,
        )
    )  # fmt: skip
    for side, limit in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        positions = getattr(model.model, side).embed_positions  # a fixed table there
        positions.weight = nn.Parameter(positions.weight.new_empty(config[limit], config["d_model"]))
    missing, unexpected = model.model.load_state_dict(tensors, strict=False)
    tied = {"shared.weight", "decoder.embed_tokens.weight"}
    if unexpected or set(missing) - tied:
        raise ValueError(f"transformers: weights must be those of an ordinary Transformer, got {missing}, {unexpected}")
    model.model.shared.weight = model.model.encoder.embed_tokens.weight
    model.tie_weights()
    return model.eval()


if __name__ == "__main__":
    serve(prepare)
