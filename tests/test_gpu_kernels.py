"""The tables of docs/gpu-kernels.md are what the command makes; what a card has room for; what a bound is."""

import re

import pytest
from gpu import cubins, gpu_kernels

from benchmarks.cards import CARDS

pytestmark = pytest.mark.gpu

needs_compilers = pytest.mark.skipif(gpu_kernels.missing() is not None, reason=str(gpu_kernels.missing()))


@needs_compilers
def test_the_documented_tables_are_what_the_compilers_make():
    if gpu_kernels.compilers() not in gpu_kernels.committed():
        made_by = re.search(r"By (.*):", gpu_kernels.committed())[1]
        pytest.skip(f"needs {made_by}, which have made the tables; here are {gpu_kernels.compilers()}")
    assert gpu_kernels.section() == gpu_kernels.committed()


def test_every_kernel_is_documented():
    sources = [*(cubins.ROOT / "kernels/triton").glob("*.py"), *(cubins.ROOT / "kernels/cuda").glob("*.cuh")]
    launched = re.compile(r"^def (\w+_kernel)\(|__global__ .*\b(\w+_kernel)\(", re.M)
    kernels = {name for path in sources for pair in launched.findall(path.read_text()) for name in pair if name}
    assert kernels == set(re.findall(r"^\| `(\w+_kernel)", gpu_kernels.committed(), re.M))


def test_documented_bounds_follow_from_shapes_and_data_sheets():
    assert "\n".join(gpu_kernels.bound_table()) in gpu_kernels.committed()


def test_a_multiprocessor_holds_what_its_scarcest_resource_allows():
    a100 = CARDS["sm_80"]
    # 128 registers: 4,096 a warp, 16 warps
    assert a100.occupancy(128, 0, 4) == (0.25, "registers")
    # 40 KiB and 1 KiB of its own: four of 164 KiB
    assert a100.occupancy(32, 40 << 10, 4) == (0.25, "shared memory")
    assert a100.occupancy(32, 41 << 10, 4) == (3 * 4 / 64, "shared memory")
    assert a100.occupancy(30, 0, 1) == (0.5, "blocks")
    assert a100.occupancy(32, 0, 32) == (1.0, "registers")


def test_a_bound_is_the_longer_of_moving_and_computing():
    h100 = CARDS["sm_90"]
    assert h100.bound(3.35e6, 1e6) == (1e-6, "memory")
    assert h100.bound(1.0, 989e6) == (1e-6, "compute")


def test_instructions_are_sorted():
    some = {"HMMA": 3, "UTCHMMA": 1, "LDG": 2, "LDGSTS": 5, "LDSM": 1, "STG": 4, "RED": 1, "UTMALDG": 1, "FADD": 7}
    others = {"LDGDEPBAR": 1, "LDC": 2, "LEA": 1, "S2R": 1, "STRANGE": 1}
    assert gpu_kernels.mix(some | others) == {"tensor": 4, "memory": 14, "other": 13}


def test_tables_are_written_and_checked(tmp_path, monkeypatch, capsys):
    document = tmp_path / "document.md"
    document.write_text(f"before\n{gpu_kernels.MARKS[0]}\nold\n{gpu_kernels.MARKS[1]}\nbehind\n")
    monkeypatch.setattr(gpu_kernels, "DOCUMENT", document)
    monkeypatch.setattr(gpu_kernels, "missing", lambda: None)
    monkeypatch.setattr(gpu_kernels, "section", lambda: "\n".join([gpu_kernels.MARKS[0], "new", gpu_kernels.MARKS[1]]))
    assert gpu_kernels.main(["--check"]) == 1
    assert "write them with --write" in capsys.readouterr().err
    assert gpu_kernels.main(["--write"]) == 0 and gpu_kernels.main(["--check"]) == 0
    assert document.read_text() == f"before\n{gpu_kernels.section()}\nbehind\n"
    monkeypatch.setattr(gpu_kernels, "missing", lambda: "needs Triton: pip install triton")
    assert gpu_kernels.main([]) == 1
    assert capsys.readouterr().err == "gpu_kernels: needs Triton: pip install triton\n"
