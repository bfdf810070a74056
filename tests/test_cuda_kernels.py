"""The CUDA kernels, run on the CPU by the emulator of tests/simt, against the definitions."""

from functools import partial

import emulated
import pytest
import torch
from gpu import cubins

from benchmarks.budget import allowed, error, in_fixed_order, largest
from janus_fast import ops, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one"),
]

SEEDS = [0, 1, 2, 3]  # 0 is in order
SAMPLES = {name: dict(operation.samples()) for name, operation in ops.OPERATIONS.items()}


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def run(request):
    return emulated.Emulator(request.param)


def long_canvases():
    """Longer than what a lane keeps in registers, with many equal scores, infinities of both signs and zeros."""
    make = torch.Generator().manual_seed(6)
    lengths = [300, 2, 259, 1, 700]
    n = sum(lengths)
    values = torch.tensor([0.0, -0.0, -1.0, float("-inf"), float("inf"), float("nan"), -1e-40, -2.5])
    scores = values[torch.randint(0, len(values), (n,), generator=make)]
    rows = torch.arange(1, n, 3)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    tokens = torch.randint(3, 6, (n,), generator=make)
    return tokens, scores, rows, tokens[rows] + 1, scores[rows].flip(0), offsets, 0.37, 3


def many_canvases():
    """More rows than the block lists in one turn, more canvases than it has warps."""
    make = torch.Generator().manual_seed(7)
    lengths = torch.randint(2, 120, (150,), generator=make)
    n = int(lengths.sum())
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(torch.int32)
    scores = -torch.rand(n, generator=make)
    rows = torch.randperm(n, generator=make)[: n // 2].sort().values
    return torch.full((n,), 9), scores, rows, torch.randint(8, 10, rows.shape), scores[rows], offsets, 0.8, 3


UPDATE_MASK = {**SAMPLES["update_mask"], "long_canvases": long_canvases(), "many_canvases": many_canvases()}


@pytest.mark.parametrize("label", UPDATE_MASK)
def test_update_mask_is_the_definition(label, run):
    arguments = UPDATE_MASK[label]
    tokens, scores, rows, changed = reference.update_mask(*arguments)
    result = emulated.update_mask_static(run, *arguments[:3], None, *arguments[3:6], None, *arguments[6:])
    assert_updated(result, tokens, scores, rows, changed, arguments)


@pytest.mark.parametrize("label", UPDATE_MASK)
def test_update_mask_leaves_alone_what_is_not_counted_or_done(label, run):
    """Room behind the rows, the predictions and the canvases; and every third canvas is done."""
    *per_row, rows, predicted_tokens, predicted_scores, offsets, ratio, mask_token = UPDATE_MASK[label]
    done = torch.arange(offsets.numel() - 1) % 3 == 1
    owner = torch.arange(done.numel()).repeat_interleave(offsets.diff())
    tokens, scores, next_rows, changed = reference.update_mask(
        *per_row, rows, predicted_tokens, predicted_scores, offsets, ratio, mask_token
    )
    kept = done[owner]
    tokens, scores = (torch.where(kept, old, new) for old, new in zip(per_row, (tokens, scores), strict=True))
    row_count = torch.tensor([rows.numel(), 99], dtype=torch.int32)
    roomy = lambda tensor, filler: torch.cat([tensor, tensor.new_full((5,), filler)])  # noqa: E731
    behind = (mask_token, float("nan"))  # a mask, and a score that is not finite, that are nobody's
    result = emulated.update_mask_static(
        run, *map(roomy, per_row, behind), roomy(rows, 0), row_count, roomy(predicted_tokens, 7),
        roomy(predicted_scores, 1.0), offsets, done, ratio, mask_token,
    )  # fmt: skip
    tokens, scores = map(roomy, (tokens, scores), behind)
    assert_updated(result, tokens, scores, next_rows[~kept[next_rows]], changed & ~done, UPDATE_MASK[label])


def assert_updated(result, tokens, scores, rows, changed, arguments) -> None:
    offsets, mask_token = arguments[5], arguments[7]
    new_tokens, new_scores, masked, listed, has_changed, row_offsets, totals = result
    assert torch.equal(new_tokens, tokens)
    torch.testing.assert_close(new_scores, scores, rtol=0, atol=0, equal_nan=True)
    not_finite = int((~scores[: offsets[-1]].isfinite()).sum())
    assert totals.tolist() == [rows.numel(), int(changed.sum()), not_finite]
    assert torch.equal(listed[: rows.numel()], rows) and not listed[rows.numel() :].any()
    assert torch.equal(row_offsets, torch.searchsorted(rows, offsets.long()).int())
    assert torch.equal(has_changed, changed)
    assert torch.equal(masked, tokens.index_fill(0, rows, mask_token))


def assert_within_budget(results, truths, by_torch) -> None:
    for result, truth, torchs in zip(results, truths, by_torch, strict=True):
        assert result.shape == truth.shape
        finite = truth.isfinite()
        torch.testing.assert_close(result[~finite].double(), truth[~finite].double(), equal_nan=True)
        budget = allowed(error(torchs, truth), largest(truth), result.dtype)
        assert error(result, truth) <= budget, f"error {error(result, truth):.3g}, budget {budget:.3g}"


def cast(arguments, dtype):
    return [t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in arguments]


def first_of_each(lengths, offsets):
    """Where canvases begin: of equal lengths of a source the first alone has rows, if the source has."""
    lengths = lengths * (offsets.diff() > 0)[:, None]
    rows = [length if length not in row[:i] else 0 for row in lengths.tolist() for i, length in enumerate(row)]
    return torch.tensor([0, *rows]).cumsum(0).to(torch.int32)


def odd_logits(*values):
    """One source whose logits are these."""
    return torch.ones(1, 1), torch.tensor([0, 1], dtype=torch.int32), torch.tensor(values)[:, None]


INFINITY, NAN = float("inf"), float("nan")
PREDICT_LENGTHS = {
    **SAMPLES["predict_lengths"],
    "infinite_logits": (*odd_logits(1.0, -INFINITY, 3.0, 3.0, -INFINITY), 4, False, 0, 4),
    "one_is_not_a_number": (*odd_logits(1.0, 5.0, NAN, 3.0), 3, False, 1, 3),
    "nothing_is_finite": (*odd_logits(-INFINITY, -INFINITY, -INFINITY), 3, True, 0, 2),
    "highest_is_infinite": (*odd_logits(1.0, INFINITY, 2.0), 2, True, 0, 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("label", PREDICT_LENGTHS)
def test_predict_lengths_is_the_definition(label, dtype, run):
    arguments = cast(PREDICT_LENGTHS[label], dtype)
    lengths, log_probs = reference.predict_lengths(*cast(arguments, torch.float64))
    result, by_kernel, begins = emulated.predict_lengths(run, *arguments)
    assert torch.equal(result, lengths)
    with in_fixed_order():
        by_torch = reference.predict_lengths(*arguments)[1]
    assert_within_budget([by_kernel], [log_probs], [by_torch])
    assert torch.equal(begins, first_of_each(lengths, arguments[1]))
    assert emulated.predict_lengths(run, *arguments, canvases=False)[0].equal(lengths)


def attention_case(query_lengths, key_lengths, sequences, heads, size, spread=1.0):
    make = torch.Generator().manual_seed(8)
    query, key, value = (
        torch.randn(sum(n), heads, size, generator=make) for n in (query_lengths, key_lengths, key_lengths)
    )
    query_offsets, key_offsets = (torch.tensor([0, *n]).cumsum(0).to(torch.int32) for n in (query_lengths, key_lengths))
    first = torch.randint(0, 30, (sum(key_lengths),), generator=make, dtype=torch.int32)
    until = first + torch.randint(0, 20, first.shape, generator=make, dtype=torch.int32)
    times = torch.randint(0, 32, (sum(query_lengths),), generator=make, dtype=torch.int32)
    sequences = torch.tensor(sequences, dtype=torch.int32)
    return query * spread, key, value, query_offsets, key_offsets, sequences, times, first, until, size**-0.5


ATTENTION = {
    **{label: arguments for label, arguments in SAMPLES["attention"].items() if arguments[0].shape[2] % 16 == 0},
    **{f"size_{size}": attention_case([3, 17, 0, 40], [33, 70], [1, 0, 1, 0], 3, size) for size in range(16, 144, 16)},
    "beams_of_a_source": attention_case([1] * 10, [25, 40], [0] * 5 + [1] * 5, 8, 64),
    "one_head": attention_case([5, 1], [20, 90], [1, 0], 1, 48),
    "negative_scale": (*attention_case([20], [40], [0], 2, 32)[:-1], -0.3),
}
TILES = {"chosen": (0, 0), "small_chunks": (2, 32), "head_a_warp": (1, 32), "rows_over_warps": (4, 96)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("label", ATTENTION)
def test_attention_is_the_definition(label, dtype, run):
    arguments = cast(ATTENTION[label], dtype)
    truths = reference.attention(*cast(arguments, torch.float64))
    with in_fixed_order():
        by_torch = reference.attention(*arguments)
    for tiles in TILES.values():
        assert_within_budget(emulated.attention(run, *arguments, *tiles), truths, by_torch)


@pytest.mark.parametrize("label", SAMPLES["beam_step"])
def test_beam_step_is_the_definition(label, run):
    operation, sample = ops.OPERATIONS["beam_step"], SAMPLES["beam_step"][label]
    results = []
    for step in (reference.beam_step, partial(emulated.beam_step, run)):
        log_probs, ids, eos, *state = sample
        state = [t.clone() for t in state]
        if operation.limits("cuda", log_probs) is None:
            step(log_probs, ids, eos, *state)
        results.append(state)
    for name, truth, result in zip(reference.BeamState._fields, *results, strict=True):
        torch.testing.assert_close(result, truth, rtol=0, atol=0, equal_nan=True, msg=name)


LAUNCHED = [
    "update_mask_kernel", "predict_lengths_kernel<float>", "beam_step_kernel",
    *(f"attention_kernel<__nv_bfloat16, {size}>" for size in (32, 64, 96, 128)),
]  # fmt: skip


@pytest.mark.parametrize("kernel", LAUNCHED)
def test_launches_are_of_the_sizes_that_the_documentation_s_table_is_made_for(kernel):
    run, (name, _, size) = emulated.Emulator(), kernel.rstrip(">").partition("_kernel")
    rows, heads, channels, classes, beams, choices = cubins.SHAPE
    if name == "attention":
        query = torch.zeros(2 * rows, heads, int(size.split(",")[1]), dtype=torch.bfloat16)
        offsets, times = torch.tensor([0, rows, 2 * rows]).int(), torch.zeros(2 * rows).int()
        emulated.attention(run, query, query, query, offsets, offsets, torch.arange(2).int(), times, times, times, 1.0)
    elif name == "predict_lengths":
        encoded, weight = torch.zeros(rows, channels), torch.zeros(classes, channels)
        emulated.predict_lengths(run, encoded, torch.tensor([0, rows]).int(), weight, 3, False, 2, classes - 1)
    elif name == "beam_step":
        state = reference.BeamState.new(1, 10, beams)
        emulated.beam_step(run, torch.zeros(1, beams, choices), torch.full((1, beams, choices), 3), 2, *state)
    else:
        tokens, *rest, offsets, ratio, mask_token = SAMPLES["update_mask"]["half"]
        emulated.update_mask_static(run, tokens, *rest[:2], None, *rest[2:], offsets, None, ratio, mask_token)
    threads, shared = emulated.launched()
    assert (threads / 32, shared) == cubins.launch_of(kernel)
