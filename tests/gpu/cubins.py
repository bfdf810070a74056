"""What nvcc makes of the CUDA kernels, without a GPU: a cubin for each file and target, and what its kernels use.

Registers and memory are ptxas' own words. Instructions need nvdisasm, which
CUDA's toolkit or Triton's wheel has.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = ("sm_80", "sm_90", "sm_100")
FLAGS = ("-std=c++17", "-O3", "-Xptxas", "-v")
FILES = {p.stem: p for p in sorted((ROOT / "csrc" / "cuda").glob("*.cu")) if p.stem != "runtime"}


@dataclass
class Kernel:
    """``name`` as in the source, with template arguments; warps of a block; bytes of static and dynamic shared memory,
    stack, spilled registers. Warps and dynamic memory are those of a call at :data:`SHAPE`."""

    name: str
    warps: int = 0
    registers: int = 0
    shared: int = 0
    dynamic: int = 0
    stack: int = 0
    spilled: int = 0
    instructions: Counter = field(default_factory=Counter)  # by the part of their name before the first dot


class Shape(NamedTuple):
    """What the sizes of a launch follow from, besides the numbers of rows and sentences."""

    sequence_rows: int  # of a query and of a key sequence, in the mean
    heads: int
    channels: int
    hidden: int
    length_classes: int
    beams: int
    choices: int


SHAPE = Shape(25, heads=8, channels=512, hidden=2048, length_classes=256, beams=5, choices=14)  # of wmt16_enro


def launch_of(kernel: str) -> tuple[int, int]:
    """Warps of a block and bytes of dynamic shared memory, as the launchers in csrc/cuda choose them for SHAPE."""
    name, _, size = kernel.rstrip(">").partition("_kernel")
    if name == "attention":
        per_head = 4 if SHAPE.sequence_rows > 32 else 2 if SHAPE.sequence_rows > 16 else 1
        bytes_per_key = 4 // per_head * 2 * (int(size.split(",")[1]) + 8) * 2 + 8
        room = (96 << 10) // bytes_per_key // 32 * 32
        return 4, min(-(-2 * SHAPE.sequence_rows // 32) * 32, room) * bytes_per_key
    if name == "predict_lengths":
        return 16, 4 * (SHAPE.length_classes + SHAPE.channels) * 4
    if name == "beam_step":
        return 4, SHAPE.beams * SHAPE.choices * 4
    if name == "decoder_step":  # greedy, a sentence
        return 16, 4 * (SHAPE.hidden + 2 * 8 + 128 + 16 * (128 + 2))
    return {"update_mask": (32, 0)}[name]


def nvcc() -> str | None:
    return os.environ.get("NVCC", shutil.which("nvcc")) or None


def nvdisasm() -> str | None:
    if found := shutil.which("nvdisasm"):
        return found
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/nvdisasm" if triton else None
    return str(bundled) if bundled and bundled.exists() else None


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Makes ``directory`` and lets one process at a time write there, as several may test at once."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cubin(name: str, target: str) -> Path:
    """The cubin of ``csrc/cuda/<name>.cu`` for a target such as "sm_90"; ptxas' report lies beside it as .txt."""
    headers = [
        *(ROOT / "kernels").glob("*.h"),
        *(ROOT / "kernels/cuda").glob("*"),
        *(ROOT / "csrc/cuda").glob("*.h"),
        FILES[name],
    ]
    content = b"".join(p.read_bytes() for p in sorted(headers))
    key = hashlib.sha256(repr((nvcc(), FLAGS, target)).encode() + content).hexdigest()[:16]
    output = ROOT / "build" / "cubins" / f"{name}-{target}-{key}.cubin"
    with alone(output.parent):
        if not output.exists():
            for old in output.parent.glob(f"{name}-{target}-*"):
                old.unlink()
            unfinished = output.with_suffix(".unfinished")
            command = [nvcc(), *FLAGS, f"-arch={target}", "-I", ROOT, "-cubin", FILES[name], "-o", unfinished]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"nvcc {name} {target}: {done.stderr}")
            output.with_suffix(".txt").write_text(done.stderr)
            unfinished.replace(output)
    return output


@cache
def kernels(name: str, target: str) -> list[Kernel]:
    """What the kernels of a file use on a target; ``instructions`` stay empty without nvdisasm."""
    binary = cubin(name, target)
    found: dict[str, Kernel] = {}
    for part in re.split(r"Compiling entry function ", binary.with_suffix(".txt").read_text())[1:]:
        symbol = re.match(r"'(\w+)'", part)[1]
        stack, spilled = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part).groups())
        shared = re.search(r"(\d+) bytes smem", part)
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        warps, dynamic = launch_of(kernel := _name(symbol))
        found[symbol] = Kernel(kernel, warps, registers, int(shared[1]) if shared else 0, dynamic, stack, spilled)
    if nvdisasm():
        text = subprocess.run([nvdisasm(), "-c", binary], capture_output=True, text=True, check=True).stdout
        for section in re.split(r"^\s*\.section\s+\.text\.", text, flags=re.M)[1:]:
            symbol = re.match(r"\w+", section)[0]
            opcodes = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", section, re.M)
            found[symbol].instructions.update(opcodes)
    return list(found.values())


def _name(symbol: str) -> str:
    """attention_kernel<__nv_bfloat16, 32> of _ZN10janus_fast16attention_kernelI13__nv_bfloat16Li32EEEv..."""
    full = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    return re.search(r"janus_fast::cuda::(\w+(?:<[^>]*>)?)\(", full)[1]
