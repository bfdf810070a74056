"""Linear layers: gradients in parts are the gradients, and products of few numbers of rows the products."""

import pytest
import torch
from test_decoding import make_model, make_sources
from torch import nn

from benchmarks.budget import allowed, error, largest
from janus_fast import Translator, linear
from janus_fast.ops import _native


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wants_x", [True, False])
def test_gradients_in_parts_are_the_gradients(monkeypatch, bias, wants_x):
    monkeypatch.setattr(linear, "MOST_ROWS", 20)
    torch.manual_seed(0)
    layer, x, gradient = linear.Linear(12, 7, bias), torch.randn(50, 12, requires_grad=wants_x), torch.randn(50, 7)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    leaves = [*([x] if wants_x else []), *layer.parameters()]
    output = layer(x)
    assert type(output.grad_fn).__name__ == "_LinearBackward" and torch.equal(output, plain)
    found, expected = (torch.autograd.grad(y, leaves, gradient) for y in (output, plain))
    for by_parts, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(by_parts, whole, rtol=1e-5, atol=50 * torch.finfo(torch.float32).eps)


def test_derivatives_in_other_modes_are_torch_s(monkeypatch):
    monkeypatch.setattr(linear, "MOST_ROWS", 20)
    layer, x = linear.Linear(12, 7).double(), torch.randn(50, 12, dtype=torch.float64, requires_grad=True)

    def penalty(function):  # the gradient that comes in needs none itself
        (gradient,) = torch.autograd.grad(function(x).sum(), layer.weight, create_graph=True)
        (other,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum() + other.square().sum(), (x, layer.weight))

    def plain(x):
        return nn.functional.linear(x, layer.weight, layer.bias)

    torch.testing.assert_close(penalty(layer), penalty(plain))
    x = x.detach()
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (x,))[1], torch.func.jvp(plain, (x,), (x,))[1])
    by_func = torch.func.grad(lambda y: layer(y).sum())(x)
    torch.testing.assert_close(by_func, layer.weight.detach().sum(0).expand(50, 12))


def test_others_are_torch_s(monkeypatch):
    monkeypatch.setattr(linear, "MOST_ROWS", 20)
    layer = linear.Linear(12, 7)
    assert type(layer(torch.randn(20, 12)).grad_fn).__name__ == "AddmmBackward0"
    with torch.no_grad():
        assert not layer(torch.randn(50, 12)).requires_grad


