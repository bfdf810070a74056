"""Operations: what the definitions agree with, independence of rows, gradients, compilation, backends, errors."""

import inspect
import os
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from errors import assert_refused
from torch._subclasses import FakeTensorMode

from janus_fast import engine, ops, reference
from janus_fast.inputs import listed
from janus_fast.ops import _native, _operation, _triton
from janus_fast.packing import offsets_of
from janus_fast.reference.beam_step import BeamState
from janus_fast.visibility import Visibility


def offsets(*lengths):
    return offsets_of(torch.tensor(lengths, dtype=torch.int64))


@pytest.fixture(params=_native.isas())
def isa(request):
    with _native.use_isa(request.param):
        yield request.param


def shared_keys(dtype=torch.float32, heads=2, size=8):
    """Four query sequences over two key sequences, each key visible for a while."""
    torch.manual_seed(0)
    query_offsets, key_offsets = offsets(3, 1, 5, 2), offsets(6, 9)
    first = torch.randint(0, 4, (15,), dtype=torch.int32)
    times = torch.randint(0, 6, (11,), dtype=torch.int32)
    times[7] = 100  # sees nothing
    visibility = Visibility(
        query_offsets, key_offsets, torch.tensor([1, 0, 1, 1], dtype=torch.int32),
        times, first, first + 4,
    )  # fmt: skip
    rows = [torch.randn(n, heads, size, dtype=dtype, requires_grad=True) for n in (11, 15, 15)]
    return rows, visibility


# Definitions


def test_attention_is_torchs_with_the_dense_mask():
    (query, key, value), visibility = shared_keys(torch.float64)
    mask = visibility.dense()
    by_torch = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (query, key, value)), attn_mask=mask)
    expected = by_torch.transpose(0, 1).masked_fill(~mask.any(1)[:, None, None], 0.0)
    assert mask.any(1).tolist() == [row != 7 for row in range(11)]
    torch.testing.assert_close(ops.attention(query, key, value, visibility, backend="reference"), expected)


def test_linear_topk_is_torchs():
    hidden, weight, bias = torch.randn(7, 16), torch.randn(90, 16), torch.randn(90)
    best = F.linear(hidden, weight, bias).log_softmax(-1).topk(5)
    tokens, log_probs = ops.linear_topk(hidden, weight, bias, k=5)
    assert torch.equal(tokens, best.indices)
    torch.testing.assert_close(log_probs, best.values)


# Independence


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 13, 17, 97, 200])
@pytest.mark.parametrize("dtype, channels", [(torch.float32, 70), (torch.bfloat16, 64), (torch.bfloat16, 70)])
def test_projected_rows_do_not_depend_on_each_other(dtype, channels, rows, isa):
    torch.manual_seed(rows)
    hidden, weight, bias = (torch.randn(*s).to(dtype) for s in ((200, channels), (1100, channels), (1100,)))
    together = ops.linear_topk(hidden, weight, bias, k=4)
    apart = ops.linear_topk(hidden[:rows], weight, bias, k=4)
    assert all(torch.equal(a[:rows], b) for a, b in zip(together, apart, strict=True))
    best = ops.linear_argmax(hidden[200 - rows :], weight, bias)
    assert all(torch.equal(a[200 - rows :, 0], b) for a, b in zip(together, best, strict=True))


def test_predicted_lengths_do_not_depend_on_other_sources(isa):
    torch.manual_seed(0)
    encoded, weight = torch.randn(90, 24), torch.randn(64, 24)
    together = ops.predict_lengths(encoded, offsets(*[3] * 30), weight, beam=4, max_length=63)
    for s in range(30):
        alone = ops.predict_lengths(encoded[3 * s : 3 * s + 3], offsets(3), weight, beam=4, max_length=63)
        assert all(torch.equal(a[s : s + 1], b) for a, b in zip(together, alone, strict=True))


