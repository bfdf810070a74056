"""Times the joint loss, forward and backward, beside plain PyTorch, and measures the memory that it takes.

With ``--cross-entropy`` it is the part of it for which PyTorch has a function that holds logits of some rows at a time,
``linear_cross_entropy`` with ``LinearCrossEntropyOptions``: the cross-entropy of one stream, without label smoothing.

PyTorch, eager and compiled, gets the same numbers in float32, whatever ``--dtype``. Each contender runs in a process of
its own, in turn, with an allocator that keeps memory between steps (without, PyTorch spends much of its time on page
faults); times are medians. Memory is the most that a step has resident above its inputs and gradients, with the
system's allocator as it is. Nothing is timed whose loss or gradients are wrong.
"""

import argparse
import tempfile
from contextlib import ExitStack

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.arguments import add_usual, positive
from benchmarks.budget import allowed, error, largest
from benchmarks.machine import RESULTS
from benchmarks.peers.joint_loss import STREAMS, inputs, smoothing
from benchmarks.process import KEEPING, Process
from benchmarks.turns import beside_eager
from janus_fast import reference
from janus_fast.ops.joint_loss import CROSS_ENTROPY, DIVERGENCE

DTYPES = ("float32", "bfloat16")
TABLE = [
    *((rows, vocabulary, dtype) for rows, vocabulary in ((1024, 32_000), (512, 10_000)) for dtype in DTYPES),
    *((1024, 32_000, dtype, True) for dtype in DTYPES),
]  # rows of each stream, words, type, and whether it is the cross-entropy of one stream alone
PEERS, IN_CHUNKS = ("eager", "compiled"), "in chunks"
# PyTorch's products may add up the terms of all tokens one after another, which errs more than sums in blocks do: by
# this many times sqrt(terms) roundings of the terms' sum, but for one case in a billion (Higham and Mary 2019).
CHAIN = 6
SUM_OF_CHUNKS = 1.3e-6  # of a loss, what torch.testing allows: PyTorch adds up those of its chunks in float32
ROWS = 192  # of all streams together, of which the definition holds logits at once


ABOUT = """\
The loss of three streams over a shared output matrix, forward and backward: three cross-entropies with label smoothing,
three symmetric divergences. PyTorch gets the same numbers in float32, whatever the type of janus_fast. Times are
medians of {rounds} steps, of processes that run in turn and keep memory between steps; memory is the most that a step
has resident above its inputs and gradients, with the allocator as it comes.
"""


CROSS_ENTROPY_ABOUT = """\
The cross-entropy of one stream, without label smoothing, forward and backward; PyTorch's is `linear_cross_entropy` in
chunks, as `LinearCrossEntropyOptions` chooses them, in float32.
"""


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    asked = _asked(arguments)
    records = report.told((measure(arguments, *each) for each in asked or TABLE), line, arguments)
    return report.publish("joint_loss", {"records": records}, arguments, markdown, alone=bool(asked))


def _asked(arguments: argparse.Namespace) -> list[tuple]:
    """The one case that is named, if any is."""
    alone = arguments.cross_entropy
    if not any((arguments.rows, arguments.vocabulary, arguments.dtype, arguments.json, alone)):
        return []
    return [(arguments.rows or 512, arguments.vocabulary or 10_000, arguments.dtype or "float32", alone)]


def measure(arguments: argparse.Namespace, rows: int, vocabulary: int, dtype: str, alone: bool = False) -> dict:
    """``seconds`` and ``peak_bytes``, the better peer's ``eager_seconds`` and the first peer's ``eager_peak_bytes``."""
    case = rows, vocabulary, arguments.channels, dtype
    record = dict(zip(("rows", "vocabulary", "channels", "dtype"), case, strict=True), threads=arguments.threads)
    streams = STREAMS[:1] if alone else STREAMS
    record |= {"cross_entropy": True} if alone else {}
    case, names = (*case, streams), ("loss", *(f"gradient of {name}" for name in (*streams, "weight")))
    peaks, expected = {}, budget(*case)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="janus_fast-"))
        job = {"case": case, "threads": arguments.threads}
        for name in ("janus_fast", *((IN_CHUNKS,) if alone else arguments.peer)):
            results = f"{directory}/{name}"
            with Process("benchmarks.peers.joint_loss", {**job, "name": name, "results": results}) as process:
                peaks[name] = process.facts["peak_bytes"]
            for what, found, (truth, limit) in zip(names, torch.load(results), expected, strict=True):
                off = error(found, truth)
                if (name, what) == (IN_CHUNKS, "loss"):
                    limit = max(limit, SUM_OF_CHUNKS * truth.item())
                if name != "janus_fast" and what.removeprefix("gradient of ") in streams:
                    limit = max(limit, _chain_of_tokens(*case))
                if not off <= limit:
                    return {**record, "wrong": f"{name}: {what} must be within {limit:.3g} of the truth, got {off:.3g}"}
        del expected
        job["results"] = None
        processes = {
            name: stack.enter_context(Process("benchmarks.peers.joint_loss", {**job, "name": name}, KEEPING))
            for name in peaks
        }
        return {**record, **beside_eager(processes, arguments.rounds, lambda: peaks)}


def _chain_of_tokens(rows: int, vocabulary: int, channels: int, dtype: str, streams=STREAMS) -> float:
    """How far a float32 gradient of hidden rows may be whose sum over the tokens is one chain. In a cross-entropy's the
    factors of the output matrix, p - 1 and p, add up to 2 at most; divergences add little to that here."""
    _, weight, *_ = inputs(rows, vocabulary, channels, dtype, streams)
    size = 2 * largest(weight) / rows
    return CHAIN * vocabulary**0.5 * torch.finfo(torch.float32).eps / 2 * size


