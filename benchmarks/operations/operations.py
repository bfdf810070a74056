"""Times each operation against plain PyTorch; what does not compute the definition is not timed.

Sizes are those of models in the literature, or yours; peers are PyTorch's ways or, from a Python file, yours, which
CONTRIBUTING.md shows. A time is the median of repeated calls on a cold cache, after a warm-up, of the registered
operator without the checks of its front page. The JSON records hold the 20th and 80th percentiles too. With ``--device
cuda`` the native and the Triton kernels run beside eager PyTorch, ``torch.compile`` and, for attention, FlexAttention.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import positive
from benchmarks.budget import allowed, error, largest
from benchmarks.machine import machine
from benchmarks.operations.pytorch import Peer, compiled
from benchmarks.operations.registry import BATCHES, BEAM, CONFIGURATIONS, TIMED, Case, cases
from benchmarks.turns import spread
from janus_fast.commands._table import table
from janus_fast.ops import OPERATIONS, isa
from janus_fast.ops._operation import Operation, as_tuple

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KERNELS = ("cpp", "cuda", "triton", "reference")  # an operation's backends; all else that is timed is a peer
PEERS = {"torch": "eager", "compiled": "torch.compile", "flex": "FlexAttention, compiled"}
HEAD_START = 4_000_000  # clock cycles of a GPU, some two milliseconds
CACHE_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}  # more than the last level of most processors and of any card


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("operations: --device cuda needs a GPU that this torch can use, and found none", file=sys.stderr)
        return 2
    circumstances = {**machine(torch.get_num_threads()), "isa": isa(), "device": name_of(device)}
    peers = dict(arguments.peer or [(name, {}) for name in (["torch"] if device.type == "cpu" else PEERS)])
    sizes = {name: getattr(arguments, name) for name in ("channels", "heads", "vocabulary") if getattr(arguments, name)}
    records = []
    for name in arguments.config:
        c = dataclasses.replace(CONFIGURATIONS[name], **sizes)
        if sizes or arguments.rows:
            rows = f" N={arguments.rows}" if arguments.rows else ""
            name = f"C={c.channels} H={c.heads} V={c.vocabulary}{rows}"
        for sentences in [arguments.lengths] if arguments.lengths else arguments.sentences:
            for dtype in arguments.dtype:
                for case in cases(c, sentences, DTYPES[dtype], device, arguments.rows):
                    if case.operation in arguments.op:
                        case.peers.update(own_peers(case, peers))
                        count = len(arguments.lengths) if arguments.lengths else sentences
                        labels = {"config": name, "sentences": count, "dtype": dtype}
                        records += measure(case, device, list(peers), arguments.seconds, **labels)
                        _progress(len(records))
    _progress(None)
    print(shown(records))
    print(f"\n{circumstances['device']}, {circumstances['threads']} threads, {circumstances['isa'] or 'no'} kernels")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": circumstances, "records": records}, indent=1) + "\n")
    wrong = [r for r in records if not r["correct"]]
    for record in wrong:
        print(f"WRONG: {record['operation']} ({record['label']}), {record['backend']}", file=sys.stderr)
    return 1 if wrong else 0


def name_of(device: torch.device) -> str:
    return machine(1)["processor"] if device.type == "cpu" else torch.cuda.get_device_name(device)


def measure(case: Case, device: torch.device, peers: list[str], seconds: float, **labels) -> list[dict]:
    """One record a peer and one a backend. ``speedup`` is the time of the fastest peer over the backend's."""
    operation = OPERATIONS[case.operation]
    contenders = {name: peer for name in peers if (peer := peer_of(case, name)) is not None}
    floating = next(i for i, a in enumerate(case.arguments) if isinstance(a, Tensor) and a.is_floating_point())
    for backend in operation.candidates(device.type):
        refusal = operation.refusal(backend, *case.arguments[floating:], gradients=case.seed is not None)
        if backend != "reference" and refusal is None:
            contenders[backend] = Peer(call_of(case, operation, backend))
    moved, work = case.work()
    expected = budget(case, operation)
    records, fastest = [], None
    for backend, contender in contenders.items():
        results = [*contender.results(*as_tuple(contender.run()))]
        if case.random and backend in peers:  # which draw numbers of their own
            correct = [r.shape for r in results] == [truth.shape for truth, _ in expected]
        else:
            correct = within(case, expected, results)
        record = {"operation": case.operation, "label": case.label, **labels, "backend": backend, "correct": correct}
        record["shapes"] = [list(a.shape) for a in case.arguments if isinstance(a, Tensor)]
        if correct:
            low, middle, high = time_of(contender.run, seconds, device)
            record |= {"ms": middle, "ms_p20": low, "ms_p80": high}
            record |= {"gb_per_second": moved / middle / 1e6, "gflop_per_second": work / middle / 1e6}
            if backend in peers:
                fastest = min(fastest or middle, middle)
            elif fastest:
                record["speedup"] = fastest / middle
        records.append(record)
    return records