@pytest.mark.parametrize("rows", [0, 1, 64, 70, 150, 513])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_under_autocast_products_have_few_sizes(monkeypatch, rows, dtype):
    seen, plain = [], nn.functional.linear
    monkeypatch.setattr(linear.F, "linear", lambda x, *rest: seen.append(x.shape) or plain(x, *rest))
    torch.manual_seed(0)
    layer, x = linear.Linear(12, 7), torch.randn(rows, 12, dtype=dtype, requires_grad=True)
    layer = layer.double() if dtype == torch.float64 else layer
    gradient, leaves = torch.randn(rows, 7, dtype=torch.bfloat16), (x, *layer.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(x), plain(x, layer.weight, layer.bias)
    whole = {70: 72, 150: 160, 513: 576}.get(rows, rows) if dtype != torch.float64 else rows
    assert seen == [(whole, 12)] and outputs[0].shape == (rows, 7)
    found, expected = ([y, *torch.autograd.grad(y, leaves, gradient.to(y.dtype))] for y in outputs)
    for ours, torchs in zip(
        found, expected, strict=True
    ):  # both round once to bfloat16, behind sums of at most 513 terms
        budget = torch.finfo(torchs.dtype if dtype == torch.float64 else torch.bfloat16).eps
        torch.testing.assert_close(ours, torchs, rtol=2 * budget, atol=2 * budget)


@pytest.mark.skipif("avx512_bf16_amx" not in _native.isas(), reason="needs a processor with AMX")
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_under_autocast_layers_train_by_our_kernel_in_amx(activation):
    torch.manual_seed(0)
    layer, x, gradient = linear.Linear(64, 96), torch.randn(75, 64, requires_grad=True), torch.randn(75, 96).bfloat16()
    leaves, results = (x, *layer.parameters()), {}
    with torch.no_grad():  # numbers of bfloat16, so that rounding switches no unit of ReLU
        for leaf in leaves:
            leaf.copy_(leaf.bfloat16())
    for isa in ("avx512_bf16_amx", "avx512_bf16"):
        with _native.use_isa(isa), torch.autocast("cpu", torch.bfloat16):
            assert linear.factor(x).dtype == (torch.bfloat16 if isa.endswith("amx") else torch.float32)
            y = layer(linear.factor(x), activation)
            results[isa] = [y, *torch.autograd.grad(y, leaves, gradient)]
    ours, torchs = results.values()
    truth = linear.ACTIVATIONS[activation](nn.functional.linear(x.double(), *(p.double() for p in layer.parameters())))
    truths = [truth, *torch.autograd.grad(truth, leaves, gradient.double())]
    for own, other, true in zip(ours, torchs, truths, strict=True):
        assert own.dtype == other.dtype
        budget = allowed(error(other, true), largest(true), torch.bfloat16)
        assert error(own, true) <= budget
    assert error(ours[2], truths[2]) < error(torchs[2], truths[2])  # sums of the weight's gradient are not rounded


def test_under_autocast_without_gradients_rows_stay_as_they_are(monkeypatch):
    seen, plain = [], nn.functional.linear
    monkeypatch.setattr(linear.F, "linear", lambda x, *rest: seen.append(x.shape) or plain(x, *rest))
    layer = linear.Linear(12, 7)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(torch.randn(50, 12)).dtype == torch.bfloat16
    assert seen == [(50, 12)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_have_few_sizes_and_little_more_work(monkeypatch, dtype):
    monkeypatch.setattr(_native, "missing", "not built")  # nor are products of our own
    seen, plain = set(), nn.functional.linear
    monkeypatch.setattr(linear.F, "linear", lambda x, *rest: seen.add(x.shape[0]) or plain(x, *rest))
    torch.manual_seed(0)
    whole, weight, bias = torch.randn(4096, 12).to(dtype), torch.randn(7, 12).to(dtype), torch.randn(7).to(dtype)
    sums, eps = plain(whole.double(), weight.double(), bias.double()), torch.finfo(dtype).eps
    # sums in float32 or better and one rounding; terms are at most the sum of their sizes
    budget = eps * sums.abs() + 13 * 2**-23 * plain(whole.double().abs(), weight.double().abs(), bias.double().abs())
    for rows in range(4097):
        product = linear.linear(whole[:rows], weight, bias)
        assert product.shape == (rows, 7) and rows <= linear.filled(whole[:rows]).shape[0] <= rows * 9 / 8
        assert ((product.double() - sums[:rows]).abs() <= budget[:rows]).all()
    assert len(seen) < 130
    assert linear.filled(rows := whole[:64]) is rows  # where nothing is missing, nothing is copied
    assert linear.filled(rows := torch.randn(70, 12)) is rows and linear.filled(rows := rows.to("meta", dtype)) is rows


@pytest.mark.parametrize("mode", ["ar", "nar", "speculative"])
def test_decoding_in_bfloat16_has_few_sizes(monkeypatch, mode):
    """No product of torch's has a number of rows of its own."""
    monkeypatch.setattr(_native, "missing", "not built")
    translator, seen = Translator(make_model(), backend="torch", compute_type="bfloat16"), set()
    plain, fused = nn.functional.linear, torch._addmm_activation
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: seen.add(x.shape[0]) or plain(x, *rest))
    monkeypatch.setattr(torch, "_addmm_activation", lambda b, x, w: seen.add(x.shape[0]) or fused(b, x, w))
    for count in range(1, 12):
        translator.generate(make_sources(count), mode=mode, max_batch_size=64)
    filled = {linear.filled(torch.empty(rows, 1, dtype=torch.bfloat16)).shape[0] for rows in range(max(seen) + 1)}
    assert max(seen) > 64 and seen <= filled


def test_of_a_compiled_model_the_number_of_rows_stays_open():
    layer, sizes = linear.Linear(12, 7).bfloat16(), ({0: torch.export.Dim("rows", min=2)},)
    with torch.no_grad():
        exported = torch.export.export(layer, (torch.randn(70, 12).bfloat16(),), dynamic_shapes=sizes).module()
        x = torch.randn(513, 12).bfloat16()
        torch.testing.assert_close(exported(x), nn.functional.linear(x, layer.weight, layer.bias))
