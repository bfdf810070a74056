"""Who decodes beside janus_fast: each a process of its own, asked for its best."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.process import Process, Refusal
from benchmarks.workload import Row, save_model

__all__ = ["DECODERS", "PEERS", "Models", "Process", "Refusal", "work"]


@dataclass(frozen=True)
class Decoder:
    """``compute_types``: in what it computes when a row asks for a type. Where it has nothing like it, its best."""

    compute_types: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


DECODERS = {
    "janus_fast": Decoder({name: name for name in ("float32", "bfloat16", "int8", "int8_bfloat16")}),
    "ctranslate2": Decoder(
        {"float32": "float32", "bfloat16": "float32", "int8": "int8", "int8_bfloat16": "int8"},
        # Without both, its threads fall asleep between products, and several times its time goes by.
        {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "100000"},
    ),
    "slimt": Decoder(dict.fromkeys(("float32", "bfloat16", "int8", "int8_bfloat16"), "int8")),
    "pytorch": Decoder({"float32": "float32", **dict.fromkeys(("bfloat16", "int8", "int8_bfloat16"), "bfloat16")}),
}
PEERS = {"ar": ["ctranslate2"], "nar": ["ctranslate2", "pytorch"]}


def work(name: str, row: Row) -> Row:
    """What a decoder does for a row: those that have ordinary Transformers alone go from left to right."""
    if name not in ("ctranslate2", "transformers"):
        return row
    beam_size = row.beam_size if row.mode == "ar" else 1
    return dataclasses.replace(row, mode="ar", streams=1, beam_size=beam_size)


class Models:
    """Model directories, each written when first asked for, and the processes that decode with them.

    ``backend`` is janus_fast's, unless a process is asked for another.
    """

    def __init__(self, directory: Path, backend: str):
        self.directory, self.backend = directory, backend

    def path(self, row: Row) -> Path:
        path = self.directory / f"{row.config}-{row.streams}"
        if not path.is_dir():
            save_model(row.sizes, row.streams, path)
        return path

    def start(
        self, name: str, row: Row, *, compute_type: str = "", intra_threads: int, inter_threads: int = 1, **changes
    ) -> Process:
        """A process of decoder ``name`` with the row's work, in ``compute_type`` rather than the row's own."""
        decoder, row = DECODERS[name], work(name, row)
        job = {
            "model": str(changes.pop("model", None) or self.path(row)),
            "mode": row.mode, "options": row.options, "calls": row.calls, "texts": row.texts, "batch": row.batch,
            "compute_type": decoder.compute_types[compute_type or row.compute_type],
            "intra_threads": intra_threads, "inter_threads": inter_threads, "backend": self.backend, **changes,
        }  # fmt: skip
        return Process(f"benchmarks.peers.{name}", job, decoder.environment)
