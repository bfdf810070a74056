"""``python -m benchmarks [TOPIC] ...``; without a topic, the operations."""

import os
import sys
from importlib import import_module
from pathlib import Path

from janus_fast import cli, installation

FOLDERS = {
    "benchmarks.operations": {
        "operations": "each kernel against plain PyTorch",
        "gpu": "what make gpu runs: the tests on a GPU, then operations and decodes",
        "gpu_report": "what make gpu has measured on a card, as Markdown",
    },
    "benchmarks.decode": {
        "decode": "whole decodes against CTranslate2, PyTorch and what the machine allows",
        "speculative": "drafts that the model checks against its greedy search; quality against time",
        "gpu_decode": "whole decodes on a GPU, against Transformers and PyTorch",
        "memory": "resident memory of a quantised model while it decodes",
        "soak": "memory of a long run of ragged requests",
    },
    "benchmarks.training": {
        "training": "a training step, against the authors' way in plain PyTorch; its memory",
        "joint_loss": "the joint loss, forward and backward, against plain PyTorch; its memory",
        "sharing": "training by two processes that share out the model, beside two that each hold it; memory",
        "experiment": "JANUS beside its parts, trained alike: BLEU, chrF, training time, decoding speed",
        "systems": "all objectives, with and without pre-training, trained alike: quality against time",
    },
    "gpu": {  # in tests/
        "gpu_kernels": "what compilers make of the kernels for GPUs, and bounds of their times; needs no GPU",
        "launches": "what a GPU is asked to launch for a pass or step of decoding; needs none",
    },
}
TOPICS = {topic: f"{folder}.{topic}" for folder, topics in FOLDERS.items() for topic in topics}


def main(argv: list[str]) -> int:
    if argv[:1] in (["-h"], ["--help"]):
        topics = "\n".join(f"  {name:<13}{about}" for folder in FOLDERS.values() for name, about in folder.items())
        print(f"usage: python -m benchmarks [TOPIC] [--help] [options]\n\ntopics (default: operations):\n{topics}")
        return 0
    topic, rest = (argv[0], argv[1:]) if argv and argv[0] in TOPICS else ("operations", argv)
    try:
        warning = installation.slow()
    except OSError as error:
        sys.exit(f"benchmarks: error: {error}")
    if warning:
        print(f"benchmarks: warning: {warning}", file=sys.stderr)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    try:
        return import_module(TOPICS[topic]).main(rest)
    except cli.MISTAKES as error:
        if os.environ.get("JANUS_FAST_DEBUG"):
            raise
        sys.exit(f"benchmarks: error: {error} (JANUS_FAST_DEBUG=1 shows where)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
