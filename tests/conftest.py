"""What every test runs under: fresh memory is full of NaN, so that a result which nobody wrote shows; without a GPU,
Triton interprets its kernels, which must be said before anything imports it; where tests run in several processes, each
has one thread unless a test asks for more.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def nan_filled_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
