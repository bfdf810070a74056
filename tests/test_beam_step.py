"""A step of beam search: what a search keeps of itself, and what it refuses."""

import re
from pathlib import Path

import emulated
import pytest
import torch
from errors import assert_refused

from janus_fast import ops
from janus_fast.ops.beam_step import MOST_BEAMS, MOST_CANDIDATES, spoil_unread
from janus_fast.reference import BeamState

EOS, NAN, INF = 2, float("nan"), float("inf")
IN_EMULATOR = pytest.param(
    "emulator",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one"),
    ],
)
BACKENDS = [*ops.backends("beam_step"), IN_EMULATOR]


def run(backend, log_probs, ids, state, seed=1):
    if backend == "emulator":
        emulated.beam_step(emulated.Emulator(seed), log_probs, ids, EOS, *state)
    else:
        ops.beam_step(log_probs, ids, state, eos=EOS, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hypotheses_see_and_hold_what_they_descend_from(backend):
    """Tokens name the step, the row and the choice that they come from, so they tell where a hypothesis has been."""
    sentences, beams, choices, steps = 3, 4, 5, 12
    make, state = torch.Generator().manual_seed(2), BeamState.new(sentences, steps, beams)
    rows = [[[]] * beams] * sentences  # that a hypothesis has gone through
    pasts = [[[]] * beams] * sentences
    finished = 0
    for step in range(steps):
        names = 10 + step * 100 + torch.arange(beams)[:, None] * 10 + torch.arange(choices)
        ids = names.repeat(sentences, 1, 1)
        ids[torch.rand(ids.shape, generator=make) < 0.1] = EOS
        log_probs = -torch.rand(ids.shape, generator=make)
        going = (state.steps < steps).tolist()
        absent = (state.totals == -INF) | (state.steps == steps)[:, None]
        ids[absent], log_probs[absent] = EOS, 100.0
        spoil_unread(state)
        run(backend, log_probs, ids, state, seed=step)
        for s in range(sentences):
            if not going[s]:
                continue
            for i in range(int(state.finished_count[s])):
                if (length := int(state.finished_lengths[s, i])) == step:
                    finished += 1
                    assert state.finished_tokens[s, i, :length].tolist() in pasts[s]
                    scores = state.finished_scores[s, i, : length + 1]
                    assert state.finished_totals[s, i].item() == pytest.approx(scores.sum().item(), abs=1e-5)
            if state.steps[s] == steps:
                continue
            tokens = state.tokens[s].tolist()
            alive = [b for b in range(beams) if tokens[b] != EOS]
            origins = [(tokens[b] - 10) % 100 // 10 if b in alive else 0 for b in range(beams)]
            rows[s] = [[*rows[s][origin], origin] for origin in origins]
            pasts[s] = [[*pasts[s][origin], token] for origin, token in zip(origins, tokens, strict=True)]
            for b in alive:
                time = state.times[s, b]
                sees = (state.visible_from[s] <= time) & (time < state.visible_until[s])
                expected = [*rows[s][b], b]
                assert [row.nonzero().flatten().tolist() for row in sees[: step + 2]] == [[row] for row in expected]
                assert state.slots[s, : step + 2, b].tolist() == expected
                written = state.history_tokens[s, range(step + 1), expected[1:]]
                assert written.tolist() == pasts[s][b]
    assert finished > 3 and state.remaining.item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_a_candidate_is_not_a_number_a_sentence_has_no_output(backend):
    """Even one that has finished a hypothesis before, and however bad the others are: the search must not go on."""
    state = BeamState.new(2, 5, 2)
    ids, log_probs = torch.tensor([[[EOS, 5], [6, 7]]] * 2), torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]] * 2)
    run(backend, log_probs, ids, state)
    assert state.finished_count.tolist() == [1, 1] and state.remaining.item() == 2
    log_probs[0, 1, 1] = NAN
    state.totals[0] = torch.tensor([-1.0, -INF])
    run(backend, log_probs, ids, state)
    assert state.finished_count.tolist() == [0, 2] and state.steps.tolist() == [5, 5] and state.remaining.item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_id_of_the_same_lower_bits_as_eos_ends_nothing(backend):
    state = BeamState.new(1, 4, 2)
    ids = torch.tensor([[[2**32 + EOS, EOS, 5], [6, 7, 8]]])
    run(backend, torch.tensor([[[-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]]]), ids, state)
    assert state.finished_count.tolist() == [1] and state.finished_totals[0, 0] == -2.0
    assert state.tokens.tolist() == [[2**32 + EOS, 5]] and state.totals.tolist() == [[-1.0, -3.0]]


