"""The CUDA operations without a GPU: they are in the library, it loads, and torch can trace and compile them."""

import shutil

import emulated
import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from janus_fast import ops
from janus_fast.ops import _native, on_device

OPERATIONS = ["attention", "update_mask", "predict_lengths", "update_mask_static", "predict_canvases", "beam_step"]
SAMPLES = {
    "attention": {k: v for k, v in ops.OPERATIONS["attention"].samples()}["strided"],
    "update_mask": {k: v for k, v in ops.OPERATIONS["update_mask"].samples()}["half"],
    "predict_lengths": {k: v for k, v in ops.OPERATIONS["predict_lengths"].samples()}["topk"],
}
SAMPLES["predict_canvases"] = SAMPLES["predict_lengths"]
SAMPLES["update_mask_static"] = (
    *SAMPLES["update_mask"][:3],
    torch.ones(3, dtype=torch.int32),
    *SAMPLES["update_mask"][3:6],
    torch.ones(5, dtype=torch.bool),
    *SAMPLES["update_mask"][6:],
)


_SEARCH = emulated.BeamSearch(None, sentences=2, beams=3, choices=6, longest=4, length_penalty=1.0, eos=2)
SAMPLES["beam_step"] = (
    torch.zeros(6, 6, dtype=torch.int64), torch.zeros(6, 6), _SEARCH.divisors, _SEARCH.eos,
    *(getattr(_SEARCH, name) for name in on_device.STATE),
)  # fmt: skip


def native(name: str):
    return getattr(torch.ops.janus_fast, name).default


def on_cuda(arguments: tuple) -> list:
    """Fake tensors on a GPU that need not be there."""
    return [
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda") if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs CUDA's compiler, nvcc, in the PATH when _C.so is built")
def test_the_library_has_the_kernel(name):
    assert _native.missing is None, _native.missing
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"janus_fast::{name}", "CUDA")


@pytest.fixture
def fake_gpu():
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_of_fake_tensors_lie_on_the_gpu(name, fake_gpu):
    results = native(name)(*on_cuda(SAMPLES[name]))
    assert [result.device.type for result in results or ()] == ["cuda"] * len(native(name)._schema.returns)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operator_is_registered_as_torch_wants_it(name, fake_gpu):
    torch.library.opcheck(native(name), on_cuda(SAMPLES[name]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_compiles_into_one_graph(name, fake_gpu):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        # where inputs are written in place, AOT asks for the GPU's streams; opcheck traces that operation through AOT
        return graph if name == "beam_step" else aot_eager(graph, inputs)

    def twice(*arguments):
        return [result + result for result in native(name)(*arguments) or ()]

    torch.compiler.reset()
    results = torch.compile(twice, backend=backend, fullgraph=True)(*on_cuda(SAMPLES[name]))
    assert [result.device.type for result in results] == ["cuda"] * len(native(name)._schema.returns)
    (graph,) = graphs
    assert [node.target for node in graph.graph.nodes if "janus_fast" in str(node.target)] == [native(name)]
