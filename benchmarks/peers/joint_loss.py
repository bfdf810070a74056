"""One way to compute the joint loss, in a process of its own: janus_fast, or PyTorch, eager or compiled; or of one
stream the cross-entropy alone, which PyTorch can compute without all logits at once, too.

A step is one forward and backward pass. The first two happen before anything is timed: the second tells the memory, and
its loss and gradients are written down to be checked.
"""

import ctypes

import torch
from torch import Tensor

from benchmarks.machine import resident
from benchmarks.process import serve

STREAMS = ("ar", "nar", "aux")
Rows = dict[str, Tensor]


def inputs(
    rows: int, vocabulary: int, channels: int, dtype: str, streams: tuple[str, ...] = STREAMS
) -> tuple[Rows, Tensor, Rows, Tensor]:
    """Hidden rows, output matrix, targets and ``ar_masked`` of ``rows`` positions, at all of which J compares."""
    make = torch.Generator().manual_seed(0)
    hidden = {s: torch.randn(rows, channels, generator=make).to(getattr(torch, dtype)) for s in streams}
    weight = (torch.randn(vocabulary, channels, generator=make) * channels**-0.5).to(getattr(torch, dtype))
    targets = {s: torch.randint(vocabulary, (rows,), generator=make) for s in streams}
    return hidden, weight, targets, torch.randperm(rows, generator=make)


def by_torch(hidden: Rows, weight: Tensor, targets: Rows, ar_masked: Tensor) -> Tensor:
    """What takes PyTorch least time: each log-softmax and its exponential once."""
    log_p = {s: torch.nn.functional.linear(hidden[s], weight).log_softmax(-1) for s in STREAMS}
    smoothed = {s: 0.9 * torch.nn.functional.nll_loss(log_p[s], targets[s]) - 0.1 * log_p[s].mean() for s in STREAMS}
    log_p["ar"] = log_p["ar"][ar_masked]
    p = {s: log_p[s].exp() for s in STREAMS}

    def divergence(s: str, t: str) -> Tensor:
        return 0.5 * ((p[s] - p[t]) * (log_p[s] - log_p[t])).sum() / len(ar_masked)

    cross_entropies = smoothed["ar"] + 0.5 * (smoothed["nar"] + smoothed["aux"])
    return cross_entropies + divergence("ar", "nar") + 3 * divergence("ar", "aux") + divergence("nar", "aux")


def in_chunks(hidden: Rows, weight: Tensor, targets: Rows, ar_masked: Tensor) -> Tensor:
    """PyTorch's own loss that holds logits of some rows at a time, which has no label smoothing."""
    options = torch.nn.LinearCrossEntropyOptions()
    (rows,), (wanted,) = hidden.values(), targets.values()
    return torch.nn.functional.linear_cross_entropy(rows, weight, wanted, options=options)


def by_janus_fast(hidden: Rows, *arguments) -> Tensor:
    from janus_fast import joint_loss

    return joint_loss(hidden, *arguments, label_smoothing=smoothing(hidden))[0]


def smoothing(streams) -> float:
    return 0.0 if len(streams) == 1 else 0.1


LOSSES = {"janus_fast": by_janus_fast, "eager": by_torch, "compiled": by_torch, "in chunks": in_chunks}


def prepare(job: dict):
    torch.set_num_threads(job["threads"])
    hidden, weight, targets, ar_masked = inputs(*job["case"])
    if job["name"] != "janus_fast":
        hidden, weight = {s: rows.float() for s, rows in hidden.items()}, weight.float()
    loss, leaves = LOSSES[job["name"]], [*hidden.values(), weight]
    if job["name"] == "compiled":
        loss = torch.compile(loss)
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        total = loss(hidden, weight, targets, ar_masked)
        total.backward()
        return total.detach()

    step()
    for leaf in leaves:
        leaf.grad = None
    before = _settle()
    total = step()
    peak = resident(field="VmHWM") - before - sum(leaf.grad.nbytes for leaf in leaves)
    if job["results"]:
        torch.save([total, *(leaf.grad for leaf in leaves)], job["results"])
    return lambda: step() and None, {"peak_bytes": peak}


def _settle() -> int:
    """Gives back what is not in use; from here on the system's peak counts anew. The bytes in memory."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident()


if __name__ == "__main__":
    serve(prepare)
