"""The CUDA kernels, run on the CPU by the emulator of tests/simt: what the conformance suite does not ask."""

from functools import cache
from math import prod

import emulated
import pytest
import torch
from gpu import cubins

from benchmarks.budget import allowed, error, in_fixed_order, largest
from janus_fast import ops, reference
from janus_fast.reference.decoder_step import shapes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one"),
]

SEEDS = [0, 1, 2, 3]  # 0 is in order


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def run(request):
    return emulated.Emulator(request.param)


def assert_within_budget(results, truths, by_torch) -> None:
    for result, truth, torchs in zip(results, truths, by_torch, strict=True):
        assert result.shape == truth.shape
        finite = truth.isfinite()
        torch.testing.assert_close(result[~finite].double(), truth[~finite].double(), equal_nan=True)
        budget = allowed(error(torchs, truth), largest(truth), result.dtype)
        assert error(result, truth) <= budget, f"error {error(result, truth):.3g}, budget {budget:.3g}"


def cast(arguments, dtype):
    return [t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in arguments]


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
    **{f"size_{size}": attention_case([3, 17, 0, 40], [33, 70], [1, 0, 1, 0], 3, size) for size in range(16, 144, 16)},
    "beams_of_a_source": attention_case([1] * 10, [25, 40], [0] * 5 + [1] * 5, 8, 64),
    "one_head": attention_case([5, 1], [20, 90], [1, 0], 1, 48),
    "negative_scale": (*attention_case([20], [40], [0], 2, 32)[:-1], -0.3),
}
TILES = {"chosen": (0, 0), "small_chunks": (2, 32), "head_a_warp": (1, 32), "rows_over_warps": (4, 96)}


@cache
def defined(label, dtype):
    """Arguments, the true results, and torch's in ``dtype``."""
    arguments = cast(ATTENTION[label], dtype)
    with in_fixed_order():
        by_torch = reference.attention(*arguments)
    return arguments, reference.attention(*cast(arguments, torch.float64)), by_torch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("label", ATTENTION)
def test_attention_is_the_definition(label, dtype, run):
    arguments, truths, by_torch = defined(label, dtype)
    for tiles in TILES.values():
        assert_within_budget(emulated.attention(run, *arguments, *tiles), truths, by_torch)


LAUNCHED = [
    "update_mask_kernel", "predict_lengths_kernel<float>", "beam_step_kernel", "decoder_step_kernel<float>",
    *(f"attention_kernel<__nv_bfloat16, {size}>" for size in (32, 64, 96, 128)),
]  # fmt: skip


@pytest.mark.parametrize("kernel", LAUNCHED)
def test_launches_are_of_the_sizes_that_the_documentation_s_table_is_made_for(kernel):
    run, (name, _, size) = emulated.Emulator(), kernel.rstrip(">").partition("_kernel")
    rows, heads, channels, hidden, classes, beams, choices = cubins.SHAPE
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
    elif name == "decoder_step":
        caches, one, none = (
            torch.zeros(1, rows, 2, heads, channels // heads),
            torch.tensor([0, 1]).int(),
            torch.zeros(1),
        )
        seen = (
            one,
            torch.tensor([0, rows]).int(),
            none.int(),
            none.int(),
            torch.zeros(rows).int(),
            torch.ones(rows).int(),
        )
        parameters = torch.zeros(1, sum(map(prod, shapes(channels, hidden))))
        given = torch.zeros(1, channels), caches, torch.zeros(1).long(), caches.clone(), parameters, *seen, *seen
        emulated.decoder_step(run, *given, "relu", False, 1e-5)
    else:
        emulated.update_mask(run, *dict(ops.OPERATIONS["update_mask"].samples())["half"])
    threads, shared = emulated.launched()
    assert (threads / 32, shared) == cubins.launch_of(kernel)