@pytest.mark.parametrize("backend", [IN_EMULATOR])
@pytest.mark.parametrize(
    "field, value", [("steps", -1), ("finished_count", -2), ("finished_count", 9), ("slots", -3), ("slots", 1 << 28)]
)
def test_a_state_out_of_range_stays_within_its_sentence(field, value, backend):
    """A GPU cannot complain; the memory before that of the second sentence is the first one's, which is done."""
    state = BeamState.new(2, 6, 3)
    state.history_tokens.fill_(7)
    state.history_tokens[0].fill_(1000)
    state.steps.copy_(torch.tensor([6, 3]))
    state.totals.zero_()
    getattr(state, field)[1] = value
    before = [tensor[0].clone() for tensor in state]
    ids, log_probs = torch.full((2, 3, 4), 5), -torch.rand(2, 3, 4)
    ids[:, :, 0] = EOS
    run(backend, log_probs, ids, state)
    for name, old, new in zip(state._fields[:-1], before, state, strict=False):
        assert torch.equal(old, new[0]), name
    assert 0 <= state.finished_count[1] <= 6 and not (state.finished_tokens == 1000).any()


def test_the_limits_are_the_kernel_s():
    text = (Path(__file__).parents[1] / "kernels/beam_step.h").read_text()
    beams, shift, size = map(
        int, re.search(r"kMostBeams = (\d+), kMostCandidates = \((\d+) << 10\) / (\d+);", text).groups()
    )
    assert (MOST_BEAMS, MOST_CANDIDATES) == (beams, (shift << 10) // size)


def step(log_probs=None, ids=None, spoil=lambda state: state):
    shape = (1, 3, 4)
    log_probs = torch.zeros(shape) if log_probs is None else log_probs
    ids = torch.zeros(shape, dtype=torch.int64) if ids is None else ids
    ops.beam_step(log_probs, ids, spoil(BeamState.new(1, 6, 3)), eos=EOS)


def with_value(field, value, *place):
    def spoil(state):
        state.steps.fill_(2)
        getattr(state, field)[(0, *place)] = value
        return state

    return spoil


ERRORS = {
    "two dimensions": (
        lambda: step(torch.zeros(3, 4)), ValueError, "beam_step: log_probs must have shape [S, B, K], got [3, 4]",
    ),
    "other ids": (
        lambda: step(ids=torch.zeros(1, 3, 5, dtype=torch.int64)), ValueError,
        "beam_step: ids must be contiguous, of shape [1, 3, 4], got [1, 3, 5]",
    ),
    "ids of another type": (
        lambda: step(ids=torch.zeros(1, 3, 4, dtype=torch.int32)), TypeError,
        "beam_step: ids must be torch.int64, got torch.int32",
    ),
    "log-probabilities of another type": (
        lambda: step(torch.zeros(1, 3, 4).double()), TypeError,
        "beam_step: log_probs must be torch.float32, got torch.float64",
    ),
    "a state of another size": (
        lambda: step(spoil=lambda state: state._replace(totals=torch.zeros(1, 2))), ValueError,
        "beam_step: totals must be contiguous, of shape [1, 3], got [1, 2]",
    ),
    "a slot of the first position that is none": (
        lambda: step(spoil=with_value("slots", 1 << 28, 0, 1)), RuntimeError,
        "beam_step: slots must be in [0, 3), got 268435456 of sentence 0",
    ),
    "a slot of the last position that is none": (
        lambda: step(spoil=with_value("slots", -1, 1, 2)), RuntimeError,
        "beam_step: slots must be in [0, 3), got -1 of sentence 0",
    ),
    "a negative number of steps": (
        lambda: step(spoil=with_value("steps", -1)), RuntimeError,
        "beam_step: steps and finished_count must be in range, got -1 and 0 of sentence 0",
    ),
    "a negative number of finished hypotheses": (
        lambda: step(spoil=with_value("finished_count", -1)), RuntimeError,
        "beam_step: steps and finished_count must be in range, got 2 and -1 of sentence 0",
    ),
    "more finished hypotheses than beams": (
        lambda: step(spoil=with_value("finished_count", 4)), RuntimeError,
        "beam_step: steps and finished_count must be in range, got 2 and 4 of sentence 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_is_wrong(case):
    assert_refused(*ERRORS[case])
