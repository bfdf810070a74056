"""``python -m benchmarks [TOPIC] ...``; without a topic, the operations."""

import sys
from importlib import import_module

from janus_fast import installation

TOPICS = {
    "operations": "each kernel against plain PyTorch",
    "decode": "whole decodes against CTranslate2, PyTorch and what the machine allows",
    "joint_loss": "the joint loss, forward and backward, against plain PyTorch; its memory",
    "training": "a training step, against the authors' way in plain PyTorch; its memory",
    "gpu_kernels": "what compilers make of the kernels for GPUs, and bounds of their times; needs no GPU",
    "gpu": "what make gpu runs: the tests on a GPU, then operations and decodes",
    "gpu_report": "what make gpu has measured on a card, as Markdown",
    "gpu_decode": "whole decodes on a GPU, against Transformers and PyTorch",
    "launches": "what a GPU is asked to launch for a pass or step of decoding; needs none",
    "experiment": "JANUS beside its parts, trained alike: BLEU, chrF, training time, decoding speed",
    "sharing": "training by two processes that share out the model, beside two that each hold it; memory",
    "memory": "resident memory of a quantised model while it decodes",
    "soak": "memory of a long run of ragged requests",
}


def main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        topics = "\n".join(f"  {name.ljust(13)}{about}" for name, about in TOPICS.items())
        print(f"usage: python -m benchmarks [TOPIC] [--help] [options]\n\ntopics (default: operations):\n{topics}")
        return 0
    topic, rest = (argv[0], argv[1:]) if argv and argv[0] in TOPICS else ("operations", argv)
    try:
        warning = installation.slow()
    except OSError as error:
        sys.exit(f"benchmarks: error: {error}")
    if warning:
        print(f"benchmarks: warning: {warning}", file=sys.stderr)
    return import_module(f"benchmarks.{topic}").main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
