"""Marian's binary files, ``.bin``, read without Marian: headers, names, shapes, then what each array holds.

Layout and types are those of marian-dev's ``src/common/binary.cpp`` and ``types.h`` as of 2781d735 (browsermt, 2024).
"""

import math
from pathlib import Path

import numpy as np

from ..reading import naming, read_bytes

VERSION = 1  # the file's first number
TYPES = {
    0x101: "i1", 0x102: "<i2", 0x104: "<i4", 0x108: "<i8", 0x201: "u1", 0x202: "<u2", 0x204: "<u4", 0x208: "<u8",
    0x402: "<f2", 0x404: "<f4", 0x408: "<f8",
}  # fmt: skip
# Integers: numbers multiplied by a float, which lies behind them. Matrices, but not embeddings, are transposed.
QUANTIZED = {0x4101: "i1", 0x4102: "<i2"}  # intgemm8, intgemm16


def recognises(file: Path) -> bool:
    """Whether a file is one of these, and no other system's ``.bin`` or a shortlist."""
    if file.suffix != ".bin" or not file.is_file():
        return False
    with naming(file), open(file, "rb") as stream:
        return stream.read(8) == VERSION.to_bytes(8, "little")


def read(file: Path) -> dict[str, np.ndarray]:
    """The arrays by name, quantised ones in float32; a ValueError where the file is not whole or has other types."""
    content, at = read_bytes(file), 8

    def take(kind: str, count: int) -> np.ndarray:
        nonlocal at
        begin, at = at, at + count * np.dtype(kind).itemsize
        if at > len(content):
            raise ValueError(f"convert: {file} must be a whole .bin of Marian, got {len(content):,} bytes")
        return np.frombuffer(content, kind, count, begin)

    count = int(take("<u8", 1)[0])
    headers = [tuple(map(int, take("<u8", 4))) for _ in range(count)]
    names = [bytes(take("u1", length)).rstrip(b"\0").decode(errors="replace") for length, _, _, _ in headers]
    shapes = [tuple(map(int, take("<i4", length))) for _, _, length, _ in headers]
    take("u1", int(take("<u8", 1)[0]))  # up to where the arrays begin
    arrays = {}
    for name, shape, (_, kind, _, size) in zip(names, shapes, headers, strict=True):
        data = take("u1", size)
        if min(shape, default=1) < 0:
            raise ValueError(f"convert: {file}: {name} must have sizes of at least 0, got the shape {shape}")
        stored = TYPES.get(kind) or QUANTIZED.get(kind)
        if stored is None:
            known = "float16, float32, intgemm8 or intgemm16"
            raise ValueError(f"convert: {file}: {name} must be of type {known}, got type {kind:#x}, of one processor")
        elements = math.prod(shape)
        bytes_ = elements * np.dtype(stored).itemsize
        if size < bytes_ + 4 * (kind in QUANTIZED):
            raise ValueError(f"convert: {file}: {name} must have {elements:,} numbers, got {size:,} bytes")
        array = np.frombuffer(data[:bytes_], stored)
        if kind in QUANTIZED:
            array = array.astype(np.float32) / np.frombuffer(data[bytes_ : bytes_ + 4], "<f4")
            array = array.reshape(shape) if "Wemb" in name else array.reshape(shape[::-1]).T
        arrays[name] = array.reshape(shape)
    return arrays
