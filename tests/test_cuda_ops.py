"""Every operation that runs on CUDA devices, without a GPU: it is registered there, loads without a driver, and torch
can trace and compile it.
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import janus_fast
from janus_fast import ops
from janus_fast.ops import _native
from janus_fast.ops._operation import as_tuple
from janus_fast.visibility import Visibility

pytestmark = pytest.mark.gpu

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="needs CUDA's compiler, nvcc, in the PATH when _C.so is built"
)
needs_triton = pytest.mark.skipif("triton" not in ops.backends("linear_topk", "cuda"), reason="needs Triton")

NATIVE = [name for name, operation in ops.OPERATIONS.items() if operation.cuda_dtypes]
TRITON = [f"{name}_triton" for name, operation in ops.OPERATIONS.items() if operation.triton_dtypes]
GRADIENTS = [f"{name}_bwd" for name, own in ops.OPERATIONS.items() if own.gradients and own.triton_dtypes]


def sample(name: str) -> tuple:
    """Arguments of an operator that has no gradients in its name."""
    samples = dict(ops.OPERATIONS[name.removesuffix("_triton")].samples())
    return samples.get("strided" if name.startswith("attention") else "room", next(iter(samples.values())))


SAMPLES = {name: sample(name) for name in (*NATIVE, *TRITON, *(name.removesuffix("_bwd") for name in GRADIENTS))}


def on_cuda(arguments: tuple) -> list:
    """Fake tensors on a GPU that need not be there."""
    return [
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda") if isinstance(a, Tensor) else a
        for a in arguments
    ]


def call_of(name: str) -> tuple:
    """An operator and fake arguments on a GPU."""
    if name not in GRADIENTS:
        return native(name), on_cuda(SAMPLES[name])
    forward = name.removesuffix("_bwd")
    arguments = on_cuda(SAMPLES[forward])
    results = as_tuple(native(forward)(*arguments))
    return native(name), [torch.empty_like(results[0]), *results, *arguments]


def results_of(operator, arguments) -> tuple:
    results = operator(*arguments)
    return () if results is None else as_tuple(results)


def native(name: str):
    return getattr(torch.ops.janus_fast, name).default


@needs_nvcc
@pytest.mark.parametrize("name", NATIVE)
def test_the_library_has_the_kernel(name):
    assert _native.missing is None, _native.missing
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"janus_fast::{name}", "CUDA")


@needs_nvcc
def test_these_are_all_operators_with_kernels_on_cuda():
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    own = {name.removeprefix("janus_fast::") for name in registered if name.startswith("janus_fast::")}
    assert own == {*NATIVE, *TRITON, *GRADIENTS}


@needs_nvcc
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf, of binutils")
def test_loading_the_library_needs_nothing_of_cuda():
    entries = subprocess.run(["readelf", "-d", _native.PATH], capture_output=True, text=True, check=True).stdout
    needed = [line for line in entries.splitlines() if "NEEDED" in line]
    assert any("torch_cpu" in line for line in needed) and not any("cuda" in line for line in needed), needed


@needs_triton
def test_triton_kernels_are_imported_without_a_driver_and_refuse_the_cpu():
    names = [name.removesuffix("_triton") for name in TRITON]
    code = f"import torch, janus_fast.ops\nfrom janus_fast.kernels import {', '.join(names)}\n"
    code += "x = torch.zeros(2, 3)\ntorch.ops.janus_fast.linear_topk_triton(x, x, None, 1)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "Could not run 'janus_fast::linear_topk_triton' with arguments from the 'CPU' backend" in done.stderr


@pytest.fixture
def fake_gpu():
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


EVERY = [*NATIVE, *(pytest.param(name, marks=needs_triton) for name in (*TRITON, *GRADIENTS))]


@pytest.mark.parametrize("name", EVERY)
def test_results_of_fake_tensors_lie_on_the_gpu(name, fake_gpu):
    operator, arguments = call_of(name)
    assert [result.device.type for result in results_of(operator, arguments)] == ["cuda"] * len(
        operator._schema.returns
    )


@pytest.mark.parametrize("name", EVERY)
def test_operator_is_registered_as_torch_wants_it(name, fake_gpu):
    torch.library.opcheck(*call_of(name))


@pytest.mark.parametrize("name", EVERY)
def test_compiles_into_one_graph(name, fake_gpu):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        # where inputs are written in place, AOT asks for the GPU's streams; opcheck traces that operation through AOT
        return graph if name in ("beam_step", "decoder_step") else aot_eager(graph, inputs)

    operator, arguments = call_of(name)

    def twice(*arguments):
        return [result + result for result in results_of(operator, arguments)]

    torch.compiler.reset()
    results = torch.compile(twice, backend=backend, fullgraph=True)(*arguments)
    assert [result.device.type for result in results] == ["cuda"] * len(operator._schema.returns)
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes if "janus_fast" in str(node.target)] == [operator]


def by_front_pages(query, key, value, weight, integers) -> list[Tensor]:
    """Without gradients and joint_loss, whose page indexes: torch's CPU build does neither with a GPU's tensors.
    test_ops.py, test_joint_loss.py and test_dropout_add.py compile both on the CPU."""
    attended = janus_fast.attention(query, key, value, Visibility(*integers)).flatten(1)
    hidden = janus_fast.dropout_add(attended, attended, p=0.5)
    lengths = janus_fast.predict_lengths(hidden, integers[0], weight, beam=2, max_length=20)
    return [hidden, *lengths, *janus_fast.linear_argmax(hidden, weight), *janus_fast.linear_topk(hidden, weight, k=3)]


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_front_pages_compile_into_one_graph(dtype, fake_gpu):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    make = {"device": "cuda", "dtype": dtype}
    rows, weight = [torch.empty(9, 2, 16, **make) for _ in range(3)], torch.empty(40, 32, **make)
    integers = [torch.empty(n, dtype=torch.int32, device="cuda") for n in (2, 2, 1, 9, 9, 9)]
    torch.compiler.reset()
    results = torch.compile(by_front_pages, backend=backend, fullgraph=True)(*rows, weight, integers)
    assert {result.device.type for result in results} == {"cuda"} and len(graphs) == 1
