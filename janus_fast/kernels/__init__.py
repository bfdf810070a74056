"""The Triton kernels. They lie in kernels/triton, which takes the place of this file in a wheel."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "kernels" / "triton")]
