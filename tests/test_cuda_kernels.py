"""The CUDA kernels, run on the CPU by the emulator of tests/simt, against the definitions."""

import emulated
import pytest
import torch

from janus_fast import ops, reference

pytestmark = pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one")

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
    for spare in (0, 5):
        result = emulated.update_mask(run, *arguments, spare=spare)
        new_tokens, new_scores, listed, has_changed, masked, totals = result
        assert torch.equal(new_tokens, tokens)
        torch.testing.assert_close(new_scores, scores, rtol=0, atol=0, equal_nan=True)
        assert totals.tolist() == [rows.numel(), int(changed.sum())]
        assert torch.equal(listed[: rows.numel()], rows) and not listed[rows.numel() :].any()
        assert torch.equal(has_changed, changed)
        assert torch.equal(masked, tokens.index_fill(0, rows, arguments[-1]))
