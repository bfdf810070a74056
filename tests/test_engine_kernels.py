"""The engine's kernels on every instruction set of this processor, against float64 and exact integers.

Budgets count roundings: a float32 sum of n terms is off by at most ``gamma(n)`` times the sum of their magnitudes.
"""

from math import erfc, exp, pi, tanh

import numpy as np
import pytest

from janus_fast import _engine

ISAS, TYPES = _engine.isas(), ("float32", "bfloat16", "int8")
ROUNDING = 2.0**-24  # of a float32 operation, relative
kernels = _engine.kernels


@pytest.fixture(params=ISAS)
def isa(request):
    return request.param


def gamma(n: float) -> float:
    return n * ROUNDING / (1 - n * ROUNDING)


def random(*shape, seed=0, scale=1.0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits nearest to x, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of each row and their scale."""
    largest = np.abs(x).max(1)
    inverse = np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest))
    return np.rint(x * inverse[:, None]).astype(np.int64), largest / np.float32(127)


def assert_within(result: np.ndarray, truth: np.ndarray, budget: np.ndarray):
    assert result.shape == truth.shape
    error = np.abs(result.astype(np.float64) - truth)
    for at in np.argwhere(~(error <= budget))[:1]:
        raise AssertionError(f"at {at}: error {error[tuple(at)]:.3g}, budget {budget[tuple(at)]:.3g}")


def product(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, type: str) -> tuple[np.ndarray, np.ndarray]:
    """x W^T + bias of the operands as a product of this type takes them, exactly; and its budget."""
    if type == "int8":
        (x, x_scale), (weight, scale) = quantised(x), quantised(weight)
        truth = (x @ weight.T) * (x_scale[:, None].astype(np.float64) * scale) + bias
        # the sum as float32, the product of the scales, their product with it, and the bias
        return truth, 3 * ROUNDING * np.abs(truth - bias) * (1 + 1e-6) + ROUNDING * np.abs(truth) + 1e-44
    if type == "bfloat16":
        x, weight = from_bfloat16(to_bfloat16(x)), from_bfloat16(to_bfloat16(weight))
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    return x @ weight.T + bias, gamma(x.shape[1] + 1) * (np.abs(x) @ np.abs(weight).T + np.abs(bias)) + 1e-44


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": np.vectorize(lambda x: 0.5 * x * erfc(-x * 0.5**0.5)),
    "silu": np.vectorize(lambda x: x / (1 + exp(-x))),
    "gelu_new": np.vectorize(lambda x: 0.5 * x * (1 + tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3)))),
    "quick_gelu": np.vectorize(lambda x: x / (1 + exp(-1.702 * x))),
}
# Where an exponential of a large number is next to nothing; the float32 of its argument alone is off by as much.
FAR = {"gelu_new": 1e-7, "quick_gelu": 1e-7}


# Products


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("rows, inputs, outputs", [
    (1, 7, 1), (2, 19, 37), (3, 513, 1000), (5, 64, 256), (8, 19, 1000), (13, 7, 37), (14, 513, 64), (27, 512, 33),
    (100, 2048, 48), (0, 7, 37),
])  # fmt: skip
def test_product(isa, type, rows, inputs, outputs):
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    result = kernels.PackedMatrix(weight, type, bias, isa=isa).multiply(x)
    assert_within(result, *product(x, weight, bias, type))


@pytest.mark.parametrize("type", TYPES)
def test_product_does_not_depend_on_other_rows_or_on_the_cut(isa, type):
    x, weight = random(41, 530), random(500, 530, seed=1)
    matrix = kernels.PackedMatrix(weight, type, random(500, seed=2), isa=isa)
    whole = matrix.multiply(x, "gelu")
    for begin, end in [(0, 1), (3, 5), (7, 10), (1, 5), (2, 8), (20, 33), (4, 30), (40, 41)]:
        np.testing.assert_array_equal(matrix.multiply(x[begin:end], "gelu"), whole[begin:end])
    third = matrix.panels // 3
    cuts = [[(p, p + 1) for p in range(matrix.panels)], [(third, matrix.panels), (0, 1), (1, third)]]
    for rows in (1, 3, 5, 41):
        for ranges in cuts:
            np.testing.assert_array_equal(matrix.multiply(x[:rows], "gelu", ranges=ranges), whole[:rows])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("type", TYPES)
def test_what_follows_a_product(isa, type, activation):
    x, weight, bias = random(9, 40), random(51, 40, seed=1, scale=0.3), random(51, seed=2)
    residual = random(9, 51, seed=3)
    matrix = kernels.PackedMatrix(weight, type, bias, isa=isa)
    before, error = product(x, weight, bias, type)
    truth = ACTIVATIONS[activation](before)
    # no activation is steeper, and none is worse than a part in a million, but far out
    error = 1.2 * error + 1e-6 * np.abs(truth) + FAR.get(activation, 0)
    result = matrix.multiply(x, activation, residual)
    assert_within(result, truth + residual, error + ROUNDING * np.abs(truth + residual))
    narrow = matrix.multiply(x, activation, narrow=True)
    np.testing.assert_array_equal(narrow, to_bfloat16(matrix.multiply(x, activation)))


@pytest.mark.parametrize("activation", list(ACTIVATIONS)[2:])
def test_activations_are_accurate_to_a_part_in_a_million(isa, activation):
    x = np.linspace(-5, 30, 10_000, dtype=np.float32)[:, None]
    result = kernels.PackedMatrix(np.ones((1, 1), np.float32), "float32", isa=isa).multiply(x, activation)
    truth = ACTIVATIONS[activation](x.astype(np.float64))
    assert_within(result, truth, 1e-6 * np.abs(truth) + FAR.get(activation, 0))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
def test_weights_are_packed_from_any_stored_type(isa, stored, type):
    x, weight, bias = random(4, 33), random(37, 33, seed=1), random(37, seed=2)
    if stored == "bfloat16":
        bits = to_bfloat16(weight)
        truth, budget = product(x, from_bfloat16(bits), bias, type)
        matrix = kernels.PackedMatrix(bits, type, bias, isa=isa)
    else:
        integers, scales = quantised(weight)
        matrix = kernels.PackedMatrix(integers.astype(np.int8), type, bias, scales, isa=isa)
        if type == "int8":  # the integers themselves, whatever their largest
            x_integers, x_scales = quantised(x)
            truth = (x_integers @ integers.T) * (x_scales[:, None].astype(np.float64) * scales) + bias
            budget = 4 * ROUNDING * (np.abs(truth) + np.abs(bias))
        else:
            truth, budget = product(x, integers.astype(np.float32) * scales[:, None], bias, type)
    assert_within(matrix.multiply(x), truth, budget)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_shows(isa, type, value):
    x, weight = random(6, 50), random(40, 50, seed=1)
    matrix = kernels.PackedMatrix(weight, type, isa=isa)
    clean = matrix.multiply(x)
    x[2, 17], x[4, 49] = value, -value
    result = matrix.multiply(x)
    assert not np.isfinite(result[[2, 4]]).any()
    if type == "int8" or np.isnan(value):
        assert np.isnan(result[[2, 4]]).all()
    np.testing.assert_array_equal(result[[0, 1, 3, 5]], clean[[0, 1, 3, 5]])
    for activation in list(ACTIVATIONS)[1:]:
        assert np.isnan(value) <= np.isnan(matrix.multiply(x, activation)[2]).all()


@pytest.mark.parametrize("type", TYPES)
def test_a_row_of_zeros_gives_the_bias(isa, type):
    bias = random(40, seed=2)
    result = kernels.PackedMatrix(random(40, 50, seed=1), type, bias, isa=isa).multiply(np.zeros((3, 50), np.float32))
    np.testing.assert_array_equal(result, np.broadcast_to(bias, (3, 40)))


# Operands


@pytest.mark.parametrize("channels", [1, 7, 64, 513])
def test_conversion(isa, channels):
    x = random(5, channels) * np.float32([[1], [1e-30], [1e30], [0], [3]])
    x[4] = np.round(x[4]) + 0.5 if channels == 1 else np.clip(np.round(x[4] * 40), -127, 127) + 0.5  # ties
    x[4, 0] = 127
    np.testing.assert_array_equal(kernels.convert(x, "float32", isa)[0], x)
    np.testing.assert_array_equal(kernels.convert(x, "bfloat16", isa)[0], to_bfloat16(x))
    data, scales = kernels.convert(x, "int8", isa)
    integers, model = quantised(x)
    np.testing.assert_array_equal(data.astype(np.int64) - 128, integers)
    np.testing.assert_array_equal(scales, model)


def test_conversion_of_extreme_rows_to_int8(isa):
    tiny, huge = np.float32(1e-40), np.finfo(np.float32).max
    x = np.float32([[np.nan, 1, 2], [1, np.inf, 2], [1, 2, -np.inf], [tiny, -tiny, 0], [huge, -huge, 0]])
    data, scales = kernels.convert(x, "int8", isa)
    assert np.isnan(scales[:3]).all()
    assert scales[3] == 0 and (data[3] == 128).all()  # 127 / 1e-40 is no float
    assert data[4].tolist() == [255, 1, 128] and scales[4] == huge / np.float32(127)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("channels", [1, 20, 512, 1030])
def test_norm(isa, type, channels):
    x = random(7, channels) * 3 + 5
    weight, bias = random(channels, seed=1) + 1, random(channels, seed=2)
    output, data, scales = kernels.norm(x, weight, bias, 1e-5, type, True, isa)
    exact = x.astype(np.float64)
    mean, variance = exact.mean(1, keepdims=True), exact.var(1, keepdims=True)
    inverse = 1 / np.sqrt(variance + np.float32(1e-5))
    truth = (exact - mean) * inverse * weight + bias
    # Sums run in 16 lanes or more. What the mean is off by enters each term, and the variance in second order only.
    terms = channels / 16 + 8
    mean_error = gamma(terms) * np.abs(exact).mean(1, keepdims=True) + ROUNDING * np.abs(exact)
    spread = mean_error.max(1, keepdims=True)
    relative = gamma(terms + 8) / 2 + spread**2 * inverse**2 + spread * inverse * gamma(terms)
    budget = np.abs(weight) * inverse * (mean_error + np.abs(exact - mean) * (relative + gamma(4)))
    assert_within(output, truth, budget + gamma(2) * (np.abs(truth) + np.abs(bias)))
    # The operand is that of the output, whether or not that is wanted too.
    expected = kernels.convert(output, type, isa)
    for operand in (data, scales), kernels.norm(x, weight, bias, 1e-5, type, False, isa)[1:]:
        np.testing.assert_array_equal(operand[0], expected[0])
        if type == "int8":
            np.testing.assert_array_equal(operand[1], expected[1])
    for row in range(7):
        alone = kernels.norm(x[row : row + 1], weight, bias, 1e-5, type, True, isa)[0]
        np.testing.assert_array_equal(alone[0], output[row])


def test_norm_of_what_is_not_finite(isa):
    x = random(3, 40)
    x[1, 3] = np.nan
    output, _, scales = kernels.norm(x, random(40, seed=1), random(40, seed=2), 1e-5, "int8", True, isa)
    assert np.isnan(output[1]).all() and np.isnan(scales[1]) and np.isfinite(output[[0, 2]]).all()


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("channels", [1, 20, 512])
def test_embedding(isa, stored, channels):
    table, positions = random(11, channels), random(6, channels, seed=1)
    ids, places = np.int32([3, 0, 10, 3]), np.int32([0, 5, 1, 1])
    scales, rows = None, table
    if stored == "bfloat16":
        rows = to_bfloat16(table)
        table = from_bfloat16(rows)
    if stored == "int8":
        integers, scales = quantised(table)
        rows, table = integers.astype(np.int8), integers * scales[:, None].astype(np.float64)
    scale = np.float32(channels**0.5)
    token = scale * table.astype(np.float64)[ids]
    result = kernels.embed(rows, scales, positions, ids, places, scale, isa)
    assert_within(result, token + positions[places], gamma(3) * (np.abs(token) + np.abs(positions[places])))


# Attention over cached rows


def kept(rows: np.ndarray, stored: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows [..., D] as a cache of this type keeps them, and their scales."""
    if stored == "int8":
        integers, scales = quantised(rows.reshape(-1, rows.shape[-1]))
        return integers.astype(np.int8).reshape(rows.shape), scales.reshape(rows.shape[:-1])
    return (to_bfloat16(rows) if stored == "bfloat16" else rows.copy()), None


def numbers(cache: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
    rows, scales = cache
    if scales is not None:
        return rows * scales[..., None].astype(np.float64)
    return (from_bfloat16(rows) if rows.dtype == np.uint16 else rows).astype(np.float64)


def attend_cached(query, key, value, *rest, isa):
    scales = {} if key[1] is None else {"key_scales": key[1], "value_scales": value[1]}
    return kernels.attend_cached(query, key[0], value[0], *rest, isa=isa, **scales)


def assert_equal_caches(caches, expected):
    for cache, wanted in zip(caches, expected, strict=True):
        for found, part in zip(cache, wanted, strict=True):
            np.testing.assert_array_equal(found, part)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("size", [1, 20, 64, 128, 200])
@pytest.mark.parametrize("count", [1, 3, 16, 25, 129, 300])
def test_cached_attention(isa, size, count, stored):
    heads, slots, rows = 3, 5, 4
    query = random(rows, heads, size, scale=2)
    key, value = (kept(random(heads, slots, count + 2, size, seed=seed), stored) for seed in (1, 2))
    origin = np.random.default_rng(count).integers(0, slots, (count, slots)).astype(np.int32)
    scale = np.float32(size**-0.5)
    times = np.arange(count)[:, None]
    seen_key, seen_value = (numbers(cache)[:, origin[:, :rows], times] for cache in (key, value))  # [H, t, r, D]
    scores = np.einsum("rhd,htrd->rht", query, seen_key) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    # A score's error moves its weight by as much, relatively, and again through the total. Each scale rounds once more.
    score_error = gamma(size + 3) * np.einsum("rhd,htrd->rht", np.abs(query), np.abs(seen_key)) * scale
    score_error += ROUNDING * (np.abs(scores).max(-1, keepdims=True) + np.abs(scores))
    relative = np.expm1(2 * score_error.max(-1))[..., None] + gamma(count + 21)
    result = attend_cached(query, key, value, origin, scale, isa=isa)
    budget = relative * np.einsum("rht,htrd->rhd", weights, np.abs(seen_value))
    assert_within(result, np.einsum("rht,htrd->rhd", weights, seen_value), budget)
    np.testing.assert_array_equal(attend_cached(query[:1], key, value, origin, scale, isa=isa)[0], result[0])


@pytest.mark.parametrize("stored", TYPES)
def test_cached_attention_stores_new_keys_and_values_first(isa, stored):
    query, new_key, new_value = (random(2, 3, 20, seed=seed) for seed in range(3))
    rows = [random(3, 4, 6, 20, seed=seed) for seed in (3, 4)]
    key, value = (kept(x, stored) for x in rows)
    origin = np.tile(np.arange(4, dtype=np.int32), (5, 1))
    for x, fresh in zip(rows, (new_key, new_value), strict=True):
        x[:, :2, 4] = fresh.transpose(1, 0, 2)
    expected = [kept(x, stored) for x in rows]
    result = attend_cached(query, key, value, origin, 0.2, new_key, new_value, isa=isa)
    assert_equal_caches((key, value), expected)
    np.testing.assert_array_equal(result, attend_cached(query, *expected, origin, 0.2, isa=isa))


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("before", [0, 7, 127])
def test_several_new_rows_of_a_hypothesis_are_as_many_steps(isa, before, stored):
    hypotheses, heads, steps, size, slots = 3, 2, 4, 20, 5
    query, *fresh = (random(hypotheses * steps, heads, size, seed=seed) for seed in range(3))
    rows = [random(heads, slots, before + 2 * steps, size, seed=seed) for seed in (3, 4)]
    caches, other_caches = ([kept(x, stored) for x in rows] for _ in range(2))
    origin = np.random.default_rng(before).integers(0, slots, (before + 2 * steps, slots)).astype(np.int32)
    origin[before:, :hypotheses] = [4, 0, 2]  # a slot of its own for each
    starts = before + np.int32([2, 0, 4])  # hypotheses need not be equally long
    places = (starts[:, None] + np.arange(steps, dtype=np.int32)).ravel()
    one_by_one = np.empty_like(query)
    for step in range(steps):
        now = slice(step, None, steps)
        own, new_key, new_value = (x[now].copy() for x in (query, *fresh))
        one_by_one[now] = attend_cached(own, *other_caches, origin, 0.3, new_key, new_value, places[now], isa=isa)
    together = attend_cached(query, *caches, origin, 0.3, *fresh, places, steps, isa=isa)
    np.testing.assert_array_equal(together, one_by_one)
    assert_equal_caches(caches, other_caches)


def test_cached_attention_shows_nan(isa):
    query, cache = random(2, 2, 16), random(2, 2, 9, 16, seed=1)
    origin = np.tile(np.int32([0, 1]), (9, 1))
    clean = kernels.attend_cached(query, cache, cache, origin, 0.25, isa=isa)
    key = cache.copy()
    key[0, 1, 4, 3] = np.nan
    result = kernels.attend_cached(query, key, cache, origin, 0.25, isa=isa)
    assert np.isnan(result[1, 0]).all()
    np.testing.assert_array_equal(result[0], clean[0])
    np.testing.assert_array_equal(result[1, 1], clean[1, 1])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_in_an_int8_cache_shows_in_its_head_alone(isa, number):
    query, *fresh = (random(2, 2, 16, seed=seed) for seed in range(3))
    origin = np.tile(np.int32([0, 1]), (9, 1))
    results = []
    for at in ((), (1, 0, 3)):  # of the new keys
        key, value = (kept(random(2, 2, 9, 16, seed=seed), "int8") for seed in (3, 4))
        if at:
            fresh[0][at] = number
        results.append(attend_cached(query, key, value, origin, 0.25, *fresh, isa=isa))
    clean, result = results
    assert np.isnan(result[1, 0]).all()
    np.testing.assert_array_equal(result[0], clean[0])
    np.testing.assert_array_equal(result[1, 1], clean[1, 1])


# Vocabulary


def expected_best(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Best tokens of float32 logits, -1 where none is left, and float64 log-probabilities of all tokens."""
    exact = logits.astype(np.float64)
    peak = exact.max(1, keepdims=True)
    log_probs = exact - peak - np.log(np.exp(exact - peak).sum(1, keepdims=True))
    tokens = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    tokens = np.where(np.isneginf(np.take_along_axis(exact, tokens, 1)), -1, tokens)
    return np.pad(tokens, [(0, 0), (0, k - tokens.shape[1])], constant_values=-1), log_probs


def log_prob_budget(logits: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Exponentials, their sums (in 4 lanes or more) over a group and over the groups, and two subtractions."""
    finite = np.where(np.isfinite(logits), logits, 0)
    below = np.abs(finite - logits.max(1, keepdims=True))
    adds = 256 / 4 + 2 + logits.shape[1] / 256
    return gamma(adds + 8) + ROUNDING * (2 * below + 2 * np.abs(np.where(np.isfinite(log_probs), log_probs, 0)))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("rows, inputs, size, k", [
    (1, 19, 1, 1), (3, 7, 37, 5), (5, 64, 1000, 1), (60, 64, 1000, 10), (4, 19, 1000, 64), (3, 19, 1000, 65),
    (2, 19, 1000, 300), (2, 19, 1000, 1000), (2, 19, 600, 700), (3, 64, 513, 0),
])  # fmt: skip
def test_vocabulary(isa, type, rows, inputs, size, k):
    x, weight, bias = random(rows, inputs), random(size, inputs, seed=1), random(size, seed=2)
    bias[size // 2] = bias[size // 3 :: 7] = -np.inf
    matrix = kernels.PackedMatrix(weight, type, isa=isa)
    logits = kernels.PackedMatrix(weight, type, bias, isa=isa).multiply(x)
    asked = np.random.default_rng(k).integers(-1, size, rows).astype(np.int32)
    asked[0], asked[-1] = -1, size // 2
    with np.errstate(invalid="ignore"):
        expected, log_probs = expected_best(logits, k)
    budget = log_prob_budget(logits, log_probs)
    tokens, best, asked_log_probs = matrix.vocabulary(x, k, bias, asked)
    if not np.isfinite(logits).any():
        assert (tokens == -1).all() and (best == -np.inf).all()
        return
    np.testing.assert_array_equal(tokens, expected)
    assert (best[tokens < 0] == -np.inf).all()
    held = np.where(tokens < 0, 0, tokens)
    for found, truth, allowed in [
        (np.where(tokens < 0, 0, best), np.where(tokens < 0, 0, np.take_along_axis(log_probs, held, 1)),
         np.take_along_axis(budget, held, 1)),
    ]:  # fmt: skip
        if k:
            assert_within(found, truth, allowed)
    for row, token in enumerate(asked.tolist()):
        truth = 0 if token < 0 else log_probs[row, token]
        assert asked_log_probs[row] == truth or abs(asked_log_probs[row] - truth) <= budget[row, max(token, 0)]


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_vocabulary_does_not_depend_on_other_rows_or_on_the_cut(isa, type, k):
    x, weight = random(60, 40), random(2000, 40, seed=1)
    matrix = kernels.PackedMatrix(weight, type, isa=isa)
    asked = np.arange(0, 1800, 30, dtype=np.int32)
    whole = matrix.vocabulary(x, k, None, asked)
    cuts = [[(g, g + 1) for g in range(matrix.groups)], [(5, matrix.groups), (0, 5)]]
    for ranges in cuts:
        for one, other in zip(whole, matrix.vocabulary(x, k, None, asked, ranges), strict=True):
            np.testing.assert_array_equal(one, other)
    for begin, end in [(0, 1), (7, 9), (40, 60)]:
        for one, other in zip(whole, matrix.vocabulary(x[begin:end], k, None, asked[begin:end]), strict=True):
            np.testing.assert_array_equal(one[begin:end], other)


@pytest.mark.parametrize("k", [1, 3, 40, 80, 600])
def test_of_equal_tokens_the_lowest_comes_first(isa, k):
    matrix = kernels.PackedMatrix(np.zeros((600, 8), np.float32), "float32", isa=isa)
    for ranges in (None, [(2, 3), (0, 1), (1, 2)]):
        tokens, log_probs, _ = matrix.vocabulary(random(2, 8), k, None, None, ranges)
        np.testing.assert_array_equal(tokens, [list(range(k))] * 2)
        assert np.abs(log_probs + np.log(600)).max() < gamma(100) * np.log(600)


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("type", TYPES)
def test_vocabulary_shows_nan(isa, type, k):
    x, weight = random(3, 16), random(700, 16, seed=1)
    bias = np.zeros(700, np.float32)
    matrix = kernels.PackedMatrix(weight, type, isa=isa)
    clean = matrix.vocabulary(x, k, bias)[1]
    x[1, 2] = np.nan
    _, log_probs, asked = matrix.vocabulary(x, k, bias, np.int32([3, 3, 3]))
    assert np.isnan(log_probs[1]).all() and np.isnan(asked[1])
    np.testing.assert_array_equal(log_probs[[0, 2]], clean[[0, 2]])
    bias[600] = np.nan  # a single logit
    _, log_probs, asked = matrix.vocabulary(random(1, 16), k, bias, np.int32([3]))
    assert np.isnan(log_probs).all() and np.isnan(asked).all()


# Instruction sets


def test_best_instruction_set_comes_first_and_the_generic_one_last():
    order = ["avx512_bf16_amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "generic"]
    assert [isa for isa in order if isa in ISAS] == ISAS
    assert ISAS[-1] == "generic"


def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="kernels: isa must be one of .*, got mmx"):
        kernels.convert(random(1, 1), "int8", "mmx")


# The recurrence of an SSRU


@pytest.mark.parametrize("channels", [1, 20, 64, 100])
def test_recurrence(isa, channels):
    lengths = [3, 0, 1, 40]
    offsets, rows = np.cumsum([0, *lengths]).astype(np.int32), sum(lengths)
    own = np.random.default_rng(channels).permutation(rows + 5)[:rows]  # states lie anywhere
    before = np.where(np.isin(np.arange(rows), offsets[:-1]), -1, np.roll(own, 1))
    before[0] = next(place for place in range(rows + 5) if place not in own)  # which another call has left
    first, output = random(rows + 5, channels), random(rows, channels, seed=1)
    x, forget = random(rows, channels, seed=2, scale=3), random(rows, channels, seed=3, scale=6)
    forget[1], forget[2] = 200.0, -200.0  # all stays, nothing stays
    expected, state = first.astype(np.float64), None
    added = np.empty((rows, channels))
    for row in range(rows):
        state = expected[before[row]] if before[row] >= 0 else np.zeros(channels)
        gate = 1 / (1 + np.exp(-forget[row].astype(np.float64)))
        state = gate * state + (1 - gate) * x[row]
        expected[own[row]], added[row] = state, np.maximum(state, 0)
    states, result = first.copy(), output.copy()
    kernels.recur(np.concatenate([x, forget], 1), states, offsets, before, own, result, isa)
    # an exponential errs by two units, what follows by one each: sum, quotient, product, and two products and a sum
    # with the state; what was before errs no more than it did
    largest = max(np.abs(x).max(), np.abs(first).max())
    budget = np.full(states.shape, max(lengths) * 12 * ROUNDING * largest)
    assert_within(states, expected, budget)
    assert_within(result, output + added, budget[:rows] + ROUNDING * np.abs(output + added))
    np.testing.assert_array_equal(states[own[2]], x[2])
    left = [place for place in range(rows + 5) if place not in own]
    np.testing.assert_array_equal(states[left], first[left])


def test_recurrence_hands_on_what_is_no_number(isa):
    x, forget = random(2, 20), random(2, 20, seed=1)
    x[0, 3], forget[0, 4] = np.nan, np.nan
    states, result = np.zeros((2, 20), np.float32), np.zeros((2, 20), np.float32)
    rows = np.array([-1, 0]), np.array([0, 1])
    kernels.recur(np.concatenate([x, forget], 1), states, np.int32([0, 2]), *rows, result, isa)
    assert np.isnan(states[:, 3:5]).all() and np.isnan(result[:, 3:5]).all()
    assert np.isfinite(np.delete(result, [3, 4], 1)).all()
