"""``janus-fast convert``: a fairseq checkpoint, a Marian model or a model directory becomes a model directory."""

import argparse
from pathlib import Path

from ..weights import QUANTIZATIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT",
        help="a fairseq checkpoint, *.pt; or a directory: a Marian model in Hugging Face's format, or one of our own, "
        "to store it anew",
    )  # fmt: skip
    parser.add_argument("--source-dict", metavar="FILE", help="fairseq's dict.SOURCE.txt; without, ids alone go in")
    parser.add_argument("--target-dict", metavar="FILE", help="fairseq's dict.TARGET.txt")
    parser.add_argument("--out", required=True, metavar="DIR", help="the model directory to write")
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, default="float32", help="of weights on disk (default: float32)"
    )


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoint
    from ..convert import fairseq, marian

    if Path(arguments.checkpoint).is_dir():
        for name in ("source_dict", "target_dict"):
            if file := getattr(arguments, name):
                raise ValueError(f"--{name.replace('_', '-')} must be left out with a model directory, got {file}")
        reader = marian if marian.recognises(arguments.checkpoint) else checkpoint
        model, vocabularies = reader.load(arguments.checkpoint)
    else:
        path = Path(arguments.checkpoint)
        if path.name == checkpoint.CONFIG or path.suffix == ".safetensors":
            raise ValueError(
                f"CHECKPOINT must be a model's directory, {path.parent}, rather than a part of it, got {path}"
            )
        model, vocabularies = fairseq.load(
            arguments.checkpoint, source_dict=arguments.source_dict, target_dict=arguments.target_dict
        )
    checkpoint.save(model, arguments.out, vocabularies, quantization=arguments.quantization)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.out}: {parameters:,} parameters, {model.config.target_vocab_size:,} target tokens")
    return 0
