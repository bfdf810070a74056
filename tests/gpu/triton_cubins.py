"""What Triton makes of its kernels, without a GPU: compiled for targets that need not be there, and what they use.

It prints that as JSON. Each kernel is compiled as the
benchmarks' workload launches it, and for the operation's "widest" sample, where there is one, by Triton's own launcher
with a driver that only names a target. It needs a process of its own, without the interpreter. Triton keeps what it
compiled in build/triton.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.cards import CARDS
from benchmarks.operations.registry import CONFIGURATIONS, cases
from janus_fast.ops import OPERATIONS
from janus_fast.ops._operation import as_tuple

from .cubins import ROOT, nvdisasm

os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton"))

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

TARGETS = {
    **{f"sm_{sm}": GPUTarget("cuda", sm, 32) for sm in (80, 90, 100)},
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

CONFIGURATION, SENTENCES = "wmt16_enro", 4  # of the calls that are compiled, in bfloat16


@dataclass
class Compiled:
    """One kernel on one target. ``call`` is "training" or "widest"; ``constants`` are constexpr arguments, ``shared``
    bytes; ``spills`` counts instructions that move registers to or from local memory (gfx942: spilled registers);
    ``occupancy`` is the share of a multiprocessor's warps that these resources let it hold, ``limit`` what sets it."""

    operation: str
    call: str
    kernel: str
    constants: dict[str, object]
    target: str
    warps: int
    registers: int
    shared: int
    stack: int
    spills: int
    instructions: dict[str, int] = field(default_factory=dict)
    occupancy: float | None = None
    limit: str | None = None


class Driver:
    """Names a target, and has no device."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)  # Triton keeps what it compiled by device

    def get_current_stream(self, device) -> int:
        return 0


def operations() -> list[str]:
    return [name for name, operation in OPERATIONS.items() if operation.triton_dtypes]


@cache
def calls() -> dict[str, dict[str, tuple]]:
    """Of each operation, what the last of its benchmarks hands it, and its widest sample, in float32."""
    found = {
        case.operation: {"training": case.arguments}
        for case in cases(CONFIGURATIONS[CONFIGURATION], SENTENCES, torch.bfloat16)
    }
    for name, given in found.items():
        given.update((label, sample) for label, sample in OPERATIONS[name].samples() if label == "widest")
    return found


def launch(operation: str, given: tuple) -> None:
    """Calls the operation's Triton kernels, gradients included."""
    module = import_module(f"janus_fast.kernels.{operation}")
    results = as_tuple(getattr(module, operation)(*given))
    if OPERATIONS[operation].gradients:
        getattr(module, f"{operation}_bwd")(torch.zeros_like(results[0]), *results, *given)


def compile_all(operations: list[str], target: str) -> list[Compiled]:
    """Each kernel that the operations launch, once for each way in which they do."""
    found: dict[str, Compiled] = {}
    operation = call = ""

    def compile_only(self, *arguments, grid, warmup, **options):
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        if kernel.hash not in found:
            found[kernel.hash] = resources(operation, call, kernel, target)

    run, JITFunction.run = JITFunction.run, compile_only
    triton.runtime.driver.set_active(Driver(TARGETS[target]))
    try:
        for operation in operations:
            for label, given in calls()[operation].items():
                call = label
                launch(operation, given)
    finally:
        JITFunction.run = run
    return list(found.values())


def resources(operation: str, call: str, kernel, target: str) -> Compiled:
    names = kernel.src.fn.arg_names
    constants = {names[path[0]]: value for path, value in kernel.src.constants.items() if len(path) == 1}
    common = (operation, call, kernel.metadata.name, constants, target, kernel.metadata.num_warps)
    if target not in CARDS:
        text = kernel.asm["amdgcn"]
        registers, spilled = (
            int(re.search(rf"\.{word}:\s+(\d+)", text)[1]) for word in ("vgpr_count", "vgpr_spill_count")
        )
        opcodes = Counter(re.findall(r"^\s+(v_mfma|ds_read|ds_write|global_load|buffer_load|s_barrier)", text, re.M))
        return Compiled(*common, registers, kernel.metadata.shared, 0, spilled, dict(opcodes))
    cubin = Path(os.environ["TRITON_CACHE_DIR"]) / f"{kernel.hash}.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    usage = _run("cuobjdump", "-res-usage", cubin)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    text = _run("nvdisasm", "-c", cubin)
    cubin.unlink()
    opcodes = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", text, re.M))
    spills = opcodes["LDL"] + opcodes["STL"]
    shared = kernel.metadata.shared
    occupancy = CARDS[target].occupancy(registers, shared, common[-1])
    return Compiled(*common, registers, shared, stack, spills, dict(opcodes), *occupancy)


def _run(tool: str, *arguments) -> str:
    path = Path(nvdisasm()).parent / tool if tool != "nvdisasm" else nvdisasm()
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    torch.set_num_threads(1)
    calls()  # once, before there are several processes
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
        found = [c for each in pool.map(partial(compile_all, operations()), TARGETS) for c in each]
    json.dump([dataclasses.asdict(compiled) for compiled in found], sys.stdout, indent=1)
