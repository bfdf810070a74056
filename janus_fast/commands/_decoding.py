"""Options that `translate` and `evaluate` share: which model, on what, and how it decodes."""

import argparse

from ..config import MODES

MOST = 1_000_000  # sentences of a batch, threads, ...

# Only what the user names is passed on, so that the defaults live in one place, the Translator.
BOTH = {
    "num_hypotheses": dict(type=int, metavar="N", help="translations of each sentence, best first (default: 1)"),
    "max_input_length": dict(
        type=int, metavar="N", help="cut sentences behind N tokens (default: one too long is an error)"
    ),
}
AUTOREGRESSIVE = {
    "beam_size": dict(
        type=int, metavar="N", help="hypotheses kept at each step, at most 512; 1 is greedy (default: 5)"
    ),
    "length_penalty": dict(type=float, metavar="X", help="scores are divided by length ** X (default: 1.0)"),
    "max_decoding_length": dict(type=int, metavar="N", help="longest translation, in tokens (default: 256)"),
    "min_decoding_length": dict(type=int, metavar="N", help="shortest translation, in tokens (default: 1)"),
    "no_repeat_ngram_size": dict(type=int, metavar="N", help="no N tokens in a row appear twice"),
    "sampling_topk": dict(
        type=int,
        metavar="N",
        help="with --beam-size 1: draw each token from the N likeliest, 0: from all (default: 1, no drawing)",
    ),  # fmt: skip
    "sampling_topp": dict(
        type=float, metavar="P", help="with --sampling-topk: draw from the likeliest tokens of total probability P"
    ),
    "sampling_temperature": dict(
        type=float, metavar="T", help="with --sampling-topk: logits are divided by T before drawing"
    ),
    "seed": dict(type=int, metavar="N", help="seed of the drawing"),
}
NONAUTOREGRESSIVE = {
    "iterations": dict(
        type=int, metavar="N", help="passes of the decoder over the whole translation, at most 512 (default: 4)"
    ),
    "length_beam": dict(type=int, metavar="N", help="lengths tried for each sentence, at most 512 (default: 3)"),
    "length_candidates": dict(
        choices=("window", "topk"), help="lengths around the best, or the best lengths (default: window)"
    ),
    "score": dict(
        choices=("tokens", "canvas"), help="how lengths compare: mean over tokens, or the original's (default: tokens)"
    ),
    "adaptive": dict(
        action=argparse.BooleanOptionalAction, help="stop when a late pass changes nothing (default: --adaptive)"
    ),
}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name of a shipped model, or a model directory")
    parser.add_argument("--mode", choices=MODES, default="ar", help="left to right, or in parallel (default: ar)")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="sentences (default: 32)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--backend",
        choices=("auto", "engine", "cuda", "torch"),
        default="auto",
        help="the native engine, CUDA graphs, or torch step by step",
    )
    parser.add_argument(
        "--compute-type",
        default="default",
        metavar="TYPE",
        help="float32, bfloat16, int8, int8_bfloat16, or auto: the fastest here (default: float32; int8 if stored so)",
    )
    add_threads_argument(parser)
    parser.add_argument("--inter-threads", type=positive, default=1, metavar="N", help="batches at once (default: 1)")


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, default=0, metavar="N",
        help="threads of a batch (default: OMP_NUM_THREADS, or as many as there are cores, 4 at most)",
    )  # fmt: skip


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    groups = (
        ("decoding", BOTH),
        ("decoding, --mode ar (left to right)", AUTOREGRESSIVE),
        ("decoding, --mode nar (in parallel)", NONAUTOREGRESSIVE),
    )
    for title, options in groups:
        group = parser.add_argument_group(title)
        for name, settings in options.items():
            group.add_argument(flag(name), default=None, **settings)


def decoding_options(arguments: argparse.Namespace) -> dict:
    """The decoding options that were named, ``mode`` included; an option of the other mode is a mistake."""
    other, other_mode = (NONAUTOREGRESSIVE, "nar") if arguments.mode == "ar" else (AUTOREGRESSIVE, "ar")
    for name in other:
        if getattr(arguments, name) is not None:
            raise ValueError(f"{flag(name)} must go with --mode {other_mode}, got --mode {arguments.mode}")
    own = {**BOTH, **(AUTOREGRESSIVE if arguments.mode == "ar" else NONAUTOREGRESSIVE)}
    named = {name: getattr(arguments, name) for name in own if getattr(arguments, name) is not None}
    return {"mode": arguments.mode, **named}


def translator(arguments: argparse.Namespace):
    from janus_fast import Translator

    return Translator(
        arguments.model,
        device=arguments.device,
        compute_type=arguments.compute_type,
        intra_threads=arguments.threads,
        inter_threads=arguments.inter_threads,
        backend=arguments.backend,
    )


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def positive(text: str) -> int:
    return count(text, least=1)


def count(text: str, least: int = 0) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    if value > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST}, got {value}")
    return value