def test_attention_of_a_row_depends_on_its_own_keys_alone(isa):
    """What a cache needs: one row against the keys so far equals that row of one causal pass over all, to the bit."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(75, 2, 24) for _ in range(3))
    times = torch.arange(75, dtype=torch.int32)
    only = torch.zeros(1, dtype=torch.int32)
    causal = Visibility(offsets(75), offsets(75), only, times, times, torch.full_like(times, 1000))
    together = ops.attention(query, key, value, causal)
    for t in range(75):
        seen = Visibility.bidirectional(offsets(1), offsets(t + 1), only)
        alone = ops.attention(query[t : t + 1], key[: t + 1], value[: t + 1], seen)
        assert torch.equal(alone, together[t : t + 1]), t


# Gradients and compilation


def test_attention_gradients_are_those_of_its_function():
    rows, visibility = shared_keys(torch.float64)
    torch.autograd.gradcheck(lambda *x: ops.attention(*x, visibility, backend="cpp"), rows)


def test_attention_compiles_without_a_graph_break():
    rows, visibility = shared_keys()
    compiled = torch.compile(ops.attention, fullgraph=True, backend="aot_eager")
    results = []
    for function in (ops.attention, compiled):
        output = function(*rows, visibility)
        results.append([output, *torch.autograd.grad(output.sin().sum(), rows)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


PATTERNS = {
    "bidirectional": lambda: Visibility.bidirectional(offsets(3, 4)),
    "causal": lambda: Visibility.causal([3, 4]),
    "autoregressive": lambda: Visibility.autoregressive([3, 4]),
    "draft": lambda: Visibility.draft([3, 4], [1, 4], [2, 3]),
    "janus": lambda: Visibility.janus([3, 4], [1, 2]),
    "mpnet": lambda: Visibility.mpnet([3, 4], [1, 2]),
    "xlnet": lambda: Visibility.xlnet([3, 4], [0, 1, 2, -1, 0, 1, 1]),
    "prophetnet": lambda: Visibility.prophetnet([3, 4], 2),
    "bang": lambda: Visibility.bang([3, 4], 2),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_attention_compiles_with_every_pattern(name):
    """Also where one tensor is two arguments: offsets of queries and keys, times and beginnings, keys and values."""
    torch._dynamo.reset()
    visibility = PATTERNS[name]()
    torch.manual_seed(0)
    query, key = (torch.randn(n, 2, 8, requires_grad=True) for n in (visibility.num_queries, visibility.num_keys))

    def attend(query, key):
        return ops.attention(query, key, key, visibility)

    results = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend="aot_eager")):
        output = function(query, key)
        results.append([output, *torch.autograd.grad(output.sin().sum(), (query, key))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# Autocast and strides


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_under_autocast_factors_of_any_type_are_taken_in_its_own(backend):
    torch.manual_seed(0)
    (query, key, value), visibility = shared_keys()
    hidden, weight, bias, where = torch.randn(6, 16), torch.randn(50, 16), torch.randn(50), offsets(2, 4)
    calls = [
        lambda t: ops.attention(t(query), key, t(value), visibility, backend=backend),
        lambda t: ops.linear_argmax(t(hidden), weight, bias, backend=backend),
        lambda t: ops.linear_topk(hidden, t(weight), bias, k=3, backend=backend),
        lambda t: ops.predict_lengths(t(hidden), where, weight, beam=2, max_length=40, backend=backend),
        lambda t: ops.linear_activation(hidden, t(weight), bias, backend=backend),
    ]
    half = [tensor.bfloat16() for tensor in (query, key, value, hidden, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [_operation.as_tuple(call(torch.Tensor.bfloat16)) for call in calls]
    query, key, value, hidden, weight, bias = half
    for found, call in zip(mixed, calls, strict=True):
        for one, other in zip(found, _operation.as_tuple(call(lambda t: t)), strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


def test_under_autocast_a_residual_is_widened():
    x, small = torch.randn(6, 16), torch.randn(6, 16).bfloat16()
    norm = torch.randn(16), torch.randn(16)
    wide, seed = small.float(), torch.tensor(1)
    expected = ops.add_layer_norm(x, wide, *norm), ops.dropout_add(x, wide, p=0.3, seed=seed)
    with pytest.raises(TypeError, match="add_layer_norm: residual must have the dtype of x"):
        ops.add_layer_norm(x, small, *norm)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.add_layer_norm(x, small, *norm), ops.dropout_add(x, small, p=0.3, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_vectors_may_be_strided(backend):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(6, 16), torch.randn(50, 16), torch.randn(100)[::2]
    (query, key, value), visibility = shared_keys()
    apart = Visibility(*(torch.stack([t, t], 1)[:, 0] for t in vars(visibility).values()))
    where = torch.tensor([0, 9, 2, 9, 6], dtype=torch.int32)[::2]
    for found, expected in (
        (ops.linear_argmax(hidden, weight, bias, backend=backend),
         ops.linear_argmax(hidden, weight, bias.contiguous(), backend=backend)),
        (ops.linear_topk(hidden, weight, bias, k=3, backend=backend),
         ops.linear_topk(hidden, weight, bias.contiguous(), k=3, backend=backend)),
        (ops.predict_lengths(hidden, where, weight, beam=2, max_length=40, backend=backend),
         ops.predict_lengths(hidden, where.contiguous(), weight, beam=2, max_length=40, backend=backend)),
        (ops.linear_activation(hidden, weight, bias, backend=backend),
         ops.linear_activation(hidden, weight, bias.contiguous(), backend=backend)),
        (ops.attention(query, key, value, apart, backend=backend),
         ops.attention(query, key, value, visibility, backend=backend)),
    ):  # fmt: skip
        for one, other in zip(_operation.as_tuple(found), _operation.as_tuple(expected), strict=True):
            assert torch.equal(one, other)


# Bad numbers


def test_not_a_number_shows_in_every_result(isa):
    hidden = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])
    tokens, log_probs = ops.linear_topk(hidden, torch.randn(300, 2), k=3)
    assert log_probs[0].isnan().all() and not log_probs[1].isnan().any()
    assert ((tokens >= 0) & (tokens < 300)).all()
    lengths, log_probs = ops.predict_lengths(hidden[:1], offsets(1), torch.randn(9, 2), beam=2, max_length=8)
    assert log_probs.isnan().all() and ((lengths >= 2) & (lengths <= 8)).all()
    query = torch.full((2, 1, 4), float("nan"))
    assert ops.attention(query, query, query, Visibility.bidirectional(offsets(2))).isnan().all()


def test_every_token_forbidden_gives_nan():
    bias = torch.full((300,), float("-inf"))
    for backend in ("cpp", "reference"):
        tokens, log_probs = ops.linear_topk(torch.randn(2, 4), torch.randn(300, 4), bias, k=2, backend=backend)
        assert log_probs.isnan().all() and tokens.tolist() == [[0, 1], [0, 1]]


# Backends


def test_backends_in_order():
    assert _native.missing is None, _native.missing
    assert ops.backends("attention", "cpu") == ("cpp", "reference")
    missing = {"cuda": _native.cuda_missing, "triton": _triton.missing, "reference": None}
    there = tuple(backend for backend, reason in missing.items() if reason is None)
    assert ops.backends("attention", "cuda") == (there if torch.cuda.is_available() else ())
    with pytest.raises(
        ValueError,
        match=r"operation must be known, got 'atention'; did you mean 'attention'\? Known are 'add_layer_norm', ",
    ):
        ops.backends("atention")


def test_explain_names_the_choice_and_the_reason():
    assert ops.explain("attention") == f"attention on cpu, float32:\n  cpp ({ops.isa()}): chosen\n  reference: can run"
    half = ops.explain("linear_topk", torch.zeros(2, 3, dtype=torch.float16))
    assert "cpp: no: it takes float32, bfloat16, not torch.float16" in half and "reference: chosen" in half


def test_on_meta_tensors_there_are_shapes_alone():
    rows, visibility = shared_keys()
    output = ops.attention(*(r.to("meta") for r in rows), visibility.to("meta"))
    assert output.is_meta and output.shape == rows[0].shape
    assert ops.explain("attention", rows[0].to("meta")) == "attention on meta, float32, with gradients:\n  meta: chosen"
    assert ops.backends("attention", "meta") == ("meta",)


def test_explain_tells_what_a_kernel_s_limits_are():
    pytest.importorskip("triton")
    with FakeTensorMode():  # needs no GPU
        hidden, weight = (torch.empty(rows, 8, device="cuda", dtype=torch.bfloat16) for rows in (3, 40))
        assert "triton: chosen" in ops.explain("linear_topk", hidden, weight, None, 16)
        many = ops.explain("linear_topk", hidden, weight, None, 33)
    assert "triton: no: its k is at most 32, not 33" in many and "reference: chosen" in many


def test_attention_with_gradients_on_cuda_is_triton_s():
    pytest.importorskip("triton")
    with FakeTensorMode():  # needs no GPU
        for size, chosen in ((64, "triton: chosen"), (160, "reference: chosen")):
            query = torch.empty(3, 2, size, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            assert chosen in ops.explain("attention", query)
        assert "triton: no: its head sizes are up to 128, not 160" in ops.explain("attention", query)


def test_half_precision_runs_through_the_reference():
    hidden, weight = torch.randn(3, 8), torch.randn(20, 8)
    expected = reference.linear_argmax(hidden.half(), weight.half(), None)
    tokens, log_probs = ops.linear_argmax(hidden.half(), weight.half())
    assert torch.equal(tokens, expected[0]) and log_probs.dtype == torch.float32


def test_without_the_native_library(monkeypatch):
    monkeypatch.setattr(_native, "missing", "the native library _C.so is not built; build it with: pip install")
    (query, key, value), visibility = shared_keys()
    expected = reference.attention(query, key, value, *vars(visibility).values(), 8**-0.5)[0]
    assert torch.equal(ops.attention(query, key, value, visibility), expected)
    assert ops.backends("attention") == ("reference",)
    assert "cpp: no: the native library _C.so is not built" in ops.explain("attention")
    with pytest.raises(NotImplementedError, match="got 'cpp': .* not built; build it with: pip install"):
        ops.attention(query, key, value, visibility, backend="cpp")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )


# Processes that read the variable, each a copy of one that has imported torch, which takes longer than all else.
CHOSEN = """
import os, torch
for name in names:
    if not os.fork():
        os.environ["JANUS_FAST_ISA"] = name
        from janus_fast import ops
        print(name, ops.isa(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_instruction_set_from_the_environment():
    known = {"avx512_bf16_amx", "avx512_bf16", "avx512", "avx2", "generic"}
    assert set(_native.isas()) <= known and _native.isas()[-1] == "generic"
    expected = {name: name for name in _native.isas()}
    ladder = () if engine.missing() else engine.isas()  # the engine also knows sets that multiply int8 faster
    for place, name in enumerate(ladder):
        expected.setdefault(name, next((other for other in ladder[place:] if other in known), None))
    run = python(f"names = {[*expected]}\n{CHOSEN}")
    assert dict(line.split() for line in run.stdout.splitlines()) == expected
    run = python("import janus_fast.ops", JANUS_FAST_ISA="sse9")
    assert run.returncode != 0
    assert f"JANUS_FAST_ISA must be one of {listed(_native.isas())} on this processor, got 'sse9'" in run.stderr


# Errors: each is provoked and read.

Q, K = torch.zeros(4, 2, 8), torch.zeros(4, 2, 8)
V4 = Visibility.bidirectional(offsets(4))
H, W = torch.zeros(3, 8), torch.zeros(10, 8)
ID = torch.ones(3, dtype=torch.int64)


def lengths(encoded=H, where=None, weight=W, **options):
    where = offsets(3) if where is None else where
    return ops.predict_lengths(encoded, where, weight, **{"beam": 2, "max_length": 9, **options})


def loss(**options):
    return ops.joint_loss({"a": H, "b": H}, W, {"a": ID, "b": ID}, **options)


ERRORS = {
    "query shape": (
        lambda: ops.attention(Q[None], K[None], K[None], V4), ValueError,
        "attention: query must have shape [Nq, H, D], sequences packed one after another, got [1, 4, 2, 8]",
    ),
    "dense mask": (
        lambda: ops.attention(Q, K, K, V4.dense()), TypeError,
        "attention: visibility must be a janus_fast.Visibility, intervals instead of a dense mask, as "
        "Visibility.causal(lengths) makes them, got torch.bool [4, 4]",
    ),
    "query that is no tensor": (
        lambda: ops.attention(Q.numpy(), K, K, V4), TypeError,
        "attention: query must be a tensor, got ndarray",
    ),
    "key shape": (
        lambda: ops.attention(Q, torch.zeros(4, 2, 6), K, V4), ValueError,
        "attention: key must have shape [Nk, H, D] = [*, 2, 8], got [4, 2, 6]",
    ),
    "value rows": (
        lambda: ops.attention(Q, K, K[:3], V4), ValueError,
        "attention: value must have shape [Nk, H, D] = [4, 2, 8], got [3, 2, 8]",
    ),
    "integer query": (
        lambda: ops.attention(Q.int(), K, K, V4), TypeError,
        "attention: query must be a floating-point tensor, got torch.int32",
    ),
    "key dtype": (
        lambda: ops.attention(Q, K.double(), K, V4), TypeError,
        "attention: key must have the dtype of query, torch.float32, got torch.float64",
    ),
    "key device": (
        lambda: ops.attention(Q, K.to("meta"), K, V4), ValueError,
        "attention: key must be on the device of query, cpu, got meta",
    ),
    "visibility of other rows": (
        lambda: ops.attention(Q[:3], K, K, V4), ValueError,
        "attention: visibility.num_queries must be the number of rows of query, 3, got 4",
    ),
    "visibility of other keys": (
        lambda: ops.attention(Q, K[:2], K[:2], V4), ValueError,
        "attention: visibility.num_keys must be the number of rows of key, 2, got 4",
    ),
    "visibility device": (
        lambda: ops.attention(Q.to("meta"), K.to("meta"), K.to("meta"), V4), ValueError,
        "attention: visibility must be on the device of query, meta, got cpu",
    ),
    "offsets that do not fit": (
        lambda: ops.attention(Q, K, K, Visibility(*[offsets(3)] * 2, *list(vars(V4).values())[2:])), RuntimeError,
        "attention: query_offsets must go from 0 to the number of rows, 4, got 0 to 3",
    ),
    "key sequence that is not there": (
        lambda: ops.attention(Q, K, K, Visibility.bidirectional(offsets(4), None, torch.ones(1).int())), RuntimeError,
        "attention: key_sequences must be in [0, 1), got 1",
    ),
    "unknown backend": (
        lambda: ops.attention(Q, K, K, V4, backend="fast"), ValueError,
        "attention: backend must be one of 'auto', 'cpp', 'reference' on cpu, got 'fast'",
    ),
    "backend without the dtype": (
        lambda: ops.attention(Q.half(), K.half(), K.half(), V4, backend="cpp"), NotImplementedError,
        "attention: backend must be able to run this call, got 'cpp': "
        "it takes float32, float64, bfloat16, not torch.float16",
    ),
    "hidden shape": (
        lambda: ops.linear_argmax(H[0], W), ValueError,
        "linear_argmax: hidden must have shape [N, C], got [8]",
    ),
    "weight columns": (
        lambda: ops.linear_topk(H, W[:, :6], k=1), ValueError,
        "linear_topk: weight must have shape [V, C] = [*, 8], got [10, 6]",
    ),
    "no vocabulary": (
        lambda: ops.linear_argmax(H, W[:0]), ValueError,
        "linear_argmax: weight must have at least one row, got shape [0, 8]",
    ),
    "weight dtype": (
        lambda: ops.linear_argmax(H, W.double()), TypeError,
        "linear_argmax: weight must have the dtype of hidden, torch.float32, got torch.float64",
    ),
    "bias shape": (
        lambda: ops.linear_argmax(H, W, torch.zeros(9)), ValueError,
        "linear_argmax: bias must have shape [10], got shape [9]",
    ),
    "bias dtype": (
        lambda: ops.linear_argmax(H, W, torch.zeros(10).double()), TypeError,
        "linear_argmax: bias must have the dtype of hidden, torch.float32, got torch.float64",
    ),
    "bias that is no tensor": (
        lambda: ops.linear_topk(H, W, [0.0] * 10, k=1), TypeError,
        "linear_topk: bias must be a tensor, got list",
    ),
    "k": (
        lambda: ops.linear_topk(H, W, k=11), ValueError,
        "linear_topk: k must be in [1, V = 10], got 11",
    ),
    "columns of a layer": (
        lambda: ops.linear_activation(H, W[:, :6]), ValueError,
        "linear_activation: weight must have shape [O, C] = [*, 8], got [10, 6]",
    ),
    "bias of a layer": (
        lambda: ops.linear_activation(H, W, torch.zeros(9)), ValueError,
        "linear_activation: bias must have shape [10], got shape [9]",
    ),
    "dtype of a layer": (
        lambda: ops.linear_activation(H, W.double()), TypeError,
        "linear_activation: weight must have the dtype of x, torch.float32, got torch.float64",
    ),
    "activation": (
        lambda: ops.linear_activation(H, W, None, "tanh"), ValueError,
        "linear_activation: activation must be one of 'none', 'relu', 'gelu', 'silu', 'gelu_new', 'quick_gelu', "
        "got 'tanh'",
    ),
    "gradients of a layer": (
        lambda: ops.linear_activation(H.clone().requires_grad_(), W, backend="cpp"), NotImplementedError,
        "linear_activation: backend must be able to run this call, got 'cpp': it computes no gradients",
    ),
    "columns of a layer in training": (
        lambda: ops.trained_linear(H, W[:, :6], W[:, 0]), ValueError,
        "trained_linear: weight must have shape [O, C] = [*, 8], got [10, 6]",
    ),
    "dtype of a layer in training": (
        lambda: ops.trained_linear(H, W.bfloat16(), W[:, 0].bfloat16()), TypeError,
        "trained_linear: weight must have the dtype of x, torch.float32, or a wider float32, got torch.bfloat16",
    ),
    "bias of a layer in training": (
        lambda: ops.trained_linear(H.bfloat16(), W, W[:, 0].bfloat16()), TypeError,
        "trained_linear: bias must have the dtype of weight, torch.float32, got torch.bfloat16",
    ),
    "sizes of a layer in training": (
        lambda: ops.trained_linear(H, W, W[:, 0], backend="cpp"), NotImplementedError,
        "trained_linear: backend must be able to run this call, got 'cpp': its channels and outputs are multiples of "
        "32, not 8 and 10",
    ),
    "candidates": (
        lambda: lengths(candidates="best"), ValueError,
        "predict_lengths: candidates must be one of 'window', 'topk', got 'best'",
    ),
    "beam": (
        lambda: lengths(beam=9), ValueError,
        "predict_lengths: beam must be in [1, 8], the number of lengths from min_length = 2 to max_length = 9, got 9",
    ),
    "max_length": (
        lambda: lengths(max_length=10), ValueError,
        "predict_lengths: max_length must be below the number of length classes, 10, got 10",
    ),
    "min_length": (
        lambda: lengths(min_length=-1), ValueError,
        "predict_lengths: min_length must be in [0, max_length = 9], got -1",
    ),
    "source offsets": (
        lambda: lengths(where=offsets(2)), RuntimeError,
        "predict_lengths: offsets must go from 0 to the number of rows, 3, got 0 to 2",
    ),
    "offsets dtype": (
        lambda: lengths(where=offsets(3).long()), TypeError,
        "predict_lengths: offsets must be torch.int32, got torch.int64",
    ),
    "state of a beam": (
        lambda: ops.beam_step(H, ID, [H], eos=2), TypeError,
        "beam_step: state must be a janus_fast.reference.BeamState, as BeamState.new makes it, got list",
    ),
    "weights that are no dict": (
        lambda: loss(cross_entropy=[1.0]), TypeError,
        "joint_loss: cross_entropy must be a dict from streams to weights, got list",
    ),
    "a weight that is no number": (
        lambda: loss(cross_entropy={"a": "1"}), TypeError,
        "joint_loss: cross_entropy['a'] must be a number, got '1'",
    ),
    "a weight that is not finite": (
        lambda: loss(divergence={("a", "b"): float("inf")}), ValueError,
        "joint_loss: divergence[('a', 'b')] must be a finite number, got inf",
    ),
    "a divergence of one stream": (
        lambda: loss(divergence={"ab": 1.0}), TypeError,
        "joint_loss: divergence must be a dict from pairs of streams to weights, got the key 'ab'",
    ),
    "teachers that are no dict": (
        lambda: loss(detach=["a"]), TypeError,
        "joint_loss: detach must be a dict from pairs of streams to one of both, got list",
    ),
}  # fmt: skip


def beam_step(log_probs, ids, eos=2, **state):
    ops.beam_step(log_probs, ids, BeamState(**state), eos=eos)


def decoder_step(**given):
    ops.decoder_step(**given, visibility=STEP_SEES, cross_visibility=STEP_SEES_SOURCES)


def joint_loss(ar, nar, weight, ar_targets, nar_targets, ar_masked, **options):
    ops.joint_loss({"ar": ar, "nar": nar}, weight, {"ar": ar_targets, "nar": nar_targets}, ar_masked, **options)


*STEP, activation, before, eps = dict(ops.OPERATIONS["decoder_step"].samples())["one_layer"]
STEP_SEES, STEP_SEES_SOURCES = Visibility(*STEP[5:11]), Visibility(*STEP[11:])
STEP = dict(zip(("x", "caches", "places", "cross_keys", "parameters"), STEP, strict=False))
TENSORS = {  # every operation, with its arguments that are tensors by name; joint_loss calls its own otherwise
    "add_layer_norm": (ops.add_layer_norm, {"x": H, "residual": H, "weight": H[0], "bias": H[0]}),
    "attention": (partial(ops.attention, visibility=V4), {"query": Q, "key": K, "value": K}),
    "beam_step": (
        beam_step, {"log_probs": torch.zeros(2, 3, 4), "ids": ID.new_zeros(2, 3, 4), **BeamState.new(2, 5, 3)._asdict()}
    ),
    "decoder_step": (decoder_step, STEP),
    "dropout_add": (partial(ops.dropout_add, p=0.1), {"x": H, "residual": H, "seed": ID[0]}),
    "joint_loss": (
        joint_loss,
        {
            "ar": H, "nar": H[:2], "weight": W, "ar_targets": ID, "nar_targets": ID[:2],
            "ar_masked": torch.tensor([0, 2]),
        },
    ),
    "linear_activation": (ops.linear_activation, {"x": H, "weight": W, "bias": W[:, 0]}),
    "linear_argmax": (ops.linear_argmax, {"hidden": H, "weight": W, "bias": W[:, 0]}),
    "linear_topk": (partial(ops.linear_topk, k=2), {"hidden": H, "weight": W, "bias": W[:, 0]}),
    "predict_lengths": (
        partial(ops.predict_lengths, beam=2, max_length=9), {"encoded": H, "offsets": offsets(3), "weight": W}
    ),
    "trained_linear": (ops.trained_linear, {"x": H, "weight": W, "bias": W[:, 0]}),
    "update_mask": (
        partial(ops.update_mask, ratio=0.5, mask_token=4),
        {
            "tokens": ID, "scores": H[:, 0], "rows": ID[:1], "predicted_tokens": ID[:1], "predicted_scores": H[:1, 0],
            "offsets": offsets(3), "row_offsets": offsets(1),
        },
    ),
    "Visibility": (Visibility, vars(V4)),
}  # fmt: skip
OF_JOINT_LOSS = {
    "ar": "hidden['ar']", "nar": "hidden['nar']", "ar_targets": "targets['ar']", "nar_targets": "targets['nar']"
}  # fmt: skip


def test_every_operation_is_tried_with_tensors_that_are_none():
    assert set(TENSORS) == {*_operation.OPERATIONS, "Visibility"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name, argument", [(name, argument) for name, (_, own) in TENSORS.items() for argument in own])
def test_what_is_no_dense_tensor_of_the_device_is_named(name, argument):
    call, tensors = TENSORS[name]
    call(**{other: tensor.clone() for other, tensor in tensors.items()})
    shown = OF_JOINT_LOSS.get(argument, argument)
    for wrong, rule in (
        (tensors[argument].to_sparse(), r"(dense|1-D int32) tensor.*, got (one of layout )?torch\.sparse_coo"),
        (tensors[argument].tolist(), r"(1-D int32 )?tensor.*, got (list|int)$"),
        (torch.nested.nested_tensor([ID]), r"(dense|1-D int32) tensor.*, got a nested (one|tensor)$"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: {re.escape(shown)} must be a {rule}"):
            call(**{**tensors, argument: wrong})
    with pytest.raises(
        ValueError, match=rf"^{name}: .* must be (on the device|a 1-D int32 tensor on) .*, got .*(cpu|meta)$"
    ):
        call(**{**tensors, argument: tensors[argument].to("meta")})


NUMBERS = {  # every argument that is no tensor but a number: its kind, and a value out of its range
    ("add_layer_norm", "eps"): (float, -1.0, "at least 0"),
    ("attention", "scale"): (float, float("inf"), "a finite number"),
    ("beam_step", "eos"): (int, -1, "in [0, 2147483647]"),
    ("decoder_step", "normalize_before"): (bool, 1, "True or False"),
    ("decoder_step", "eps"): (float, -1.0, "at least 0"),
    ("dropout_add", "p"): (float, 1.0, "in [0, 1)"),
    ("joint_loss", "label_smoothing"): (float, 2, "in [0, 1]"),
    ("linear_topk", "k"): (int, 0, "in [1, V = 10]"),
    ("predict_lengths", "beam"): (int, 0, "in [1, 8], the number of lengths from min_length = 2 to max_length = 9"),
    ("predict_lengths", "min_length"): (int, -1, "in [0, max_length = 9]"),
    ("predict_lengths", "max_length"): (int, 10, "below the number of length classes, 10"),
    ("trained_linear", "relu"): (bool, 1, "True or False"),
    ("update_mask", "ratio"): (float, -0.5, "in [0, 1]"),
    ("update_mask", "mask_token"): (int, -1, "in [0, 2147483647]"),
    ("update_mask", "adaptive"): (bool, 1, "True or False"),
    ("update_mask", "static"): (bool, 1, "True or False"),
}


def test_every_operation_is_tried_with_numbers_that_are_none():
    signatures = {name: inspect.signature(vars(ops)[name]).parameters for name in _operation.OPERATIONS}
    kinds = {
        (name, own.name): own.annotation for name, arguments in signatures.items() for own in arguments.values()
        if own.annotation in (int, float, float | None, bool)
    }  # fmt: skip
    kinds["attention", "scale"] = float  # or None
    assert kinds == {key: kind for key, (kind, *_) in NUMBERS.items()}


@pytest.mark.parametrize("name, argument", NUMBERS)
def test_numbers_of_another_kind_or_out_of_range_are_named(name, argument):
    call, tensors = TENSORS[name]
    kind, outside, rule = NUMBERS[name, argument]
    what = {int: "an integer", float: "a number", bool: "True or False"}[kind]
    for wrong in ("1", torch.ones(()), [1], *([1.0, True] if kind is int else [True] if kind is float else [])):
        with pytest.raises(TypeError, match=f"^{name}: {argument} must be {what}, got ") as caught:
            call(**tensors, **{argument: wrong})
        assert str(caught.value).endswith("got a tensor []" if isinstance(wrong, torch.Tensor) else f"got {wrong!r}")
    if kind is float:
        for wrong in (float("nan"), 10**400):
            with pytest.raises(ValueError, match=f"^{name}: {argument} must be a finite number, got {wrong}$"):
                call(**tensors, **{argument: wrong})
    with pytest.raises((TypeError, ValueError)) as caught:
        call(**tensors, **{argument: outside})
    assert str(caught.value) == f"{name}: {argument} must be {rule}, got {outside}"


def test_numpy_s_numbers_are_numbers():
    for (name, argument), value in {
        ("add_layer_norm", "eps"): np.float32(1e-5), ("attention", "scale"): np.float64(0.5),
        ("beam_step", "eos"): np.int64(2), ("linear_topk", "k"): np.int32(2), ("dropout_add", "p"): np.float32(0.5),
        ("predict_lengths", "max_length"): np.uint8(9), ("update_mask", "ratio"): np.float32(0.5),
    }.items():  # fmt: skip
        call, tensors = TENSORS[name]
        call(**{other: tensor.clone() for other, tensor in tensors.items()}, **{argument: value})


@pytest.mark.parametrize(
    "name, argument, letter",
    [
        ("add_layer_norm", "x", "C"), ("attention", "query", "D"), ("beam_step", "log_probs", "K"),
        ("decoder_step", "x", "C"), ("joint_loss", "weight", "C"), ("linear_activation", "x", "C"),
        ("linear_argmax", "hidden", "C"), ("linear_topk", "hidden", "C"), ("predict_lengths", "encoded", "C"),
        ("trained_linear", "x", "C"),
    ],
)  # fmt: skip
def test_what_has_no_channels_is_named(name, argument, letter):
    call, tensors = TENSORS[name]
    wrong = tensors[argument][..., :0]
    with pytest.raises(ValueError) as caught:
        call(**{**tensors, argument: wrong})
    assert str(caught.value) == f"{name}: {argument} must have {letter} of at least 1, got shape {list(wrong.shape)}"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: {"caches": s["caches"].unsqueeze(0)}, r"caches must have shape \[L, Nk, 2, H, D\] with H \* D = 32"),
        (lambda s: {"caches": s["caches"].mT.contiguous().mT}, "caches must be contiguous, got strides"),
        (lambda s: {"cross_keys": torch.cat([s["cross_keys"]] * 2)}, r"cross_keys must have shape \[1, Ns, 2, 2, 16"),
        (lambda s: {"cross_keys": s["cross_keys"].mT.contiguous().mT}, r"cross_keys\[0, 0\] must be contiguous"),
        (lambda s: {"parameters": s["parameters"][:, 1:]}, r"parameters must have shape \[1, 6 C\^2 .*, got \[1, 9"),
        (lambda s: {"places": s["places"].repeat(2)}, "places must have at most the rows of x, 2, got 4"),
        (lambda s: {"x": s["x"][:1]}, "places must have at most the rows of x, 1, got 2"),
        (lambda s: {"caches": s["caches"][:, 1:]}, "visibility must be of 2 queries and 22 keys, got 2 and 23"),
        (lambda s: {"activation": "tanh"}, "activation must be one of"),
    ],
)  # fmt: skip
def test_a_step_says_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=f"^decoder_step: {message}"):
        decoder_step(**{**STEP, **change(STEP)})


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_is_wrong(case):
    assert_refused(*ERRORS[case])


def test_registered_operations_have_their_front_page():
    assert set(_operation.OPERATIONS) <= set(ops.__all__)


@pytest.mark.parametrize(
    "triton, capability, refused", [("3.7.1", (10, 0), True), ("3.8.0", (10, 3), False), ("3.7.1", (9, 0), False)]
)
def test_a_triton_that_cannot_compile_linear_argmax_is_not_asked_to(monkeypatch, triton, capability, refused):
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    monkeypatch.setattr("triton.__version__", triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    hidden = SimpleNamespace(is_cuda=True, device="cuda")
    assert bool(ops.OPERATIONS["linear_argmax"].limits("triton", hidden)) == refused
