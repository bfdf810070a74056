"""What Triton makes of its kernels on each target: nothing spilled, resources within budget, tensor cores in use.

No GPU is needed. Kernels are compiled as bfloat16 calls of the benchmarks launch them, in a process of its own,
since this one interprets them; where an operation has a sample of the widest rows it takes, as that is launched, too.
"""

from importlib.util import find_spec

import pytest
from gpu import cubins, gpu_kernels

from janus_fast.ops import _triton

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton: pip install triton"),
    pytest.mark.skipif(
        bool(find_spec("triton")) and _triton.older_than(3, 9),
        reason="budgets are of Triton 3.9: pip install -U triton",
    ),
    pytest.mark.skipif(cubins.nvdisasm() is None, reason="needs nvdisasm, of CUDA's toolkit or of Triton's wheel"),
]

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
# Registers of a thread and bytes of shared memory, on any of NVIDIA's targets. 65,536 registers hold as many blocks as
# their warps leave each: two blocks of 8 warps at 128 registers, three of 4 warps at 168.
BUDGETS = {
    "attention_plan_kernel": (64, 0),
    "attention_fwd_kernel": (128, 40 << 10 | 64),
    "attention_bwd_query_kernel": (168, 28 << 10 | 64),
    "attention_bwd_key_value_kernel": (255, 26 << 10 | 64),
    "linear_topk_fwd_kernel": (255, 96 << 10 | 64),
    "linear_topk_merge_kernel": (64, 64),
    "linear_topk_choose_kernel": (168, 64),
    "joint_loss_fwd_kernel": (255, 84 << 10 | 64),
    "joint_loss_merge_kernel": (80, 512),
    "joint_loss_terms_kernel": (64, 64),
    "joint_loss_bwd_logits_kernel": (255, 84 << 10 | 64),
    "dropout_add_fwd_kernel": (40, 0),
    "add_layer_norm_fwd_kernel": (48, 2 << 10),
    "add_layer_norm_bwd_kernel": (128, 2 << 10),
}
# The same for the widest rows, an odd number of channels, at 8 warps.
WIDEST_BUDGETS = {"add_layer_norm_fwd_kernel": (96, 8 << 10), "add_layer_norm_bwd_kernel": (208, 8 << 10)}
# The instructions of tensor cores, in products of at least 64 rows and in smaller ones.
TENSOR_CORES = {
    "sm_80": ("HMMA", "HMMA"), "sm_90": ("HGMMA", "HMMA"), "sm_100": ("UTCHMMA", "HMMA"),
    "gfx942": ("v_mfma", "v_mfma"),
}  # fmt: skip
LARGE_PRODUCTS = {
    "attention_bwd_key_value_kernel", "linear_topk_fwd_kernel", "joint_loss_fwd_kernel",
    "joint_loss_bwd_logits_kernel",
}  # fmt: skip
SMALL_PRODUCTS = {"attention_fwd_kernel", "attention_bwd_query_kernel"}
# Instructions that spill, at most. With 4 warps a thread of these has more than it can hold, outside the loops that
# multiply; on an H200 the first two took 0.68 and 0.82 of what 8 warps took, which spill nothing.
SPILLS = {
    ("joint_loss_fwd_kernel", "sm_80"): 32, ("joint_loss_fwd_kernel", "sm_100"): 12,
    ("joint_loss_bwd_logits_kernel", "sm_80"): 160, ("joint_loss_bwd_logits_kernel", "sm_90"): 128,
    ("joint_loss_bwd_logits_kernel", "sm_100"): 340, ("linear_topk_fwd_kernel", "sm_100"): 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled() -> list[dict]:
    return gpu_kernels.compiled_by_triton()


@pytest.mark.parametrize("target", TARGETS)
def test_resources_are_within_budget(compiled, target):
    kernels = [kernel for kernel in compiled if kernel["target"] == target]
    budgets = {"training": BUDGETS, "widest": WIDEST_BUDGETS}
    for call, expected in budgets.items():
        assert {kernel["kernel"] for kernel in kernels if kernel["call"] == call} == set(expected)
    for kernel in kernels:
        assert kernel["spills"] <= SPILLS.get((kernel["kernel"], target), 0), kernel
        if target != "gfx942":
            registers, shared = budgets[kernel["call"]][kernel["kernel"]]
            assert kernel["registers"] <= registers and kernel["shared"] <= shared, kernel


@pytest.mark.parametrize("target", TARGETS)
def test_products_use_tensor_cores_and_asynchronous_copies(compiled, target):
    for kernel in compiled:
        name, instructions = kernel["kernel"], kernel["instructions"]
        if kernel["target"] != target or name not in LARGE_PRODUCTS | SMALL_PRODUCTS:
            continue
        assert instructions.get(TENSOR_CORES[target][name in SMALL_PRODUCTS]), kernel
        if target != "gfx942" and name != "attention_bwd_key_value_kernel":  # which skips tiles by a branch
            assert instructions.get("LDGSTS"), kernel