def own_peers(case: Case, peers: dict[str, dict[str, Callable]]) -> dict[str, Callable[[], Peer]]:
    """Those of a case that have a function for its operation. It takes the operation's flat arguments and returns its
    results, of which it may leave out the last ones; gradients come by autograd."""
    operation = OPERATIONS[case.operation]
    gradients = 0 if case.seed is None else len(operation.differentiable())
    results = operation.schema.partition("->")[2].count("Tensor") + gradients

    def padded(*returned: Tensor) -> list[Tensor | None]:
        own = len(returned) - gradients
        return [*returned[:own], *[None] * (results - len(returned)), *returned[own:]]

    def peer(function: Callable) -> Peer:
        return Peer(lambda: definition(case, function, case.arguments), padded)

    return {name: partial(peer, own[case.operation]) for name, own in peers.items() if case.operation in own}


def peer_of(case: Case, name: str) -> Peer | None:
    """A peer by its name, or None where it has no such operation."""
    if name == "compiled":
        eager = case.peers["torch"]()
        return Peer(compiled(eager.run), eager.results)
    return case.peers[name]() if name in case.peers else None


def call_of(case: Case, operation: Operation, backend: str) -> Callable[[], tuple[Tensor, ...]]:
    forward = operation.kernel(backend)
    if case.seed is None:
        return lambda: forward(*case.arguments)
    backward = getattr(torch.ops.janus_fast, f"{operation.name}_bwd").default

    def call() -> tuple[Tensor, ...]:
        results = as_tuple(forward(*case.arguments))
        return *results, *backward(case.seed, *results, *case.arguments)

    return call


def budget(case: Case, operation: Operation) -> list[tuple[Tensor, float]]:
    """The definition's results and gradients in float64, and how far a result may be from each."""
    exact = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in case.arguments]
    result = []
    for truth, rounded in zip(
        *(definition(case, operation.reference, each) for each in (exact, case.arguments)), strict=True
    ):
        distance = 0.0
        if truth.is_floating_point() and truth.numel():
            distance = allowed(error(rounded, truth), largest(truth), rounded.dtype)
        result.append((truth, distance))
    return result


def definition(case: Case, function: Callable, arguments: Sequence) -> tuple[Tensor, ...]:
    """What a function in plain torch, such as the operation's definition, makes of a case, and its gradients."""
    if case.seed is None:
        return as_tuple(function(*arguments))
    places = OPERATIONS[case.operation].differentiable()
    leaves = [a.detach().requires_grad_() if i in places else a for i, a in enumerate(arguments)]
    results = as_tuple(function(*leaves))
    gradients = torch.autograd.grad(results[0], [leaves[i] for i in places], case.seed.to(results[0].dtype))
    return *(r.detach() for r in results), *gradients


def within(case: Case, expected: list[tuple[Tensor, float]], results: list[Tensor | None]) -> bool:
    """Whether each result is; integers are equal, or choices whose true scores are within their scores' budget."""
    pairs = [pair for pair in zip(expected, results, strict=False) if pair[1] is not None]  # peers return fewer results
    if not results or results[0] is None or len(results) > len(expected):
        return False
    if any(r.shape != truth.shape for (truth, _), r in pairs):
        return False
    for i, ((truth, distance), r) in enumerate(pairs):
        if i == 0 and case.log_probs is not None and not torch.equal(r, truth):
            (truth, distance), r = expected[1], case.log_probs(r)
        if not ((r.double() - truth.double()).abs() <= distance).all():
            return False
    return True


