"""What nvcc makes of the CUDA kernels, without a GPU: a cubin for each file and target, and what its kernels use.

``python -m benchmarks.cubins`` prints it. Registers and memory are ptxas' own words. Instructions need nvdisasm, which
CUDA's toolkit or Triton's wheel has.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("sm_80", "sm_90", "sm_100")
FLAGS = ("-std=c++17", "-O3", "-Xptxas", "-v")
FILES = {p.stem: p for p in sorted((ROOT / "csrc" / "cuda").glob("*.cu")) if p.stem != "runtime"}


@dataclass
class Kernel:
    """``name`` as in the source, with template arguments; bytes of static shared memory, stack, spilled registers."""

    name: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spilled: int = 0
    instructions: Counter = field(default_factory=Counter)  # by the part of their name before the first dot


def nvcc() -> str | None:
    return os.environ.get("NVCC", shutil.which("nvcc")) or None


def nvdisasm() -> str | None:
    if found := shutil.which("nvdisasm"):
        return found
    triton = importlib.util.find_spec("triton")
    bundled = Path(triton.origin).parent / "backends/nvidia/bin/nvdisasm" if triton else None
    return str(bundled) if bundled and bundled.exists() else None


def cubin(name: str, target: str) -> Path:
    """The cubin of ``csrc/cuda/<name>.cu`` for a target such as "sm_90"; ptxas' report lies beside it as .txt."""
    headers = [*(ROOT / "kernels/cuda").glob("*"), *(ROOT / "csrc/cuda").glob("*.h"), FILES[name]]
    content = b"".join(p.read_bytes() for p in sorted(headers))
    key = hashlib.sha256(repr((nvcc(), FLAGS, target)).encode() + content).hexdigest()[:16]
    output = ROOT / "build" / "cubins" / f"{name}-{target}-{key}.cubin"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        for old in output.parent.glob(f"{name}-{target}-*"):
            old.unlink()
        unfinished = output.with_suffix(f".{os.getpid()}")
        command = [nvcc(), *FLAGS, f"-arch={target}", "-I", ROOT, "-cubin", FILES[name], "-o", unfinished]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc {name} {target}: {done.stderr}")
        output.with_suffix(".txt").write_text(done.stderr)
        unfinished.replace(output)
    return output


def kernels(name: str, target: str) -> list[Kernel]:
    """What the kernels of a file use on a target; ``instructions`` stay empty without nvdisasm."""
    binary = cubin(name, target)
    found: dict[str, Kernel] = {}
    for part in re.split(r"Compiling entry function ", binary.with_suffix(".txt").read_text())[1:]:
        symbol = re.match(r"'(\w+)'", part)[1]
        stack, spilled = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part).groups())
        shared = re.search(r"(\d+) bytes smem", part)
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        found[symbol] = Kernel(_name(symbol), registers, int(shared[1]) if shared else 0, stack, spilled)
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
    return re.search(r"janus_fast::(\w+(?:<[^>]*>)?)\(", full)[1]


def main() -> None:
    for name in FILES:
        for target in TARGETS:
            for kernel in kernels(name, target):
                some = {
                    op: n for op, n in kernel.instructions.items() if op in ("HMMA", "LDSM", "LDGSTS", "LDL", "STL")
                }
                print(
                    f"{target:7} {kernel.name:40} {kernel.registers:4} registers {kernel.shared:5} B shared"
                    f" {kernel.spilled:3} B spilled {kernel.instructions.total():6} instructions {some or ''}"
                )


if __name__ == "__main__":
    main()
