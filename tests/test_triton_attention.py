"""What the Triton attention plans: which tiles meet, and that planning neither trusts offsets nor reads values."""

import interpreted
import pytest
import torch

from janus_fast.ops import OPERATIONS
from janus_fast.packing import offsets_of
from janus_fast.visibility import Visibility

if interpreted.missing():
    pytest.skip(interpreted.missing(), allow_module_level=True)

from janus_fast.kernels import attention as kernels  # noqa: E402

pytestmark = pytest.mark.gpu

TILES = {"BLOCK_M": 4, "BLOCK_N": 4}
PATTERNS = {
    "bidirectional": Visibility.bidirectional(offsets_of(torch.tensor([5, 0, 23, 8]))),
    "cross": Visibility.bidirectional(
        offsets_of(torch.tensor([3, 1, 9])), offsets_of(torch.tensor([17, 4])), torch.tensor([1, 0, 1]).int()
    ),
    "causal": Visibility.causal([1, 26, 9]),
    "autoregressive": Visibility.autoregressive([21, 6]),
    "janus": Visibility.janus([13, 2, 0], [22, 9, 5]),
}


def integers(v: Visibility) -> tuple:
    return v.query_offsets, v.key_offsets, v.key_sequences, v.query_times, v.visible_from, v.visible_until


@pytest.mark.parametrize("name", PATTERNS)
def test_plan_meets_the_tiles_with_visible_keys_and_no_others(name):
    visibility = PATTERNS[name]
    sees = visibility.dense()
    queries, keys, named = kernels._plan(*integers(visibility), TILES)
    key_begins = visibility.key_offsets.tolist()
    planned = torch.zeros_like(sees)
    rows_planned = torch.zeros(len(sees), dtype=torch.int64)
    for (first, end, first_key, end_keys, gap, skipped, key_tile, earliest, latest), sequence in zip(
        queries.tolist(), named.tolist(), strict=True
    ):
        if first >= end:
            assert sequence == len(key_begins) - 1  # sorts behind all key sequences
            continue
        rows = slice(first, min(first + 4, end))
        rows_planned[rows] += 1
        assert [earliest, latest] == [int(x) for x in visibility.query_times[rows].aminmax()]
        for place in range(first_key, end_keys - skipped, 4):
            start = place + (skipped if place >= gap else 0)
            columns = slice(start, min(start + 4, key_begins[sequence + 1]))
            planned[rows, columns] = True
            assert sees[rows, columns].any()
            of_keys = keys[key_tile + (start - first_key) // 4].tolist()
            assert of_keys[0] == start and of_keys[2] == sequence
            whole = columns.stop - columns.start == 4
            all_see = of_keys[4] <= earliest and latest < of_keys[5]
            assert all_see == (bool(sees[rows, columns].all()) and whole)
    assert (rows_planned == 1).all()
    assert not (sees & ~planned).any()


def test_offsets_that_do_not_fit_lead_nowhere():
    """Every address of the interpreted kernels is checked."""
    query, key, value, *rest = dict(OPERATIONS["attention"].samples())["intervals"]
    query_offsets, key_offsets, key_sequences, *others = rest
    for wrong in (
        (query_offsets + 100, key_offsets, key_sequences),
        (query_offsets - 100, key_offsets, key_sequences),
        (query_offsets, key_offsets * 3, key_sequences),
        (query_offsets, key_offsets, key_sequences + 2),
        (query_offsets, key_offsets, key_sequences - 1),
    ):
        results = kernels.attention(query, key, value, *wrong, *others)
        kernels.attention_bwd(query, *results, query, key, value, *wrong, *others)


class Launches(list):
    """Kernels that only write down their names."""

    def kernel(self, name: str):
        return type("Kernel", (), {"__getitem__": lambda _, grid: lambda *arguments, **options: self.append(name)})()


def test_launchers_read_no_values(monkeypatch):
    """Tensors on the meta device have none: whatever would wait for a device fails."""
    launches = Launches()
    for name in [name for name in vars(kernels) if name.endswith("_kernel")]:
        monkeypatch.setattr(kernels, name, launches.kernel(name))
    query, key, value, *rest = dict(OPERATIONS["attention"].samples())["shared_keys"]
    query, key, value, *rest = (x.to("meta") if isinstance(x, torch.Tensor) else x for x in (query, key, value, *rest))
    results = kernels.attention(query, key, value, *rest)
    kernels.attention_bwd(query, *results, query, key, value, *rest)
    assert launches == [
        "attention_plan_kernel", "attention_fwd_kernel",
        "attention_plan_kernel", "attention_bwd_query_kernel", "attention_bwd_key_value_kernel",
    ]  # fmt: skip
