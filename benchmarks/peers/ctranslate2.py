"""CTranslate2 with the same weights: greedy or beam search of an ordinary Transformer, in a process without PyTorch."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.process import serve

MAP = "vmap.txt"


def prepare(job: dict):
    sys.modules["torch"] = None  # CTranslate2 imports it where it can, and runs at half speed beside its OpenMP
    import ctranslate2

    directory = Path(job["model"]) / "ctranslate2"
    if not directory.is_dir():
        convert(Path(job["model"]), directory)
    translator = ctranslate2.Translator(
        str(directory), device="cpu", compute_type=job["compute_type"], intra_threads=job["intra_threads"],
        inter_threads=job["inter_threads"],
    )  # fmt: skip
    calls = [[list(map(str, source)) for source in sources] for sources in job["calls"]]

    def decode() -> list[list[list[str]]]:
        results = []
        for sources in calls:
            results += translator.translate_batch(sources, max_batch_size=job["batch"], **job["options"])
        return [result.hypotheses for result in results]

    return decode, {"version": ctranslate2.__version__, "computes_in": translator.compute_type}


def convert(model: Path, directory: Path) -> None:
    """Writes the post-norm model in ``model`` as CTranslate2 stores an ordinary Transformer, weight for weight."""
    from ctranslate2.specs import TransformerSpec

    config, tensors = json.loads((model / "config.json").read_text()), load_file(model / "model.safetensors")

    def linear(spec, *names: str) -> None:  # of several, the outputs lie side by side
        spec.weight, spec.bias = (
            np.concatenate([tensors[f"{n}.{part}"] for n in names]) for part in ("weight", "bias")
        )

    def norm(spec, name: str) -> None:
        spec.gamma, spec.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def attention(spec, name: str, *groups: str) -> None:
        for part, letters in zip(spec.linear[:-1], groups, strict=True):
            linear(part, *(f"{name}.{letter}_proj" for letter in letters))
        linear(spec.linear[-1], f"{name}.out_proj")
        norm(spec.layer_norm, f"{name}_layer_norm")

    layers = (config["encoder_layers"], config["decoder_layers"])
    spec = TransformerSpec.from_config(layers, config["attention_heads"], pre_norm=False)
    table = tensors["encoder.embed_tokens.weight"]
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = table
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        stack.position_encodings.encodings = tensors[f"{side}.embed_positions.weight"]
        for index, layer in enumerate(stack.layer):
            name = f"{side}.layers.{index}"
            attention(layer.self_attention, f"{name}.self_attn", "qkv")
            if stack is spec.decoder:
                attention(layer.attention, f"{name}.encoder_attn", "q", "kv")
            linear(layer.ffn.linear_0, f"{name}.fc1")
            linear(layer.ffn.linear_1, f"{name}.fc2")
            norm(layer.ffn.layer_norm, f"{name}.final_layer_norm")
    if config["output_bias"]:
        spec.decoder.projection.bias = tensors["decoder.output_projection.bias"]
    spec.config.layer_norm_epsilon = config["layer_norm_eps"]
    spec.config.decoder_start_token = str(config["decoder_start_token_id"])
    for name in ("bos", "eos", "unk"):
        setattr(spec.config, f"{name}_token", str(config[f"{name}_token_id"]))
    vocabulary = list(map(str, range(len(table))))  # a token is its id
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.validate()
    spec.optimize()  # makes the three tables one
    with tempfile.TemporaryDirectory(dir=model) as temporary:
        written = Path(temporary) / "model"
        written.mkdir()
        spec.save(str(written))
        if (model / MAP).is_file():
            shutil.copyfile(model / MAP, written / MAP)
        written.rename(directory)


if __name__ == "__main__":
    serve(prepare)
