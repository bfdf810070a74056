"""``janus-fast info``: versions, processor, kernels and shipped models."""

import argparse
import json
import os
import platform
from importlib import metadata

from ._table import table

PACKAGES = ("torch", "sentencepiece", "safetensors", "sacrebleu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    record = information()
    print(json.dumps(record, indent=1) if arguments.json else _shown(record))
    return 0


def information() -> dict:
    import torch

    import janus_fast

    from .. import models
    from ..ops import OPERATIONS, backends, isa

    return {
        "janus_fast": janus_fast.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": isa(),
        "backends": {name: list(backends(name, "cpu")) for name in OPERATIONS},
        "models": models.names(),
    }


def processor() -> str:
    """The processor's name, as its maker wrote it where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _shown(record: dict) -> str:
    facts = [[name, str(record[name])] for name in ("janus_fast", "python", *PACKAGES, "processor", "cores", "threads")]
    facts.append(["kernels", record["isa"] or "not built: operations run through their definitions"])
    facts.append(["models", ", ".join(record["models"]) or "none"])
    width = max(len(name) for name, _ in facts)
    lines = "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts)
    rows = [[name, ", ".join(found)] for name, found in record["backends"].items()]
    return f"{lines}\n\n{table(['operation', 'backends on the CPU, first choice first'], rows)}"
