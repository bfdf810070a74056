"""What of janus_fast is installed, how to install what is not, and what the environment asks of it; without torch."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
BUILD_ENGINE = "pip install -e ."  # these in a checkout
BUILD_OPERATIONS = (
    "pip install 'torch>=2.11' 'setuptools>=77' ninja pybind11 && pip install --no-build-isolation -e '.[train]'"
)
HOW_TO_INSTALL = {  # packages that not everything needs
    "torch": f"in a checkout of janus_fast, {BUILD_OPERATIONS}",
    "triton": "pip install triton",
    "matplotlib": "pip install matplotlib",
    "subword_nmt": "pip install subword-nmt",
    "rouge_score": "pip install rouge-score",
    "tokenizers": "pip install tokenizers",
    "transformers": "pip install 'transformers>=5.23'",
    "ray": "pip install 'ray[data]>=2.60'",
    "janus_fast_corpus": "in a checkout of janus_fast, pip install ./tools/corpus",
}


def asked_isa() -> str | None:
    """The instruction set to which JANUS_FAST_ISA holds all CPU kernels, if it is set."""
    return os.environ.get("JANUS_FAST_ISA") or None


def absence(package: str) -> str:
    return f"{package}, which is not installed: {HOW_TO_INSTALL[package]}"


def need(package: str, what: str) -> None:
    """Raises ModuleNotFoundError, which says how to install it, where ``package`` is not, which ``what`` needs."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"{what} needs {absence(package)}", name=package)


def operations_missing() -> str | None:
    """Why there are no native operations here, or None; see ``refuse_to_hide_another``."""
    if (PACKAGE / "_C.so").exists():
        return None
    refuse_to_hide_another()
    return f"the native library _C.so is not built; in a checkout, build it with: {BUILD_OPERATIONS}"


def slow() -> str | None:
    """What to warn of where training and operations on the CPU take several times as long as they need to."""
    missing = operations_missing()
    return missing and f"in torch the operations run through their plain definitions, several times slower: {missing}"


def engine_missing() -> str | None:
    if any(PACKAGE.glob("_engine.*")):
        return None
    refuse_to_hide_another()
    return f"the native engine is not built; in a checkout, build it with: {BUILD_ENGINE}"


def refuse_to_hide_another() -> None:
    """Python started in a checkout imports what lies there, and not what is installed.

    Raises:
        OSError: nothing is built here, and an installed janus_fast is, which this one hides.
    """
    if any(PACKAGE.glob("_*.so")):
        return
    for finder in sys.meta_path:  # an editable install has a finder of its own
        for path in (None, *([entry] for entry in sys.path)):
            found = finder.find_spec("janus_fast", path)
            other = Path(found.origin).resolve().parent if found and found.origin else PACKAGE
            if other != PACKAGE and any(other.glob("_*.so")):
                raise OSError(
                    f"janus_fast: {PACKAGE}, where nothing is built, hides the installed {other}: start Python in "
                    f"another directory, or build this one: {BUILD_ENGINE}, or with the operations: {BUILD_OPERATIONS}"
                )
