"""Times whole decodes against peers, and against the least time that the machine allows.

Without a selection all rows are measured, and written as JSON, Markdown and a picture; with one, one row. janus_fast
and its peers run in turn, each in a process of its own at the best of its settings. Nothing is timed whose results are
wrong (``gate.py``); ``floors.py`` says what the floor is. Times are medians, in seconds a batch.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import busy
from benchmarks.arguments import add_usual, positive
from benchmarks.decode import floors, memory
from benchmarks.decode.contender import Contender
from benchmarks.decode.gate import Gate, Wrong
from benchmarks.decode.report import draw, line, markdown
from benchmarks.peers import DECODERS, PEERS, Models, Refusal
from benchmarks.report import publish, told
from benchmarks.turns import in_turn
from benchmarks.workload import CONFIGURATIONS, Row
from janus_fast import backend, engine

TABLE_CONFIGURATIONS, STUDENT = ("iwslt", "base"), "tiny11"
DEFAULTS = {"config": "iwslt", "mode": "nar", "batch": 1, "compute_type": "float32", "shortlist": False}
OF_MODE = {"ar": ("streams", "beam_size"), "nar": ("iterations", "length_beam")}


def main(argv: list[str] | None = None) -> int:
    arguments, selection = _arguments(argv)
    rows = [Row(**DEFAULTS | selection)] if selection else list(table())
    results = {}
    with processors(arguments.threads), tempfile.TemporaryDirectory(prefix="janus_fast-") as directory:
        bench = Bench(Models(Path(directory), arguments.backend), arguments)
        results["records"] = told(map(bench.measure, rows), line, arguments)
        if not selection:
            results["memory"] = bench.memory()
    return publish("decode", results, arguments, markdown, alone=bool(selection), gaps=True, decode=draw)


@contextmanager
def processors(count: int) -> Iterator[None]:
    """Holds this process, and those that it starts, to so many processors."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def table() -> Iterator[Row]:
    """The rows of the whole table."""
    for config in TABLE_CONFIGURATIONS:
        for batch in (1, 32):
            for streams, beam_size in ((1, 1), (1, 5), (2, 1)):
                for compute_type in ("float32", "int8"):
                    yield Row(config, "ar", batch, compute_type, streams=streams, beam_size=beam_size)
            for compute_type in ("float32", "bfloat16", "int8"):
                yield Row(config, "nar", batch, compute_type)
    for batch in (1, 32):
        for mode, streams in (("ar", 1), ("nar", 2)):
            for shortlist in (False, True):
                yield Row(STUDENT, mode, batch, "int8", streams=streams, shortlist=shortlist)


def peers_of(row: Row) -> list[str]:
    """Who has the row's model and mode; with SSRU slimt alone."""
    return ["slimt"] if row.sizes.ssru else PEERS[row.mode]


class Bench:
    """Measures rows; what rows have in common is checked once."""

    def __init__(self, models: Models, arguments: argparse.Namespace):
        self.models, self.gate = models, Gate(models, arguments.threads)
        self.threads, self.rounds, self.peers = arguments.threads, arguments.rounds, arguments.peer
        self.loops = arguments.busy
        self.profiles = arguments.profile

    def measure(self, row: Row) -> dict:
        """``seconds`` and the first peer's ``peer_seconds`` beside ``floor_seconds``; or what is ``wrong``, untimed."""
        fields = (*DEFAULTS, *OF_MODE[row.mode])
        record = {"decoding": row.decoding, **{name: getattr(row, name) for name in fields}, "threads": self.threads}
        record["busy"] = self.loops
        try:
            record["gate"] = self.gate.check(row)
            absent = {}
            wanted = self.peers or [name for name in peers_of(row) if name != "pytorch" or not row.shortlist]
            for name in wanted:
                try:
                    self.gate.check_peer(name, row)
                except Refusal as refusal:
                    if self.peers:  # asked for by name
                        raise
                    absent[name] = {"absent": str(refusal)}
            names = [name for name in wanted if name not in absent]
            own, *peers = self._in_turn(row, names)
        except Wrong as wrong:
            return {**record, "wrong": str(wrong)}
        record |= own
        record["peers"] = dict(zip(names, peers, strict=True)) | absent
        record["peer"] = names[0] if names else None
        record["peer_seconds"] = peers[0]["seconds"] if peers else None
        untold = engine.missing() or row.shortlist or row.sizes.ssru  # what floors know nothing of
        record["floor"] = None if untold else floors.floor(row, *floors.limits(self.threads))
        record["floor_seconds"] = record["floor"] and record["floor"]["seconds"]
        return record

    def _in_turn(self, row: Row, peers: list[str]) -> list[dict]:
        with ExitStack() as stack:
            contenders = [
                Contender(name, row, self.models, self.gate, self.threads, stack) for name in ("janus_fast", *peers)
            ]
            stack.enter_context(busy.loops(self.loops))  # settings were chosen in quiet
            turns = in_turn({c.name: c.turn for c in contenders}, lambda turns: len(turns) >= self.rounds)
            records = [c.record(sum(turns[c.name], [])) for c in contenders]
            if self.profiles:
                records[0]["profile"] = contenders[0].profile()
            return records

    def memory(self) -> dict:
        return memory.measure(self.models, Row(TABLE_CONFIGURATIONS[-1], "nar", 32, "int8"), self.threads)


