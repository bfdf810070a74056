"""What nvcc makes of the CUDA kernels on each target: nothing spilled, resources within budget, tensor cores in use."""

import pytest
from gpu import cubins

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cubins.nvcc() is None, reason="needs CUDA's compiler: nvcc in the PATH, or NVCC"),
]

# Registers of a thread and bytes of static shared memory: what the blocks that a multiprocessor is to hold leave each.
BUDGETS = {
    "update_mask_kernel": (64, 128),
    "predict_lengths_kernel<float>": (64, 384),
    "predict_lengths_kernel<__nv_bfloat16>": (64, 384),
    "beam_step_kernel": (64, 2048),
    "decoder_step_kernel<float>": (128, 0),
    "decoder_step_kernel<__nv_bfloat16>": (128, 0),
    **{f"attention_kernel<{t}, 32>": (128, 0) for t in ("__half", "__nv_bfloat16")},
    **{f"attention_kernel<{t}, 64>": (168, 0) for t in ("__half", "__nv_bfloat16")},
    **{f"attention_kernel<{t}, 96>": (192, 0) for t in ("__half", "__nv_bfloat16")},
    **{f"attention_kernel<{t}, 128>": (224, 0) for t in ("__half", "__nv_bfloat16")},
}


@pytest.mark.parametrize("target", cubins.TARGETS)
@pytest.mark.parametrize("name", cubins.FILES)
def test_resources_are_within_budget(name, target):
    kernels = cubins.kernels(name, target)
    assert kernels
    for kernel in kernels:
        registers, shared = BUDGETS[kernel.name]
        assert kernel.spilled == 0 and kernel.stack == 0, kernel
        assert kernel.registers <= registers and kernel.shared <= shared, kernel


def test_every_budget_is_of_a_kernel():
    assert {kernel.name for name in cubins.FILES for kernel in cubins.kernels(name, "sm_90")} == set(BUDGETS)


@pytest.mark.parametrize("target", cubins.TARGETS)
@pytest.mark.skipif(cubins.nvdisasm() is None, reason="needs nvdisasm, of CUDA's toolkit or of Triton's wheel")
def test_attention_uses_tensor_cores_and_asynchronous_copies(target):
    for kernel in cubins.kernels("attention", target):
        padded_size = int(kernel.name.split(",")[1].rstrip(">"))
        # 32 keys a tile: [16, D] @ [D, 32] and [16, 32] @ [32, D] in steps of 16 x 16 x 8
        assert kernel.instructions["HMMA"] == 2 * (padded_size // 16) * (32 // 8), kernel
        assert kernel.instructions["LDSM"] and kernel.instructions["LDGSTS"], kernel
        assert not kernel.instructions["LDL"] and not kernel.instructions["STL"], kernel
