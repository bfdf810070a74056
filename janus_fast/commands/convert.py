"""``janus-fast convert``: a checkpoint of the original code becomes a model directory."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a fairseq checkpoint, *.pt")
    parser.add_argument("--source-dict", metavar="FILE", help="fairseq's dict.SOURCE.txt; without, ids alone go in")
    parser.add_argument("--target-dict", metavar="FILE", help="fairseq's dict.TARGET.txt")
    parser.add_argument("--out", required=True, metavar="DIR", help="the model directory to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights on disk")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from .. import checkpoint
    from ..convert import fairseq

    model, vocabularies = fairseq.load(
        arguments.checkpoint, source_dict=arguments.source_dict, target_dict=arguments.target_dict
    )
    checkpoint.save(model, arguments.out, vocabularies, dtype=getattr(torch, arguments.dtype))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{arguments.out}: {parameters:,} parameters, {model.config.target_vocab_size:,} target tokens")
    return 0
