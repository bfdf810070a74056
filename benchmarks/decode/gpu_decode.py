"""Times whole decodes on a GPU beside Transformers and PyTorch.

JANUS decodes with backend "cuda", which replays CUDA graphs. Transformers' ``generate`` decodes an ordinary Transformer
of the same sizes from left to right; eager PyTorch does the same mask-predict. All run in one process, in turn. Nothing
is timed whose tokens in float32 are not those of the reference path, which is backend "torch", or whose outputs have
not the length that the row says. Times are medians, in seconds a batch, of the host's clock from lists of ids to lists
of ids. ``floor_seconds`` is what reading the weights and multiplying takes at least (``floors.py``), at the rates of
a copy of 1 GiB and of a product of 8192 x 8192 matrices there.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.arguments import positive
from benchmarks.cards import slug
from benchmarks.decode import floors
from benchmarks.machine import RESULTS, machine
from benchmarks.operations.operations import time_of as time_of_call
from benchmarks.peers import Models, work
from benchmarks.turns import in_turn
from benchmarks.workload import CONFIGURATIONS, OUTPUT, Row
from janus_fast.commands._table import table

PEERS = {"transformers": "Transformers", "pytorch": "PyTorch, eager"}
HEADER = ["model", "decoding", "batch", "type", "janus_fast", *PEERS.values(), "floor"]
COMPUTE_TYPES = ("bfloat16", "float32")


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu_decode: --device cuda needs a GPU that this torch can use, and found none", file=sys.stderr)
        return 2
    if find_spec("transformers") is None:
        print("gpu_decode: without Transformers, which is not installed: pip install transformers", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="janus_fast-") as directory:
        bench = Decodes(Path(directory), arguments.device, arguments.seconds)
        records = [bench.measure(row) for row in rows(arguments)]
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    circumstances = {**machine(torch.get_num_threads()), "device": name, "torch": torch.__version__}
    print(table(HEADER, list(rows_of(records))))
    print(f"\n{name}, torch {torch.__version__}; milliseconds a batch, in parentheses how many times as long")
    file = arguments.json or RESULTS / f"{slug(name)}-decode.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": circumstances, "records": records}, indent=1) + "\n")
    print(f"written: {file}")
    return 1 if any("wrong" in record for record in records) else 0


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    for config in arguments.config:
        for compute_type in arguments.compute_type:
            for batch in arguments.batch:
                for streams, beam_size in ((1, 1), (1, 5), (2, 1)):
                    yield Row(config, "ar", batch, compute_type, streams=streams, beam_size=beam_size)
                yield Row(config, "nar", batch, compute_type)


class Decodes:
    def __init__(self, directory: Path, device: str, seconds: float):
        self.path, self.device, self.seconds = Models(directory, "").path, device, seconds
        self.translator = cache(self._translator)  # of a model

    def measure(self, row: Row) -> dict:
        """``seconds``, those of each peer and ``floor_seconds``; or what is ``wrong``, untimed."""
        record = {**dataclasses.asdict(row), "decoding": row.decoding}
        contenders = {"janus_fast": self.own(row)}
        contenders |= {name: self.peer(name, row) for name in PEERS if is_there(name, row)}
        for name, decode in contenders.items():
            if [len(ids) for group in decode() for ids in group] != [OUTPUT] * row.batch:
                return {**record, "wrong": f"{name}: outputs must be one of {OUTPUT} tokens a source"}
        if wrong := self.wrong(dataclasses.replace(row, compute_type="float32"), list(contenders)):
            return {**record, "wrong": wrong}
        for decode in contenders.values():
            decode()  # a second time: only then are rows of canvases known, and programs recorded for them
        samples = in_turn({name: partial(time_of, decode) for name, decode in contenders.items()}, self.enough)
        record |= {name: statistics.median(times) for name, times in samples.items()}
        record["seconds"] = record.pop("janus_fast")
        record["floor_seconds"] = floors.floor(row, *limits(self.device))["seconds"]
        return {**record, "samples": samples}

    def wrong(self, row: Row, names: list[str]) -> str | None:
        """What is wrong with the tokens, in float32, of those that do the row's work; compared are whole beams."""
        whole = {"num_hypotheses": row.beam_size} if row.mode == "ar" else {}
        expected = sets_of(self.own(row, "torch", **whole)())
        for name in names:
            if work(name, row) != row:
                continue
            found = self.own(row, **whole)() if name == "janus_fast" else self.peer(name, row, **whole)()
            if sets_of(found) != expected:
                return f"{name}: tokens in float32 must be those of the reference path"
        return None

    def enough(self, times: list[float]) -> bool:
        return len(times) >= 3 and sum(times) >= self.seconds

    def own(self, row: Row, backend: str = "", **more) -> Callable[[], list]:
        backend = backend or ("cuda" if self.device == "cuda" else "auto")
        translator, sources = self.translator(self.path(row), row.compute_type, backend), sources_of(row)
        options = {"mode": row.mode, "max_batch_size": row.batch, **row.options, **more}
        return lambda: [result.hypotheses for result in translator.generate(sources, **options)]

    def peer(self, name: str, row: Row, **more) -> Callable[[], list]:
        does = work(name, row)
        job = {
            "model": str(self.path(does)), "device": self.device, "compute_type": row.compute_type, "batch": row.batch,
            "options": {**does.options, **more}, "calls": [sources_of(row)], "intra_threads": torch.get_num_threads(),
            "inter_threads": 1,
        }  # fmt: skip
        return import_module(f"benchmarks.peers.{name}").prepare(job)[0]

    def _translator(self, path: Path, compute_type: str, backend: str):
        from janus_fast import Translator

        return Translator(str(path), device=self.device, compute_type=compute_type, backend=backend)