def _arguments(argv: list[str] | None) -> tuple[argparse.Namespace, dict]:
    """The arguments, and those of them that select a row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description=__doc__.splitlines()[0])
    group = parser.add_argument_group("one row instead of all (iwslt, nar, batch 1, float32 where nothing is said)")
    row = [
        group.add_argument("--config", choices=CONFIGURATIONS, help="sizes of the model"),
        group.add_argument("--mode", choices=PEERS, help="left to right, or in parallel"),
        group.add_argument("--batch", type=positive, metavar="N", help="sentences decoded at once"),
        group.add_argument("--compute-type", choices=DECODERS["janus_fast"].compute_types),
        group.add_argument(
            "--shortlist",
            action="store_const",
            const=True,
            help="with a map of the words that sources can become (sizes that have one: tiny11, tiny11-ssru)",
        ),  # fmt: skip
        group.add_argument("--streams", type=int, choices=(1, 2), help="ar: 1 an ordinary decoder, 2 JANUS (default)"),
        group.add_argument("--beam-size", type=positive, metavar="N", help="ar: default 1, greedy"),
        group.add_argument("--iterations", type=positive, metavar="N", help="nar: passes, default 4"),
        group.add_argument("--length-beam", type=positive, metavar="N", help="nar: lengths tried, default 1"),
    ]
    peers = [name for name in DECODERS if name != "janus_fast"]
    parser.add_argument("--peer", nargs="+", choices=peers, help="default: all that are installed and have the mode")
    parser.add_argument("--backend", choices=backend.BACKENDS, default="engine", help="janus_fast's (default: engine)")
    parser.add_argument("--busy", type=positive, default=0, metavar="N", help="endless loops beside what is timed")
    parser.add_argument(
        "--profile", action="store_true", help="of one row: also where the engine's time goes, by stage"
    )
    add_usual(parser, json="the row's record")
    arguments = parser.parse_args(argv)
    selection = {a.dest: value for a in row if (value := getattr(arguments, a.dest)) is not None}
    mode = selection.get("mode", DEFAULTS["mode"])
    allowed = {*DEFAULTS, *OF_MODE[mode]}
    if wrong := next((name for name in selection if name not in allowed), None):
        parser.error(f"--{wrong.replace('_', '-')} must go with another mode than {mode}")
    chosen = Row(**DEFAULTS | selection)
    if chosen.sizes.ssru and (mode, chosen.streams) != ("ar", 1):
        parser.error(f"--config {chosen.config} must go with --mode ar --streams 1")
    allowed = peers_of(chosen)
    if wrong := next((name for name in arguments.peer or () if selection and name not in allowed), None):
        parser.error(f"--peer must be one of {allowed} in mode {mode}, got {wrong}")
    if chosen.shortlist and not chosen.sizes.candidates:
        parser.error("--shortlist must go with sizes that have a map")
    if arguments.profile and (not selection or arguments.backend != "engine"):
        parser.error("--profile must go with the options of one row, and with backend engine")
    if arguments.json and not selection:
        parser.error("--json must go with the options of one row; --results is for all rows")
    if arguments.busy and not selection:
        parser.error("--busy must go with the options of one row")
    return arguments, selection
