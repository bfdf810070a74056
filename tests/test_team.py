"""The engine's threads, without Python: as they come, and under ThreadSanitizer, which names unordered accesses."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler; CXX names one")
@pytest.mark.parametrize("sanitizer", [[], ["-fsanitize=thread"]], ids=["plain", "thread"])
def test_threads_that_are_stopped_at_any_point_lose_nothing(sanitizer, tmp_path):
    command = [COMPILER, "-std=c++17", "-O1", "-g", "-pthread", *sanitizer, "-I", ROOT]
    command += [ROOT / "tests/team_test.cpp", ROOT / "csrc/engine/team.cpp", "-o", tmp_path / "team_test"]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "team_test"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
