"""What ``make gpu`` runs: the tests of the kernels for GPUs, on the device, then operations and decodes beside peers.

Nothing is timed when a test fails. Results go to ``<card>.json``, ``<card>-decode.json`` and ``<card>.md`` in
``benchmarks/results``; other options are those of ``python -m benchmarks operations``.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cards import slug
from benchmarks.decode import gpu_decode
from benchmarks.machine import RESULTS, ROOT
from benchmarks.operations import gpu_report, operations

# One sentence and 32 are decoding's sizes, 128 a training batch's.
SELECTION = [
    "--config", "wmt16_enro", "--sentences", "1", "32", "128", "--dtype", "bfloat16", "float32",
    "--seconds", "0.2",
]  # fmt: skip
DECODES = ["--compute-type", "bfloat16", "float32"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    arguments, rest = parser.parse_known_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"gpu: no GPU that this torch, {torch.__version__}, can use is found here", file=sys.stderr)
        return 2
    if tests():
        print("gpu: a test has failed, so nothing is timed", file=sys.stderr)
        return 1
    card = slug(operations.name_of(device))
    file, decodes = (arguments.results / f"{card}{part}.json" for part in ("", "-decode"))
    status = operations.main([*SELECTION, "--device", str(device), "--json", str(file), *rest])
    print(f"written: {file}")
    status |= gpu_decode.main([*DECODES, "--device", device.type, "--json", str(decodes)])
    gpu_report.write(arguments.results, card)
    print(f"written: {arguments.results / card}.md")
    return status


def tests() -> int:
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu"], cwd=ROOT).returncode