@cache
def limits(device: str) -> tuple[Callable[[int], float], Callable[[str], float]]:
    """The device's ``bandwidth`` and ``peak``, as floors wants them, each measured when first asked for."""

    def seconds(call: Callable) -> float:
        return time_of_call(call, 0.05, torch.device(device))[1] / 1e3

    @cache
    def bandwidth(_) -> float:
        size = 2**30 if device == "cuda" else 2**26
        one, other = (torch.ones(size // 4, dtype=torch.int32, device=device) for _ in range(2))
        return 2 * size / seconds(lambda: one.copy_(other))

    @cache
    def peak(name: str) -> float:
        side = 8192 if device == "cuda" else 512
        matrix = torch.randn(side, side, device=device).to(getattr(torch, name))
        return 2 * side**3 / seconds(lambda: matrix @ matrix)

    return bandwidth, peak


def is_there(name: str, row: Row) -> bool:
    return row.mode == "nar" if name == "pytorch" else find_spec(name) is not None


def sets_of(groups: list[list[list[int]]]) -> list[list[list[int]]]:
    """Beams without their order, which is by scores with the end's here, and without them elsewhere."""
    return [sorted(group) for group in groups]


def sources_of(row: Row) -> list[list[int]]:
    return row.calls[0][: row.batch]


def time_of(decode: Callable) -> float:  # results are on the host: nothing is left to wait for
    began = time.perf_counter()
    decode()
    return time.perf_counter() - began


def rows_of(records: list[dict]) -> Iterator[list[str]]:
    """Of a table with ``HEADER``."""
    for record in records:
        cells = [record["config"], record["decoding"], str(record["batch"]), record["compute_type"]]
        if "wrong" in record:
            yield [*cells, f"wrong: {record['wrong']}", *[""] * (len(PEERS) + 1)]
            continue
        peers = [
            f"{1e3 * record[name]:.1f} ({record[name] / record['seconds']:.1f})" if record.get(name) else ""
            for name in PEERS
        ]
        yield [*cells, f"{1e3 * record['seconds']:.2f}", *peers, f"{1e3 * record['floor_seconds']:.2f}"]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu_decode", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--config", nargs="+", choices=CONFIGURATIONS, default=["base"], help="default: base")
    parser.add_argument("--batch", nargs="+", type=positive, default=[1, 32, 128], help="default: 1 32 128")
    parser.add_argument(
        "--compute-type", nargs="+", choices=COMPUTE_TYPES, default=["bfloat16"], help="default: bfloat16"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="of each decoder, at least (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/<card>-decode.json")
    return parser.parse_args(argv)
