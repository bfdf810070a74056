"""One step of beam search: from what may follow each hypothesis to the next hypotheses."""

import torch
from torch import Tensor

from janus_fast import reference
from janus_fast.ops import _check
from janus_fast.ops._operation import Operation
from janus_fast.reference.beam_step import BeamState

MOST_BEAMS, MOST_CANDIDATES = 32, (96 << 10) // 4  # of a sentence, for the CUDA kernel


def beam_step(log_probs: Tensor, ids: Tensor, state: BeamState, *, eos: int, backend: str = "auto") -> None:
    """Continues every hypothesis by a token, finishes those that end, and writes ``state`` in place.

    For each of S sentences that is not done, of the B * K candidates

        totals = state.totals[:, None] + log_probs       # [B, K], a continuation of each hypothesis by each token
        kept = the 2 * B best (among equals the earlier)
        finished += those among the first B of kept that end and are finite
        hypotheses = the B best others of kept; if there are too few, ended ones, whose total is minus infinity

    A sentence is done when B hypotheses or more are finished, after T steps, or, without any output, when a candidate
    is not a number. Of a hypothesis that is none (the first step has one alone) the total is minus infinity.

    Args:
        log_probs: [S, B, K] float32, B and K of at least 1; minus infinity where a token may not follow; in the last
            step of T, the end alone may.
        ids: [S, B, K] int64, tokens, below 2 ** 31: all of an id is compared with ``eos``, but the histories keep its
            lower 32 bits.
        state: a ``janus_fast.reference.BeamState``, whose fields say what they hold, from ``BeamState.new``.
        eos: the token that ends a hypothesis, from 0 to 2 ** 31 - 1.
        backend: "auto" or one of ``janus_fast.backends("beam_step", device)``.
    Raises:
        ValueError: shapes or devices differ, a field is not contiguous, or eos is out of range.
        TypeError: wrong dtype, a tensor is sparse, ``state`` is something else, or eos is no integer.
        NotImplementedError: the named backend cannot run this call.
        RuntimeError (native): what the state holds is out of range, on the CPU. On a GPU nothing outside the state is
            written then, but what the sentence holds is undefined.
    """
    op = "beam_step"
    _check.floating(op, "log_probs", log_probs)
    if not isinstance(state, BeamState):
        what = "a janus_fast.reference.BeamState, as BeamState.new makes it"
        raise TypeError(f"{op}: state must be {what}, got {type(state).__name__}")
    _check.token(op, "eos", eos)
    for name, tensor in (("ids", ids), *state._asdict().items()):
        _check.tensor(op, name, tensor)
    if log_probs.ndim != 3:
        raise ValueError(f"{op}: log_probs must have shape [S, B, K], got {list(log_probs.shape)}")
    if state.slots.ndim != 3:
        raise ValueError(f"{op}: slots must have shape [S, T, B], got {list(state.slots.shape)}")
    sizes = dict(zip("SBK", log_probs.shape, strict=True))
    _check.not_empty(op, "log_probs", log_probs, B=sizes["B"], K=sizes["K"])
    sizes |= {"T": state.slots.shape[1], "F": 2 * sizes["B"], "1": 1}
    fields = {"log_probs": (torch.float32, "S B K"), "ids": (torch.int64, "S B K"), **BeamState.fields()}
    for (name, (dtype, letters)), tensor in zip(fields.items(), (log_probs, ids, *state), strict=True):
        shape = [sizes[letter] for letter in letters.split()]
        if list(tensor.shape) != shape or not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, of shape {shape}, got {list(tensor.shape)}")
        if tensor.dtype != dtype:
            raise TypeError(f"{op}: {name} must be {dtype}, got {tensor.dtype}")
        _check.same(op, ("log_probs", log_probs), (name, tensor), dtype=False)
    operation.run(operation.choose(backend, log_probs, ids), log_probs, ids, eos, *state)


def _limits(backend, log_probs, *rest):
    if backend == "cuda" and log_probs.ndim == 3:
        _, beams, choices = log_probs.shape
        if beams > MOST_BEAMS:
            return f"a step of beam search takes at most {MOST_BEAMS} hypotheses, not {beams}"
        if beams * choices > MOST_CANDIDATES:
            return f"it takes at most {MOST_CANDIDATES} candidates of a sentence, not {beams * choices}"
    return None


