"""A model's parameters as numpy arrays: read from its file, or given, and checked before anything is made of them.

Arrays hold float64, float32 or float16 numbers, the bits of bfloat16 ones as uint16, or int8 ones: ``name`` [rows,
columns] int8 goes with ``name_scale`` [rows] float32, and stands for ``name * name_scale[:, None]``.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from . import parameters
from .config import JanusConfig
from .inputs import check_part
from .reading import naming

QUANTIZATIONS = ("float32", "bfloat16", "int8")
SCALE = "_scale"
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}


def read(path: Path, config: JanusConfig) -> dict[str, np.ndarray]:
    """The parameters that a file holds for a model of ``config``: views of the file, which is not copied.

    Raises:
        OSError: no such file, or one that cannot be read.
        ValueError: it is damaged, or not of this model.
    """
    header, start = _header(path)
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    quantised = {name for name, entry in header.items() if entry["dtype"] == "I8"}
    check_shapes(config, shapes, path, quantised)
    with naming(path), open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"checkpoint: {path}: {name} must hold floating-point numbers, got {entry['dtype']}")
        begin, end = (start + offset for offset in entry["data_offsets"])
        array = np.frombuffer(memoryview(data)[begin:end], DTYPES[entry["dtype"]]).reshape(shapes[name])
        arrays[name] = np.require(array, requirements="A")  # other writers may leave gaps that do not suit the type
    check_finite(arrays, path)
    return arrays


def check_shapes(config: JanusConfig, shapes: Mapping[str, tuple], origin, quantised: set[str] = frozenset()) -> None:
    """Raises ValueError unless ``shapes``, of tensors from ``origin``, are what a model of ``config`` has.

    ``quantised`` are the names of the matrices stored as int8.
    """
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        if (last := f"{side}.layers.{layers - 1}.fc1.weight") not in shapes:  # before as many layers are counted
            raise ValueError(f"checkpoint: {origin} must hold every parameter of the model, got no {last!r}")
    expected = parameters.shapes(config)
    expected |= {name + SCALE: expected[name][:1] for name in quantised if parameters.is_matrix(name)}
    if missing := sorted(set(expected) - set(shapes)):
        raise ValueError(f"checkpoint: {origin} must hold every parameter of the model, got no {missing[0]!r}")
    if unknown := sorted(set(shapes) - set(expected)):
        raise ValueError(f"checkpoint: {origin} must hold the parameters of the model alone, got {unknown[0]!r}")
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise ValueError(f"checkpoint: {origin}: {name} must have shape {list(shape)}, got {list(shapes[name])}")
    if wrong := sorted(name for name in quantised if not parameters.is_matrix(name)):
        raise ValueError(f"checkpoint: {origin}: {wrong[0]} must hold floating-point numbers, got I8")


def check_finite(arrays: Mapping[str, np.ndarray], origin) -> None:
    if name := nonfinite(arrays):
        raise ValueError(f"checkpoint: {origin}: {name} must hold finite numbers alone, got NaN or infinity")


def nonfinite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The name of an array that holds NaN, infinity, or what is too large for float32; None when there is none."""
    for name, array in arrays.items():
        if array.dtype == np.uint16:  # the exponent's bits are all ones
            finite = not ((array & 0x7F80) == 0x7F80).any()
        else:
            with np.errstate(over="ignore"):
                finite = np.isfinite(array.astype(np.float32, copy=False)).all()
        if not finite:
            return name
    return None


def is_quantised(arrays: Mapping[str, np.ndarray]) -> bool:
    return any(array.dtype == np.int8 for array in arrays.values())


def float32(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters as new float32 arrays, whatever they were stored as."""

    def widened(name: str) -> np.ndarray:
        array = arrays[name]
        if array.dtype == np.int8:
            return array * arrays[name + SCALE][:, None]
        if array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)

    return {name: widened(name) for name in arrays if name.removesuffix(SCALE) == name}


def _header(path: Path) -> tuple[dict[str, dict], int]:
    """The entry of every tensor, and where their data begins; the file is whole."""
    check_part("checkpoint", path)
    with naming(path), open(path, "rb") as file:  # first: safe_open says of what it may not open that it is not there
        try:
            with safe_open(path, "numpy"):  # it checks the header and the file's length
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"checkpoint: {path} must be a whole safetensors file, got {error}") from None
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size
