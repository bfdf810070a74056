"""The kernels of docs/gpu-kernels.md, without a GPU: what the compilers make of them, and what a card could do at best.

``python -m benchmarks gpu_kernels`` prints two tables: of every kernel, what a compiled program uses on each target; of
every operation, the bytes and floating-point operations of calls of one configuration, and the time that no kernel can
go below on each card. The second one is arithmetic from data sheets, not a measurement. ``--write`` puts the tables
into the documentation, ``--check`` compares them with what is there.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import torch

from benchmarks.cards import CARDS
from benchmarks.operations.registry import CONFIGURATIONS, cases
from janus_fast.ops import OPERATIONS
from janus_fast.reference import BeamState

from . import cubins

DOCUMENT = cubins.ROOT / "docs" / "gpu-kernels.md"
CONFIGURATION, SENTENCES = "wmt16_enro", 32  # of the bounds, in bfloat16
SOURCES = (
    "kernels/triton/*.py",
    "janus_fast/ops/*.py",
    "tests/gpu/triton_cubins.py",
    "benchmarks/operations/registry.py",
)
MARKS = "<!-- made by: python -m benchmarks gpu_kernels --write -->", "<!-- end -->"
MEMORY = re.compile(r"(LD|ST)(G|S|SM|GSTS|TM|L)?$|ATOM[GS]?$|RED$|UTMA(LDG|STG|REDG)$|UBLKCP$")


def missing() -> str | None:
    """Why the tables cannot be made here, or None."""
    if cubins.nvcc() is None:
        return "needs CUDA's compiler: nvcc in the PATH, or NVCC"
    if find_spec("triton") is None:
        return "needs Triton: pip install triton"
    if cubins.nvdisasm() is None:
        return "needs nvdisasm, of CUDA's toolkit or of Triton's wheel"
    return None


@cache
def compiled_by_triton() -> list[dict]:
    """What ``triton_cubins.py`` reports of all kernels on all targets; compiled once for each state of them."""
    files = [p for pattern in SOURCES for p in sorted(cubins.ROOT.glob(pattern))]
    state = repr((sys.version, torch.__version__, version("triton"))).encode() + b"".join(p.read_bytes() for p in files)
    directory = cubins.ROOT / "build" / "triton_report"
    output = directory / f"{hashlib.sha256(state).hexdigest()[:16]}.json"
    with cubins.alone(directory):
        if not output.exists():
            environment = {**os.environ, "PYTHONPATH": str(cubins.ROOT)}
            environment.pop("TRITON_INTERPRET", None)
            command = [sys.executable, "-W", "ignore", "-m", "gpu.triton_cubins"]
            folder = cubins.ROOT / "tests"
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
            if done.returncode:
                raise RuntimeError(f"triton_cubins: {done.stderr}")
            for old in directory.glob("*.json"):
                old.unlink()
            output.write_text(done.stdout)
    return json.loads(output.read_text())


def resources() -> Iterator[tuple[str, str, str, dict]]:
    """Of every kernel on every target: its name, the compiler, the target, and what it uses."""
    by_triton = [k for k in compiled_by_triton() if k["target"] in CARDS and k["call"] == "training"]
    for kernel in by_triton:
        alike = [k["constants"] for k in by_triton if k["kernel"] == kernel["kernel"]]
        differing = {n: v for n, v in kernel["constants"].items() if any(k.get(n) != v for k in alike)}
        name = ", ".join([kernel["kernel"], *(f"{n}={v}" for n, v in differing.items())])
        yield name, "Triton", kernel["target"], kernel
    for file in cubins.FILES:
        for target in CARDS:
            for kernel in sorted(cubins.kernels(file, target), key=_natural):
                shared = kernel.shared + kernel.dynamic
                occupancy, limit = CARDS[target].occupancy(kernel.registers, shared, kernel.warps)
                use = {**vars(kernel), "shared": shared, "spills": kernel.spilled, "occupancy": occupancy}
                yield kernel.name.replace("__nv_", ""), "CUDA", target, {**use, "limit": limit}


def _natural(kernel: cubins.Kernel) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", kernel.name)]


def mix(instructions: dict[str, int]) -> dict[str, int]:
    """Instructions of a program: of tensor cores, of memory (shared memory included, constants not), and others."""
    tensor = sum(n for name, n in instructions.items() if name.endswith("MMA"))
    memory = sum(n for name, n in instructions.items() if MEMORY.match(name))
    return {"tensor": tensor, "memory": memory, "other": sum(instructions.values()) - tensor - memory}


def kernel_table() -> list[str]:
    rows: dict[tuple[str, str], dict[str, dict]] = {}
    for name, compiler, target, use in resources():
        rows.setdefault((name, compiler), {})[target] = use
    lines = [
        "| kernel | by | warps | registers | spills | shared KiB | occupancy % | tensor cores | memory | other |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (name, compiler), uses in rows.items():
        every = [use | mix(use["instructions"]) for use in uses.values()]
        shared = _each(f"{use['shared'] / 1024:.1f}" for use in every)
        occupancy = _each(f"{100 * use['occupancy']:.0f}" for use in every)
        numbers = [_each(use[column] for use in every) for column in ("warps", "registers", "spills")]
        instructions = [_each(use[column] for use in every) for column in ("tensor", "memory", "other")]
        lines.append(_row(f"`{name}`", compiler, *numbers, shared, occupancy, *instructions))
    return lines


def bound_table() -> list[str]:
    cards = [f"{card.name}, µs" for card in CARDS.values()]
    lines = [_row("operation", "call", "MB", "GFLOP", *cards), "|---|---|---:|---:|" + "---:|" * len(cards)]
    for operation, label, moved, flops in works():
        bounds = [card.bound(moved, flops) for card in CARDS.values()]
        cells = [f"{1e6 * seconds:.2f}{' c' if limit == 'compute' else ''}" for seconds, limit in bounds]
        lines.append(_row(f"`{operation}`", label, f"{moved / 1e6:.3f}", f"{flops / 1e9:.3f}", *cells))
    return lines


def works() -> Iterator[tuple[str, str, int, int]]:
    """Operation, label, bytes and floating-point operations of each benchmarked call that a GPU has a kernel for."""
    for case in cases(CONFIGURATIONS[CONFIGURATION], SENTENCES, torch.bfloat16):
        operation = OPERATIONS[case.operation]
        if operation.cuda_dtypes or operation.triton_dtypes:
            yield case.operation, case.label, *case.work()
    shape, step = cubins.SHAPE, cubins.SHAPE.sequence_rows
    state = BeamState.new(SENTENCES, step + 1, shape.beams)
    state.steps.fill_(step)
    candidates = torch.empty(SENTENCES, shape.beams, shape.choices)
    yield "beam_step", f"step {step}", *OPERATIONS["beam_step"].work(candidates, None, 2, *state)


def _each(values) -> str:
    """One number where targets agree, else all of them."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _row(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def compilers() -> str:
    release = subprocess.run([cubins.nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"nvcc {re.search(r'V([0-9.]+)', release)[1]} and Triton {version('triton')}"


def section() -> str:
    """The generated part of the documentation."""
    return "\n".join(
        [MARKS[0], f"By {compilers()}:", "", *kernel_table(), "", "Bounds, not measurements:", "", *bound_table(),
         MARKS[1]]
    )  # fmt: skip


def committed() -> str:
    text = DOCUMENT.read_text()
    return text[text.index(MARKS[0]) : text.index(MARKS[1]) + len(MARKS[1])]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/gpu-kernels.md")
    parser.add_argument("--check", action="store_true", help="fail unless they are what docs/gpu-kernels.md has")
    arguments = parser.parse_args(argv)
    if reason := missing():
        print(f"gpu_kernels: {reason}", file=sys.stderr)
        return 1
    made = section()
    if arguments.write:
        DOCUMENT.write_text(DOCUMENT.read_text().replace(committed(), made))
    elif arguments.check:
        if made != committed():
            print("gpu_kernels: the tables must be what is compiled; write them with --write", file=sys.stderr)
            return 1
    else:
        print(made)
    return 0
