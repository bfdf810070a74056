"""Times a whole training step beside the authors' way in plain PyTorch, and measures the memory that it takes.

The step is an update of JANUS on 39 sentence pairs, in which each stream could predict 1,014 target tokens: forward
and backward pass, clipping, Adam. The peer (``benchmarks/peers/padded_janus.py``) computes in float32, whatever
``--dtype``; it runs as it comes, and with an allocator that keeps memory between steps, and its better time counts.
Each contender is a process of its own, in turn. Memory is the most that such a process has resident, from its start to
the end of its last step, above an interpreter with torch: weights, gradients, Adam's moments and what steps need, of
the peer with the allocator as it is.

Nothing is timed whose loss or gradients are wrong. From the same weights and batch, and with a dropout that drops
nothing, they may differ from those in float64 as far as ``benchmarks/budget.py`` says of what the peer's do in the same
dtype; of gradients the errors of all layers are taken together, parameter by parameter. Gradients are those of a model
with GELU in place of ReLU, which rounding can switch; losses are compared with either.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arguments import positive
from benchmarks.budget import allowed
from benchmarks.machine import RESULTS, machine
from benchmarks.peers.training import PREDICTED, SENTENCES
from benchmarks.process import KEEPING, Process
from benchmarks.training.training_report import line, write
from benchmarks.workload import CONFIGURATIONS

DTYPES = ("float32", "bfloat16")
NO_DROPOUT = 2.0**-40  # goes the way of any other, and drops nothing
TABLE = [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]
PEERS = {"eager": {}, "eager_keeping": KEEPING}  # and the environment that each wants


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    records = []
    asked = [(arguments.dtype, arguments.checkpoint_activations)] if arguments.dtype else TABLE
    for dtype, again in asked:
        records.append(measure(dtype, again, arguments))
        if "wrong" in records[-1]:
            print(f"WRONG: {records[-1]['wrong']}", file=sys.stderr)
        elif arguments.json != "-":
            print(line(records[-1]), flush=True)
    circumstances = machine(arguments.threads)
    wrong = any("wrong" in record for record in records)
    if not arguments.dtype and not wrong:  # a table with gaps replaces none
        write({"machine": circumstances, "records": records}, arguments.results)
    elif arguments.json:
        text = json.dumps({**records[0], "machine": circumstances}, indent=1) + "\n"
        sys.stdout.write(text) if arguments.json == "-" else Path(arguments.json).write_text(text)
    return int(wrong)


def measure(dtype: str, again: bool, arguments: argparse.Namespace) -> dict:
    """``seconds`` and ``peak_bytes``, ``eager_seconds`` and ``eager_peak_bytes``; or what is ``wrong``, untimed."""
    common = {"config": arguments.config, "threads": arguments.threads}
    record = {
        **common, "dtype": dtype, "checkpoint_activations": again, "sentences": SENTENCES,
        "target_tokens": PREDICTED, "dropout": arguments.dropout,
    }  # fmt: skip
    common["checkpoint_activations"] = again
    record["gate"], wrong = gate({**common, "dropout": NO_DROPOUT}, dtype)
    if wrong:
        return {**record, "wrong": wrong}
    job = {**common, "dropout": arguments.dropout, "results": None, "profile": False}
    with ExitStack() as stack:
        own = {**job, "name": "janus_fast", "dtype": dtype}
        with Process("benchmarks.peers.training", {**own, "profile": True}) as process:
            profile = process.facts["profile"]
        processes = {"janus_fast": stack.enter_context(Process("benchmarks.peers.training", own))}
        for name, environment in PEERS.items():
            process = Process("benchmarks.peers.training", {**job, "name": "eager", "dtype": "float32"}, environment)
            processes[name] = stack.enter_context(process)
        samples = {name: [] for name in processes}
        for _ in range(arguments.rounds):
            for name, process in processes.items():
                process.seconds()  # finds another's data in the caches
                samples[name].append(process.seconds())
        peaks = {name: process.peak_bytes() - process.facts["idle_bytes"] for name, process in processes.items()}
    seconds = {name: statistics.median(times) for name, times in samples.items()}
    better = min(PEERS, key=seconds.get)
    return {
        **record, "seconds": seconds["janus_fast"], "eager_seconds": seconds[better], "better_peer": better,
        "speedup": seconds[better] / seconds["janus_fast"],
        "peak_bytes": peaks["janus_fast"], "eager_peak_bytes": peaks["eager"],
        "peers": {name: {"seconds": seconds[name], "peak_bytes": peaks[name]} for name in PEERS},
        "samples": samples, "profile": profile,
    }  # fmt: skip


def gate(job: dict, dtype: str) -> tuple[dict, str | None]:
    """By what share of what is allowed the worst loss or gradient differs from the truth; and what is wrong."""
    with tempfile.TemporaryDirectory(prefix="janus_fast-") as directory:

        def run(name: str, dtype: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            results = f"{directory}/{name}-{dtype}"
            with Process("benchmarks.peers.training", {**job, "name": name, "dtype": dtype, "results": results}):
                return torch.load(results)

        truth, by_torch, found = run("eager", "float64"), run("eager", dtype), run("janus_fast", dtype)
    if differing := found[1].keys() ^ truth[1].keys():
        return {}, f"janus_fast: gradients must be of the parameters of the peer, and differ in {sorted(differing)}"
    errors, of_torch, dtype = errors_of(found, truth), errors_of(by_torch, truth), getattr(torch, dtype)
    shares = {what: error / allowed(of_torch[what][0], size, dtype) for what, (error, size) in errors.items()}
    worst = max(shares, key=shares.get)
    wrong = None
    if not all(share <= 1 for share in shares.values()):
        wrong = f"janus_fast: {worst} must be as near to the truth as allowed, got {shares[worst]:.2f} times the error"
    return {"worst": worst, "share_of_allowed": shares[worst]}, wrong


def errors_of(found: tuple, truth: tuple) -> dict[str, tuple[float, float]]:
    """Lengths of the error and of the truth: of losses, and of the gradients of each kind of parameter."""
    (losses, gradients), (true_losses, true_gradients) = found, truth
    squares = defaultdict(lambda: [0.0, 0.0])
    for name, gradient in gradients.items():
        kind = squares["gradient of " + re.sub(r"\.\d+\.", ".*.", name)]
        kind[0] += (gradient.double() - true_gradients[name]).square().sum().item()
        kind[1] += true_gradients[name].square().sum().item()
    result = {kind: (error**0.5, size**0.5) for kind, (error, size) in squares.items()}
    pairs = {name: (losses[name].item(), truth.item()) for name, truth in true_losses.items()}
    return {f"loss with {name}": (abs(loss - truth), abs(truth)) for name, (loss, truth) in pairs.items()} | result


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGURATIONS, default="iwslt", help="sizes (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of janus_fast; default: each, in a table that is written")
    parser.add_argument("--checkpoint-activations", action="store_true", help="as of janus-fast train")
    parser.add_argument("--dropout", type=float, default=0.3, help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=2, help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help='write the record of --dtype; "-" prints it alone')
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the table goes")
    arguments = parser.parse_args(argv)
    if (arguments.json or arguments.checkpoint_activations) and not arguments.dtype:
        arguments.dtype = "float32"
    usual = all(getattr(arguments, name) == parser.get_default(name) for name in ("config", "dropout"))
    if not arguments.dtype and not usual and arguments.results == RESULTS:
        parser.error("--results must say where a table with other --config or --dropout goes, beside the usual one")
    return arguments
