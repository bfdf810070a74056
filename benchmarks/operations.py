"""Times each operation against plain PyTorch; what does not compute the definition is not timed.

A time is the median of repeated calls on a cold cache, after a warm-up, of the registered operator without the checks
of its front page. The JSON records hold the 20th and 80th percentiles too.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.registry import BATCHES, CONFIGURATIONS, Case, cases
from janus_fast.commands._table import table
from janus_fast.ops import OPERATIONS, isa
from janus_fast.ops._operation import as_tuple

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CACHE_BYTES = 64 * 2**20  # more than the last level of most processors


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    circumstances = {**machine(torch.get_num_threads()), "isa": isa()}
    records = []
    for name in arguments.config:
        for sentences in arguments.sentences:
            for case in cases(CONFIGURATIONS[name], sentences, DTYPES[arguments.dtype]):
                if case.operation in arguments.op:
                    records += measure(case, arguments.seconds, config=name, sentences=sentences, dtype=arguments.dtype)
                    _progress(len(records))
    _progress(None)
    print(shown(records))
    print(f"\n{circumstances['processor']}, {circumstances['threads']} threads, {circumstances['isa'] or 'no'} kernels")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": circumstances, "records": records}, indent=1) + "\n")
    wrong = [r for r in records if not r["correct"]]
    for record in wrong:
        print(f"WRONG: {record['operation']} ({record['label']}), {record['backend']}", file=sys.stderr)
    return 1 if wrong else 0


def measure(case: Case, seconds: float, **labels) -> list[dict]:
    """One record a backend. ``speedup`` is the time of plain PyTorch over the backend's."""
    operation = OPERATIONS[case.operation]
    calls: dict[str, Callable] = {"torch": case.torch}
    if operation.refusal("cpp", torch.empty(0, dtype=DTYPES[labels["dtype"]])) is None:
        calls["cpp"] = lambda: operation.kernel("cpp")(*case.arguments)
    moved, work = operation.work(*case.arguments)
    expected = budget(operation, case.arguments)
    records = []
    for backend, call in calls.items():
        results = [getattr(call, "unpad", lambda t: t)(t) for t in as_tuple(call())]
        if case.random and backend == "torch":  # which draws numbers of its own
            correct = [r.shape for r in results] == [truth.shape for truth, _ in expected]
        else:
            correct = within(expected, results)
        record = {"operation": case.operation, "label": case.label, **labels, "backend": backend, "correct": correct}
        record["shapes"] = [list(a.shape) for a in case.arguments if isinstance(a, Tensor)]
        if correct:
            low, middle, high = time_of(call, seconds)
            record |= {"ms": middle, "ms_p20": low, "ms_p80": high}
            record |= {"gb_per_second": moved / middle / 1e6, "gflop_per_second": work / middle / 1e6}
            if records and records[0]["correct"]:
                record["speedup"] = records[0]["ms"] / middle
        records.append(record)
    return records


def budget(operation, arguments: tuple) -> list[tuple[Tensor, float]]:
    """The definition's results in float64, and how far a result may be from each.

    That is twice what the definition errs in the dtype at hand, and two units in the last place of the largest value.
    """
    exact = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    result = []
    for truth, rounded in zip(*(as_tuple(operation.reference(*each)) for each in (exact, arguments)), strict=True):
        allowed = 0.0
        if truth.is_floating_point() and truth.numel():
            error = (rounded.double() - truth).abs().max().item()
            allowed = 2 * error + 2 * torch.finfo(rounded.dtype).eps * truth.abs().max().item()
        result.append((truth, allowed))
    return result


def within(expected: list[tuple[Tensor, float]], results: list[Tensor]) -> bool:
    pairs = zip(expected, results, strict=False)  # plain PyTorch returns no log-sum-exp
    return all(
        r.shape == truth.shape and ((r.double() - truth.double()).abs() <= allowed).all()
        for (truth, allowed), r in pairs
    )


def time_of(call: Callable, seconds: float) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile, in ms."""
    eviction = torch.zeros(CACHE_BYTES // 4, dtype=torch.int32)
    call()
    times, deadline = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        eviction.add_(1)
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    low, _, _, high = statistics.quantiles(times, n=5)
    return low, statistics.median(times), high


def shown(records: list[dict]) -> str:
    """One line a case: what plain PyTorch takes, what the kernel takes, and their ratio."""
    header = ["operation", "case", "model", "sentences", "torch ms", "kernel ms", "speedup", "GFLOP/s"]
    rows = []
    for torch_record in (r for r in records if r["backend"] == "torch"):
        same = ("operation", "label", "config", "sentences")
        row = [str(torch_record[name]) for name in same] + [_number(torch_record, "ms", 3)]
        kernel = next((r for r in records if r["backend"] == "cpp" and all(r[n] == torch_record[n] for n in same)), {})
        rows.append(
            row + [_number(kernel, "ms", 3), _number(kernel, "speedup", 2), _number(kernel, "gflop_per_second", 1)]
        )
    return table(header, rows)


def _number(record: dict, name: str, digits: int) -> str:
    return f"{record[name]:,.{digits}f}" if name in record else "-"


def _progress(done: int | None) -> None:
    if sys.stderr.isatty():
        print("\r\033[K" if done is None else f"\r{done} records", end="", file=sys.stderr, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks operations", description=__doc__.splitlines()[0])
    operations = sorted(OPERATIONS)
    parser.add_argument("--op", nargs="+", choices=operations, default=operations, metavar="NAME", help="default: all")
    names = list(CONFIGURATIONS)
    parser.add_argument("--config", nargs="+", choices=names, default=names[:1], help="sizes (default: %(default)s)")
    parser.add_argument("--sentences", nargs="+", type=int, default=list(BATCHES), help="default: %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, default=0, help="default: as many as torch takes")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each record (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all records")
    return parser.parse_args(argv)