def spoil_unread(state: BeamState) -> None:
    """Overwrites what a step must not read: of sentences that are done, and what is not written yet."""
    done = state.steps == state.slots.shape[1]
    unwritten = done[:, None] | (torch.arange(state.slots.shape[1]) >= state.steps[:, None])  # [S, T]
    unread = {"totals": done, "times": done}
    unread |= dict.fromkeys(("slots", "history_tokens", "history_scores"), unwritten)
    for name, field in state._asdict().items():
        if name not in ("steps", "finished_count", "remaining"):
            field[unread.get(name, ...)] = float("nan") if field.is_floating_point() else 10**6


def _samples():
    make, eos = torch.Generator().manual_seed(6), 2

    def case(sentences, beams, choices, steps, before, ending=0.3, spoil=None):
        """The state after some steps, with scores so coarse that sums are exact and many candidates are equal."""
        state, shape = BeamState.new(sentences, steps, beams), (sentences, beams, choices)
        for _ in range(before + 1):
            ids = torch.randint(3, 40, shape, generator=make)
            ids[..., 0] = torch.where(torch.rand(shape[:2], generator=make) < ending, eos, ids[..., 0])
            log_probs = -torch.randint(0, 12, shape, generator=make) / 4.0
            log_probs[torch.rand(shape, generator=make) < 0.1] = float("-inf")
            if int(state.steps.min() if sentences else 0) < before:
                reference.beam_step(log_probs, ids, eos, *state)
        absent = (state.totals == float("-inf")) | (state.steps == steps)[:, None]
        ids[absent], log_probs[absent] = eos, 100.0
        spoil_unread(state)
        if spoil is not None:
            log_probs[0, 0, 0] = spoil
        return log_probs, ids, eos, *state

    yield "odd_sizes", case(3, 5, 11, 9, 4)
    yield "first_step", case(4, 4, 9, 6, 0)
    yield "last_step", case(3, 3, 7, 5, 4, ending=0.1)
    yield "one_step_alone", case(3, 2, 4, 1, 0, ending=0.9)
    yield "greedy", case(5, 1, 3, 9, 3)
    yield "few_choices", case(3, 6, 1, 8, 3)
    yield "ends_everywhere", case(6, 4, 3, 12, 2, ending=1.0)
    yield "never_ends", case(2, 3, 6, 40, 35, ending=0.0)
    yield "many_beams", case(2, 32, 64, 7, 3, ending=0.1)
    yield "more_beams_than_the_gpu_takes", case(2, 41, 5, 5, 2)
    yield "no_sentences", case(0, 3, 4, 5, 0)
    yield "not_a_number", case(3, 3, 5, 6, 2, spoil=float("nan"))
    yield "infinite", case(3, 3, 5, 6, 2, spoil=float("inf"))
    log_probs, ids, *rest = case(3, 4, 6, 5, 1)
    yield "ids_that_end_in_eos", (log_probs, torch.where(ids == eos, ids, 2**32 + eos), *rest)
    yield "nothing_may_follow", (torch.full_like(log_probs, float("-inf")), ids, *rest)
    yield "many_positions", case(3, 7, 12, 40, 37, ending=0.2)


def _work(log_probs, ids, eos, steps, totals, tokens, slots, *rest):
    going = steps[steps < slots.shape[1]]
    # candidates; the table and intervals of the positions so far
    return totals.shape[1] * (12 * log_probs.shape[2] * going.numel() + 16 * int(going.sum())), 0


_STATE = ", ".join(f"Tensor({chr(ord('a') + i)}!) {name}" for i, name in enumerate(BeamState._fields))

operation = Operation(
    "beam_step",
    schema=f"(Tensor log_probs, Tensor ids, int eos, {_STATE}) -> ()",
    reference=reference.beam_step,
    fake=lambda *arguments: None,
    samples=_samples,
    work=_work,
    cpp_dtypes=(torch.float32,),
    cuda_dtypes=(torch.float32,),
    limits=_limits,
)
