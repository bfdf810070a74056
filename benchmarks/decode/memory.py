"""How much memory a quantised model takes while it decodes: resident, above an interpreter that imported numpy.

The model is read from disk in its compute type and decodes batches in a process of its own; the peak of the resident
set, as the system counts it, includes the pages of the file that it maps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine, resident
from benchmarks.peers import Models
from benchmarks.workload import CONFIGURATIONS, Row, save_model
from janus_fast import backend


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGURATIONS, default="base", help="sizes (default: %(default)s)")
    parser.add_argument("--mode", choices=("ar", "nar"), default="nar", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--compute-type", choices=("float32", "bfloat16", "int8"), default="int8", help="default: int8")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--backend", choices=backend.BACKENDS, default="engine", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    row = Row(arguments.config, arguments.mode, arguments.batch, arguments.compute_type)
    with tempfile.TemporaryDirectory(prefix="janus_fast-") as directory:
        record = measure(Models(Path(directory), arguments.backend), row, arguments.threads)
    print(json.dumps({**record, "machine": machine(arguments.threads)}, indent=1) if arguments.json else line(record))
    return 0


def measure(models: Models, row: Row, threads: int) -> dict:
    """Bytes above the ``idle`` interpreter's: ``peak``; between decodes ``resident``, and of it mapped ``files``."""
    with tempfile.TemporaryDirectory(dir=models.directory) as directory:
        save_model(row.sizes, row.streams, Path(directory), quantization=row.compute_type)
        with models.start("janus_fast", row, model=directory, intra_threads=threads) as process:
            for _ in range(3):
                process.seconds()
            child = process.child.pid
            used = {"peak": resident(child, "VmHWM"), "resident": resident(child), "files": resident(child, "RssFile")}
        weights = (Path(directory) / "model.safetensors").stat().st_size
    waiting = [sys.executable, "-c", "import numpy; print(flush=True); input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as idle:
        idle.stdout.readline()
        before = {"peak": resident(idle.pid), "resident": resident(idle.pid), "files": resident(idle.pid, "RssFile")}
        idle.communicate("\n")
    above = {f"{name}_bytes": size - before[name] for name, size in used.items()}
    return {
        "config": row.config, "decoding": row.decoding, "batch": row.batch, "compute_type": row.compute_type,
        **above, "idle_bytes": before["resident"], "weights_bytes": weights,
    }  # fmt: skip


def line(record: dict) -> str:
    mib = {name: record[f"{name}_bytes"] / 2**20 for name in ("peak", "files", "idle", "weights")}
    return (
        f"{record['config']}, {record['compute_type']}, {record['decoding']}, batch {record['batch']}: peak "
        f"{mib['peak']:.1f} MiB above an idle interpreter's {mib['idle']:.1f}, of which {mib['files']:.1f} MiB are "
        f"mapped files; weights on disk {mib['weights']:.1f} MiB"
    )