def budget(rows: int, vocabulary: int, channels: int, dtype: str, streams=STREAMS) -> list[tuple[Tensor, float]]:
    """Loss and gradients by definition in float64, and how far a result may be from each.

    That is what :mod:`benchmarks.budget` says, in the dtype at hand.
    """
    hidden, weight, *rest = inputs(rows, vocabulary, channels, dtype, streams)
    truths = definition({s: t.double() for s, t in hidden.items()}, weight.double(), *rest)
    result = []
    for truth, rounded in zip(truths, definition(hidden, weight, *rest), strict=True):
        result.append((truth, allowed(error(rounded, truth), largest(truth), weight.dtype)))
    return result


def definition(hidden, weight, targets, ar_masked) -> list[Tensor]:
    """Loss and gradients in the dtype of the arguments, of a few positions at a time; added up in float64."""
    rows, streams = len(ar_masked), tuple(hidden)
    weights = [CROSS_ENTROPY[s] for s in streams]
    tied = DIVERGENCE if streams == STREAMS else {}
    pairs = [streams.index(s) for pair in tied for s in pair]
    total, by_weight = torch.zeros((), dtype=torch.float64), torch.zeros(weight.shape, dtype=torch.float64)
    by_hidden = {s: torch.zeros(hidden[s].shape, dtype=torch.float64) for s in streams}
    for chunk in torch.arange(rows).split(ROWS // len(streams)):
        count, index = len(chunk), {"ar": ar_masked[chunk] if tied else chunk, "nar": chunk, "aux": chunk}
        loss, _, *gradients = reference.joint_loss(
            torch.cat([hidden[s][index[s]] for s in streams]), weight,
            torch.cat([targets[s][index[s]] for s in streams]), torch.arange(count), [count] * len(streams), weights,
            pairs, list(tied.values()), [-1] * len(tied), smoothing(streams), True,
        )  # fmt: skip
        total += loss * (count / rows)
        by_weight += gradients[1].double() * (count / rows)
        for s, gradient in zip(streams, gradients[0].split(count), strict=True):
            by_hidden[s][index[s]] = gradient.double() * (count / rows)
    return [total, *by_hidden.values(), by_weight]


def line(record: dict) -> str:
    what = f"{record['rows']:,} rows a stream, {record['vocabulary']:,} tokens, {record['dtype']}"
    what += ", cross-entropy alone" if "cross_entropy" in record else ""
    if "wrong" in record:
        return f"{what}: wrong"
    own, eager = (f"{record[name] / 2**20:.1f}" for name in ("peak_bytes", "eager_peak_bytes"))
    return (
        f"{what}: {record['seconds']:.3f} s, PyTorch ({record['better_peer']}) {record['eager_seconds']:.3f} s, "
        f"{record['speedup']:.2f} times as fast; {own} MiB, PyTorch {eager} MiB"
    )


def markdown(results: dict) -> str:
    records = [record for record in results["records"] if "seconds" in record]
    joint = [record for record in records if "cross_entropy" not in record]
    alone = [record for record in records if "cross_entropy" in record]
    return report.markdown(
        "The joint loss", ABOUT.format(rounds=report.rounds(records)),
        report.place(results["machine"], f"PyTorch {results['machine']['torch']}"), table(joint),
        *((CROSS_ENTROPY_ABOUT, table(alone)) if alone else ()),
    )  # fmt: skip


def table(records: list[dict]) -> str:
    peers = list(dict.fromkeys(name for record in records for name in record["peers"]))
    header = ["rows a stream", "vocabulary", "channels", "janus_fast in", "s"]
    header += [cell for name in peers for cell in (f"PyTorch, {name}", "x")]
    header += ["MiB", *(f"PyTorch, {name}" for name in peers)]
    rows = []
    for record in records:
        cells = [f"{record[name]:,}" for name in ("rows", "vocabulary", "channels")]
        cells += [record["dtype"], f"{record['seconds']:.3f}"]
        for name in peers:
            seconds = record["peers"][name]["seconds"]
            cells += [f"{seconds:.3f}", f"{seconds / record['seconds']:.2f}"]
        peaks = [record["peak_bytes"], *(record["peers"][name]["peak_bytes"] for name in peers)]
        rows.append(cells + [f"{peak / 2**20:,.0f}" for peak in peaks])
    return report.table(header, rows, "r")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks joint_loss", description=__doc__.splitlines()[0])
    one = "--rows, --vocabulary, --dtype, --cross-entropy and --json"
    parser.epilog = f"Without {one}, six cases are measured and a table is written."
    parser.add_argument("--cross-entropy", action="store_true", help="of one stream alone, beside linear_cross_entropy")
    parser.add_argument("--rows", type=positive, help="of each of the three streams, or of the one (default: 512)")
    parser.add_argument("--vocabulary", type=positive, help="default: 10000")
    parser.add_argument("--dtype", choices=DTYPES, help="of janus_fast's inputs (default: float32)")
    parser.add_argument("--channels", type=positive, default=512, help="default: %(default)s")
    add_usual(parser, threads=torch.get_num_threads())
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=PEERS, help="of the joint loss (default: both)")
    arguments = parser.parse_args(argv)
    if not _asked(arguments) and arguments.channels != 512 and arguments.results == RESULTS:
        parser.error("--results must say where a table with other --channels goes, beside the usual one")
    return arguments
