"""Residual and norm in one: mixed types, gradients of both summands, mistakes. The rest is in test_conformance.py."""

import interpreted
import pytest
import torch
import torch.nn.functional as F
from test_decoding import make_model

from janus_fast import add_layer_norm, reference
from janus_fast.ops.add_layer_norm import operation


def case(dtype=torch.float32, rows=11, channels=20):
    make = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(rows, channels, generator=make) for _ in range(2))
    weight, bias = (torch.randn(channels, generator=make) for _ in range(2))
    return x.to(dtype), residual, weight, bias


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_residual_takes_the_output_of_a_smaller_type(dtype):
    x, residual, weight, bias = case(dtype)
    expected = F.layer_norm(residual + x, (20,), weight, bias)
    output = add_layer_norm(x, residual, weight, bias)
    assert output.dtype == torch.float32 and torch.equal(output, expected)
    if not interpreted.missing():
        from janus_fast.kernels import add_layer_norm as kernels

        by_triton = kernels.add_layer_norm(x, residual, weight, bias, 1e-5)
        assert_near(by_triton, expected)
        seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        found = kernels.add_layer_norm_bwd(seed, output, x, residual, weight, bias, 1e-5)
        for gradient, truth in zip(found, gradients_of_definition(seed, x, residual, weight, bias)[1:], strict=True):
            assert gradient.dtype == torch.float32
            assert_near(gradient, truth)


def assert_near(result, truth):
    """Sums of a few tens of values in float32, none above the largest: some units in that one's last place."""
    allowed = 4 * torch.finfo(torch.float32).eps * truth.abs().max()
    assert (result.double() - truth.double()).abs().max() <= allowed


def gradients_of_definition(seed, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    x, residual, weight, bias = leaves
    return torch.autograd.grad(F.layer_norm(residual + x, weight.shape, weight, bias), leaves, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_kernel_go_to_all_four(dtype, monkeypatch):
    """What a GPU runs, with the definition for its kernels: which gradient goes where, and in which dtype."""
    monkeypatch.setattr(type(operation), "choose", lambda *_, **__: "triton")
    monkeypatch.setattr(type(operation), "kernel", lambda *_: reference.add_layer_norm)
    leaves = [tensor.requires_grad_() for tensor in case(dtype)]
    output = add_layer_norm(*leaves)
    assert type(output.grad_fn).__name__ == "_KernelBackward"
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found, expected = torch.autograd.grad(output, leaves, seed), gradients_of_definition(seed, *leaves)
    for gradient, truth, leaf in zip(found, expected, leaves, strict=True):
        assert gradient.dtype == leaf.dtype
        torch.testing.assert_close(gradient, truth)


def test_both_summands_have_the_sum_s_gradient():
    leaves = [tensor.requires_grad_() for tensor in case()]
    gradients = torch.autograd.grad(add_layer_norm(*leaves).square().sum(), leaves)
    assert torch.equal(gradients[0], gradients[1]) and gradients[0].abs().max() > 0


@pytest.mark.skipif(interpreted.missing() is not None, reason=interpreted.missing() or "")
def test_a_program_adds_up_several_tiles(monkeypatch):
    from janus_fast.kernels import add_layer_norm as kernels

    leaves = [tensor.double().requires_grad_() for tensor in case(rows=37)[1:]]
    x, residual, weight, bias = case(rows=37)
    output = F.layer_norm(leaves[0] + x.double(), (20,), *leaves[1:])
    seed = torch.randn(37, 20, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(output, leaves, seed.double())
    monkeypatch.setattr(kernels, "TILE", 64)  # two rows of 20 channels: 19 tiles, for 3 programs of 7
    monkeypatch.setattr(kernels, "PROGRAMS", 3)
    results = kernels.add_layer_norm_bwd(seed, output.detach().float(), x, residual, weight, bias, 1e-5)
    for result, truth in zip(results, expected, strict=True):
        assert_near(result, truth)


@pytest.mark.parametrize(("weights", "autocast"), [
    (torch.float32, torch.bfloat16), (torch.float32, torch.float16), (torch.bfloat16, torch.bfloat16),
])  # fmt: skip
def test_models_take_what_autocast_makes(weights, autocast, monkeypatch):
    """Products in one type, sums and norms in another."""
    model = make_model().to(weights)
    source, offsets = torch.tensor([0, 5, 6, 7, 2]), torch.tensor([0, 5], dtype=torch.int32)
    with torch.autocast("cpu", autocast):
        found = model.encode(source, offsets)
        monkeypatch.setattr("janus_fast.model.Layer.after", lambda self, norm, residual, x: norm(residual + x))
        assert torch.equal(found, model.encode(source, offsets))


def test_a_model_compiles_without_a_graph_break():
    layer = make_model().encoder.layers[0]
    arguments = layer.final_layer_norm, torch.randn(5, 32), torch.randn(5, 32)
    compiled = torch.compile(layer.after, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), layer.after(*arguments))


def test_the_definition_serves_every_device():
    """Calls that no kernel takes: a type or a width of its own, or no Triton."""
    for device in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key("janus_fast::add_layer_norm", device)


def test_it_compiles_without_a_graph_break():
    arguments = case()
    compiled = torch.compile(add_layer_norm, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), add_layer_norm(*arguments))
    leaves = [tensor.requires_grad_() for tensor in arguments]
    plain, traced = (torch.autograd.grad(f(*leaves).sum(), leaves) for f in (add_layer_norm, compiled))
    for one, other in zip(plain, traced, strict=True):
        torch.testing.assert_close(one, other)


MISTAKES = {
    "x": ({"x": torch.ones(3)}, ValueError, r"x must have shape \[N, C\], got \[3\]"),
    "shape": ({"residual": torch.ones(3, 20)}, ValueError, "residual must have the shape of x"),
    "residual's dtype": ({"residual": torch.ones(11, 20).half()}, TypeError, "residual must have the dtype of x"),
    "x's dtype": ({"x": torch.ones(11, 20).double()}, TypeError, "residual must have the dtype of x, torch.float64"),
    "weight": ({"weight": torch.ones(19)}, ValueError, r"weight must have shape \[20\], got shape \[19\]"),
    "bias's dtype": ({"bias": torch.ones(20).double()}, TypeError, "bias must be torch.float32, got torch.float64"),
    "device": ({"bias": torch.ones(20, device="meta")}, ValueError, "bias must be on the device of x, cpu, got meta"),
    "backend": ({"backend": "triton"}, ValueError, "backend must be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_error_says_what_is_wrong(name):
    change, kind, message = MISTAKES[name]
    arguments = dict(zip(("x", "residual", "weight", "bias"), case(), strict=True)) | change
    with pytest.raises(kind, match=f"add_layer_norm: {message}"):
        add_layer_norm(**arguments)
