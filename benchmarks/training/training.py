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
import re
import tempfile
from collections import defaultdict
from contextlib import ExitStack

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.arguments import add_usual
from benchmarks.budget import allowed
from benchmarks.machine import RESULTS
from benchmarks.peers.training import PREDICTED, SENTENCES
from benchmarks.process import KEEPING, Process
from benchmarks.turns import beside_eager
from benchmarks.workload import CONFIGURATIONS

DTYPES = ("float32", "bfloat16")
NO_DROPOUT = 2.0**-40  # goes the way of any other, and drops nothing
TABLE = [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]
PEERS = {"eager": {}, "eager_keeping": KEEPING}  # and the environment that each wants

KINDS = {  # of operators, by words in their names; the first that fits
    "joint loss": ("janus_fast::joint_loss",),
    "attention": ("janus_fast::attention",),
    "dropout and residuals": ("janus_fast::dropout_add",),
    "matrix products": ("::mm", "::addmm", "::linear", "::bmm"),
    "norms": ("layer_norm",),
    "Adam and clipping": ("adam", "linalg_vector_norm", "::mul_", "::stack"),
    "activations": ("threshold", "clamp_min", "relu", "gelu", "silu"),
    "sums of bias gradients": ("aten::sum",),
    "copies, casts and filling": ("copy_", "::fill_", "zero_", "::cat", "clone"),
}
ABOUT = """\
An update on 39 sentence pairs in which each stream could predict 1,014 target tokens: forward and backward pass,
clipping, Adam; dropout 0.3, random weights, a Transformer with 6+6 layers, width 512, feed-forward 1,024, 4 heads and
10,000 words. The peer is the authors' way in plain PyTorch, in float32 (`benchmarks/peers/padded_janus.py`): padded
batches and dense masks, two passes of the encoder, two of the decoder, logits of all rows. It runs as it comes and with
an allocator that keeps memory between steps, as janus_fast's trainer does but where activations are computed again.
Times are medians of {rounds} steps, of processes that run in turn; memory is the most that such a process has resident,
from its start on, above an interpreter with torch; PyTorch's with the allocator as it comes.
"""


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    asked = [(arguments.dtype, arguments.checkpoint_activations)] if arguments.dtype else TABLE
    records = report.told((measure(*each, arguments) for each in asked), line, arguments)
    return report.publish("training", {"records": records}, arguments, markdown, alone=bool(arguments.dtype))


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
        timed = beside_eager(
            processes, arguments.rounds,
            lambda: {name: process.peak_bytes() - process.facts["idle_bytes"] for name, process in processes.items()},
        )  # fmt: skip
    return {**record, **timed, "profile": profile}


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


def label(record: dict) -> str:
    return record["dtype"] + (", activations computed again" if record["checkpoint_activations"] else "")


def line(record: dict) -> str:
    what = f"{record['config']}, {label(record)}"
    if "wrong" in record:
        return f"{what}: wrong"
    own, eager = (f"{record[name] / 2**20:,.0f}" for name in ("peak_bytes", "eager_peak_bytes"))
    return (
        f"{what}: {record['seconds']:.2f} s an update, PyTorch {record['eager_seconds']:.2f} s, "
        f"{record['speedup']:.2f} times as fast; {own} MiB, PyTorch {eager} MiB"
    )


def by_kind(profile: list) -> dict[str, float]:
    """Seconds of each kind of operator, the longest first."""
    seconds = {}
    for name, _, own in profile:
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "everything else")
        seconds[kind] = seconds.get(kind, 0.0) + own
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def markdown(results: dict) -> str:
    records = [record for record in results["records"] if "seconds" in record]
    header = "janus_fast in", "s an update", "PyTorch", "x", "PyTorch, memory kept", "x", "MiB", "PyTorch", "x"
    rows = []
    for record in records:
        cells = [label(record), f"{record['seconds']:.2f}"]
        for name in PEERS:
            seconds = record["peers"][name]["seconds"]
            cells += [f"{seconds:.2f}", f"{seconds / record['seconds']:.1f}"]
        peaks = [record[name] / 2**20 for name in ("peak_bytes", "eager_peak_bytes")]
        rows.append([*cells, *(f"{peak:,.0f}" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"])
    profiles = []
    for record in (record for record in records if not record["checkpoint_activations"]):
        kinds = by_kind(record["profile"])
        shares = [(kind, f"{1e3 * s:.0f}", f"{100 * s / sum(kinds.values()):.0f} %") for kind, s in kinds.items()]
        profiles.append(f"Where the time goes in {label(record)}, under a profiler:")
        profiles.append(report.table(["", "ms", ""], shares, "lr"))
    return report.markdown(
        "A training step", ABOUT.format(rounds=report.rounds(records)),
        report.place(results["machine"], f"PyTorch {results['machine']['torch']}"),
        report.table(header, rows, "lr"), *profiles,
    )  # fmt: skip


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGURATIONS, default="iwslt", help="sizes (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of janus_fast; default: each, in a table that is written")
    parser.add_argument("--checkpoint-activations", action="store_true", help="as of janus-fast train")
    parser.add_argument("--dropout", type=float, default=0.3, help="default: %(default)s")
    add_usual(parser, json="the record of --dtype")
    arguments = parser.parse_args(argv)
    if (arguments.json or arguments.checkpoint_activations) and not arguments.dtype:
        arguments.dtype = "float32"
    usual = all(getattr(arguments, name) == parser.get_default(name) for name in ("config", "dropout"))
    if not arguments.dtype and not usual and arguments.results == RESULTS:
        parser.error("--results must say where a table with other --config or --dropout goes, beside the usual one")
    return arguments