def time_of(call: Callable, seconds: float, device: torch.device) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile, in ms."""
    eviction = torch.zeros(CACHE_BYTES[device.type] // 4, dtype=torch.int32, device=device)
    call()
    times, deadline = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < deadline:
        eviction.add_(1)
        times.append(milliseconds(call, device))
    return spread(times)


def milliseconds(call: Callable, device: torch.device) -> float:
    """Of one call: by the host's clock, or between two events on the GPU, which waits before the first one for so long
    that the host's time for launching does not count."""
    if device.type == "cpu":
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def shown(records: list[dict]) -> str:
    """One line a kernel of a case: what the peers take, what it takes, and how much faster it is than the fastest."""
    peers = list(dict.fromkeys(r["backend"] for r in records if r["backend"] not in KERNELS))
    header = ["operation", "case", "model", "sentences", "type", *(f"{name} ms" for name in peers)]
    rows = []
    for case, group in grouped(records, "operation", "label", "config", "sentences", "dtype"):
        cells = [*map(str, case), *(_number(group.get(name, {}), "ms", 3) for name in peers)]
        for backend in [name for name in group if name in KERNELS] or ["-"]:
            kernel = group.get(backend, {})
            times = [_number(kernel, "ms", 3), _number(kernel, "speedup", 2), _number(kernel, "gflop_per_second", 1)]
            rows.append([*cells, backend, *times])
    return table([*header, "kernel", "ms", "speedup", "GFLOP/s"], rows)


def grouped(records: list[dict], *names: str) -> Iterable[tuple[tuple, dict[str, dict]]]:
    """What records of a case have in common, and they by backend."""
    groups: dict[tuple, dict[str, dict]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in names), {})[record["backend"]] = record
    return groups.items()


def _number(record: dict, name: str, digits: int) -> str:
    return f"{record[name]:,.{digits}f}" if name in record else "-"


def _progress(done: int | None) -> None:
    if sys.stderr.isatty():
        print("\r\033[K" if done is None else f"\r{done} records", end="", file=sys.stderr, flush=True)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks operations", description=__doc__.splitlines()[0])
    operations = sorted(TIMED)
    parser.add_argument("--op", nargs="+", choices=operations, default=operations, metavar="NAME", help="default: all")
    names = list(CONFIGURATIONS)
    parser.add_argument("--config", nargs="+", choices=names, default=names[:1], help="sizes (default: %(default)s)")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--sentences", nargs="+", type=positive, default=list(BATCHES), help="default: %(default)s")
    batch.add_argument(
        "--lengths", nargs="+", type=positive, metavar="L", help="instead: a batch of these many tokens each"
    )
    parser.add_argument("--channels", type=positive, metavar="C", help="heads times their size (default: --config's)")
    parser.add_argument("--heads", type=positive, metavar="H", help="default: --config's")
    parser.add_argument("--vocabulary", type=positive, metavar="V", help="default: --config's")
    parser.add_argument("--rows", type=positive, metavar="N", help="of operations on rows (default: the sentences')")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="default: float32")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    about = "; ".join(f"{name}: {what}" for name, what in PEERS.items())
    about += "; FILE.py: your functions, named after operations"
    parser.add_argument("--peer", nargs="+", type=_peer, metavar="PEER", help=f"{about} (default: torch; on a GPU all)")
    parser.add_argument("--threads", type=int, default=0, help="default: as many as torch takes")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each record (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all records")
    chosen = parser.parse_args(argv)
    for name in chosen.config:
        channels, heads = chosen.channels or CONFIGURATIONS[name].channels, chosen.heads or CONFIGURATIONS[name].heads
        if channels % heads:
            parser.error(f"argument --channels: must be a multiple of heads = {heads}, got {channels}")
    if chosen.vocabulary and chosen.vocabulary < 2 * BEAM:
        parser.error(f"argument --vocabulary: must be at least {2 * BEAM}, got {chosen.vocabulary}")
    return chosen


def _peer(text: str) -> tuple[str, dict[str, Callable]]:
    """One of ``PEERS``; or the name of a Python file, and its functions that are named after operations."""
    if text in PEERS:
        return text, {}
    file = Path(text)
    if file.suffix != ".py" or not file.is_file():
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(PEERS)}, or a Python file, got {text!r}")
    if file.stem in (*PEERS, *KERNELS):
        raise argparse.ArgumentTypeError(f"must be a file of another name than a peer or backend, got {text!r}")
    specification = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    functions = {name: getattr(module, name) for name in OPERATIONS if hasattr(module, name)}
    if not functions:
        raise argparse.ArgumentTypeError(f"must hold a function named after an operation, got none in {text!r}")
    return file.stem, functions
