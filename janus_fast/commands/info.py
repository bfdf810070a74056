"""``janus-fast info``: versions, processor, native code and shipped models."""

import argparse
import json
import os
import platform
from importlib import metadata

from .. import installation

PACKAGES = ("numpy", "sentencepiece", "safetensors", "sacrebleu", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    record = information()
    print(json.dumps(record, indent=1) if arguments.json else _shown(record))
    return 0


def information() -> dict:
    import janus_fast

    from .. import engine, models

    return {
        "janus_fast": janus_fast.__version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": engine.default_threads(),
        "engine": None if engine.missing() else {"isas": engine.isas(), "isa": engine.isa(), "auto": engine.fastest()},
        "operations": installation.operations_missing() is None,
        "models": models.names(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, as its maker wrote it where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _shown(record: dict) -> str:
    facts = {name: record[name] or "not installed" for name in ("janus_fast", "python", *PACKAGES)}
    facts |= {name: str(record[name]) for name in ("processor", "cores", "threads")}
    if engine := record["engine"]:
        others = ", ".join(name for name in engine["isas"] if name != engine["isa"])
        facts["engine"] = f"{engine['isa']}{f' (also {others})' if others else ''}; compute type auto: {engine['auto']}"
    else:
        facts["engine"] = f"decoding runs in torch: {installation.engine_missing()}"
    facts["operations"] = "native" if record["operations"] else installation.slow()
    facts["models"] = ", ".join(record["models"]) or "none"
    width = max(map(len, facts))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in facts.items())
