"""The mask update: what it keeps and tells, when a canvas settles, gradients, errors."""

import pytest
import torch
from errors import assert_refused

from janus_fast import ops
from janus_fast.packing import offsets_of


def offsets(*lengths):
    return offsets_of(torch.tensor(lengths, dtype=torch.int64))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_update_mask_keeps_its_arguments_and_tells_changes(backend):
    tokens, scores = torch.tensor([0, 9, 9, 2, 0, 3, 2]), torch.zeros(7)
    rows, predicted = torch.tensor([1, 2, 5]), torch.tensor([9, 8, 3])
    before = [t.clone() for t in (tokens, scores)]
    out = ops.update_mask(
        tokens, scores, rows, predicted, torch.tensor([-1.0, -2.0, -3.0]), offsets(4, 3), ratio=0.5, mask_token=3,
        backend=backend,
    )  # fmt: skip
    assert torch.equal(tokens, before[0]) and torch.equal(scores, before[1])
    assert out[0].tolist() == [0, 9, 8, 2, 0, 3, 2]
    assert out[1].tolist() == [0, -1, -2, 0, 0, -3, 0]
    assert out[2].tolist() == [2, 5]  # the less certain of two words; a predicted mask, though trunc(1 * 0.5) is 0
    assert out[3].tolist() == [True, False]


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_a_canvas_settles_that_does_not_change_and_has_few_masks(backend):
    tokens, scores = torch.tensor([0, 5, 6, 7, 8, 9, 2] * 2), torch.zeros(14)
    state = {"ratio": 0.3, "mask_token": 3, "adaptive": True, "backend": backend}
    rows, sure = torch.tensor([1, 8]), torch.tensor([-1.0, -2.0])
    where = offsets(7, 7)
    first = ops.update_mask(tokens, scores, rows, torch.tensor([5, 7]), sure, where, static=True, **state)
    assert first.changed.tolist() == [False, True]
    assert first.rows.tolist() == [8] + [0] * 13 and first.row_offsets.tolist() == [0, 0, 1]
    assert first.masked_tokens.tolist() == [0, 5, 6, 7, 8, 9, 2, 0, 3, 6, 7, 8, 9, 2]
    assert first.tokens.tolist() == [0, 5, 6, 7, 8, 9, 2, 0, 7, 6, 7, 8, 9, 2] and first.not_finite.tolist() == [0]
    again = [first.tokens, first.scores, first.rows, torch.full((14,), 7), torch.full((14,), float("nan")), where]
    assert ops.update_mask(*again, row_offsets=first.row_offsets, **state)[2].tolist() == []
    second = ops.update_mask(*again, row_offsets=first.row_offsets, static=True, **state)
    assert second.changed.tolist() == [False, False] and second.not_finite.tolist() == [1]
    state["adaptive"] = False  # one that is done stays so
    assert ops.update_mask(*again, row_offsets=first.row_offsets, **state)[2].tolist() == [8]


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_gradients_of_update_mask_leave_alone_what_lies_behind_the_rows(backend):
    if backend not in ops.backends("update_mask"):
        pytest.skip("the native library is not built; `make setup` builds it")
    tokens, offsets = torch.arange(3, 9), torch.tensor([0, 6], dtype=torch.int32)
    scores, predicted = (torch.zeros(n, requires_grad=True) for n in (6, 4))
    rows, row_offsets = torch.tensor([1, 3, 99, -5]), torch.tensor([0, 2], dtype=torch.int32)
    results = ops.update_mask(
        tokens, scores, rows, tokens[:4], predicted, offsets, ratio=0.5, mask_token=2, row_offsets=row_offsets,
        static=True, backend=backend,
    )  # fmt: skip
    (results.scores * torch.arange(1.0, 7.0)).sum().backward()
    assert scores.grad.tolist() == [1, 0, 3, 0, 5, 6] and predicted.grad.tolist() == [2, 4, 0, 0]


def update(ratio=0.5, rows=(1,), count=4, where=None, scores=None, row_offsets=None):
    tokens, m = torch.zeros(count, dtype=torch.int64), len(rows)
    scores = torch.zeros(count) if scores is None else scores
    where = offsets(count) if where is None else where
    rows, predicted = torch.tensor(rows, dtype=torch.int64), torch.zeros(m, dtype=torch.int64)
    return ops.update_mask(
        tokens, scores, rows, predicted, torch.zeros(m), where, ratio=ratio, mask_token=3, row_offsets=row_offsets
    )


ERRORS = {
    "ratio": (
        lambda: update(ratio=1.5), ValueError,
        "update_mask: ratio must be in [0, 1], got 1.5",
    ),
    "scores shape": (
        lambda: update(scores=torch.zeros(3)), ValueError,
        "update_mask: scores must have shape [4], got shape [3]",
    ),
    "rows out of range": (
        lambda: update(rows=(1, 4)), RuntimeError,
        "update_mask: rows must ascend within [0, 4), got 4 at 1",
    ),
    "rows out of order": (
        lambda: update(rows=(2, 1)), RuntimeError,
        "update_mask: rows must ascend within [0, 4), got 1 at 1",
    ),
    "offsets that descend": (
        lambda: update(where=torch.tensor([0, 3, 2, 4], dtype=torch.int32)), RuntimeError,
        "update_mask: offsets must ascend, got 3 before 2",
    ),
    "offsets behind the rows": (
        lambda: update(where=offsets(5)), RuntimeError,
        "update_mask: offsets must go from 0 to at most the number of rows, 4, got 0 to 5",
    ),
    "a row behind the canvases": (
        lambda: update(rows=(3,), where=offsets(3)), RuntimeError,
        "update_mask: rows must ascend within [0, 3), got 3 at 0",
    ),
    "row_offsets of other canvases": (
        lambda: update(row_offsets=offsets(1, 0)), ValueError,
        "update_mask: row_offsets must have shape [2], got shape [3]",
    ),
    "row_offsets dtype": (
        lambda: update(row_offsets=torch.tensor([0, 1])), TypeError,
        "update_mask: row_offsets must be torch.int32, got torch.int64",
    ),
    "row_offsets behind the rows": (
        lambda: update(row_offsets=offsets(2)), RuntimeError,
        "update_mask: row_offsets must go from 0 to at most the number of rows, 1, got 0 to 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_is_wrong(case):
    assert_refused(*ERRORS[case])
