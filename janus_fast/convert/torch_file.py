"""Reads what ``torch.save`` wrote without running anything that the file says.

A pickle is a program. This reader lets it make tensors, numbers, strings and plain containers. Classes of the few
packages that training code leaves in its checkpoints become inert records; any other name is refused.
"""

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..inputs import check_part
from ..reading import naming

ZIP = b"PK\x03\x04"
# torch/serialization.py, before torch 1.6: three pickles, the first of which is this number, stand before the contents.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
INERT_PACKAGES = (
    "argparse", "omegaconf", "fairseq", "typing", "enum", "numpy", "_codecs", "functools", "onmt", "torchtext",
)  # fmt: skip
BUILTIN_TYPES = ("dict", "list", "tuple", "int", "long", "float", "bool", "str", "unicode")  # named, never called
STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Record(dict):
    """An object of a class that is not there: its attributes as a dict, and ``args`` if it was made by a call."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__({"args": args} if args else {})

    def __setstate__(self, state):
        self.update(state if isinstance(state, dict) else {"state": state})


@dataclass(frozen=True)
class Storage:
    """Numbers in the file: ``read(first byte, bytes)`` gets some."""

    dtype: torch.dtype
    elements: int
    read: Callable[[int, int], bytes]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in the file."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        extent = 1 + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True)) if self.numel else 0
        within = min([self.offset, *self.size, *self.stride]) >= 0 and self.offset + extent <= self.storage.elements
        if not within or self.numel > self.storage.elements:
            raise ValueError(f"a tensor of shape {list(self.size)} outside its {self.storage.elements} numbers")
        dtype = self.storage.dtype
        if not extent:
            return torch.empty(self.size, dtype=dtype)
        data = self.storage.read(self.offset * dtype.itemsize, extent * dtype.itemsize)
        if len(data) != extent * dtype.itemsize:
            raise ValueError(f"{len(data)} bytes where a tensor has {extent * dtype.itemsize}")
        return torch.frombuffer(bytearray(data), dtype=dtype).as_strided(self.size, self.stride)

    @property
    def numel(self) -> int:
        return math.prod(self.size)


class RefusedName(Exception):
    """The pickle named something that is neither plain data nor known to be inert."""


def unpickle(file, read: Callable[[str, int, int], bytes] | None = None) -> tuple[object, dict[str, int]]:
    """The object whose pickle begins at ``file``'s place, and the bytes of an element of every storage it names.

    ``read`` as in ``PlainUnpickler``.
    """
    begin = file.tell()
    highest = max((arg for op, arg, _ in pickletools.genops(file) if op.name.endswith("PUT")), default=0)
    if int(highest) > file.tell() - begin:  # the unpickler would make a table of that size
        raise ValueError(f"a pickle of {file.tell() - begin} bytes that numbers {highest} objects")
    file.seek(begin)
    unpickler = PlainUnpickler(file, read)
    return unpickler.load(), unpickler.itemsizes


class PlainUnpickler(pickle.Unpickler):
    """Unpickles tensors (as ``StoredTensor``), plain containers and inert records; nothing else.

    ``read(storage key, first byte, bytes)`` gets at the numbers. Everything a pickle can reach belongs to this one
    unpickling: what it does to a record's class stays there.
    """

    def __init__(self, file, read: Callable[[str, int, int], bytes] | None):
        super().__init__(file)
        self.read = read
        self.itemsizes: dict[str, int] = {}

    def find_class(self, module: str, name: str):
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        if module == "collections" and name in ("OrderedDict", "defaultdict"):
            return OrderedDict if name == "OrderedDict" else self._default_dict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        named = module in ("builtins", "__builtin__") and name in BUILTIN_TYPES
        if named or (module, name) == ("collections", "Counter") or module.partition(".")[0] in INERT_PACKAGES:
            return type(name, (Record,), {"__module__": module})
        raise RefusedName(f"{module}.{name}")

    def persistent_load(self, identity):
        kind, dtype, key, _, elements, *view = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise ValueError("a reference to something else than a tensor's numbers")
        self.itemsizes[key] = dtype.itemsize
        return Storage(dtype, int(elements), lambda first, count: self.read(key, first, count))

    def _tensor(self, storage, offset, size, stride, *_) -> StoredTensor:
        size, stride = (tuple(int(n) for n in numbers) for numbers in (size, stride))
        if not isinstance(storage, Storage) or len(size) != len(stride):
            raise ValueError("a tensor without numbers")
        return StoredTensor(storage, int(offset), size, stride)

    def _parameter(self, data, *_) -> StoredTensor:
        return data

    def _default_dict(self, *_) -> dict:
        return {}


@contextmanager
def open_torch_file(path: str | Path) -> Iterator:
    """Yields the contents of a file that ``torch.save`` wrote, in today's zip format or in the one before torch 1.6.

    Tensors are ``StoredTensor``: ``load()``, within the context, reads one. Nothing that the file names is
    imported or called.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole file of ``torch.save``, or one that holds anything but tensors and plain values.
    """
    check_part("convert", path)
    with naming(path), open(path, "rb") as file:
        start = file.read(len(ZIP))
    if start != ZIP and start[:1] != pickle.PROTO:
        raise ValueError(f"convert: {path} must be a whole file written by torch.save, got a file of another kind")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            if start == ZIP:
                contents = _open_zip(stack.enter_context(zipfile.ZipFile(file)))
            else:
                contents = _open_legacy(file)
        except RefusedName as name:
            raise ValueError(
                f"convert: {path} must hold tensors and plain values alone, got {name} (nothing was executed)"
            ) from None
        except Exception as error:  # a damaged pickle fails in every way there is
            raise ValueError(f"convert: {path} must be a whole file written by torch.save, got {error!r}") from None
        yield contents


def _open_zip(archive: zipfile.ZipFile):
    if packed := [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"{packed[0]!r} compressed, as torch.save never writes it")
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} entries named data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder").decode() != sys.byteorder:
        raise ValueError("numbers of another byte order")

    def read(key: str, first: int, count: int) -> bytes:
        with archive.open(f"{root}data/{key}") as numbers:
            if first:
                numbers.seek(first)
            return numbers.read(count)

    return unpickle(io.BytesIO(archive.read(pickles[0])), read)[0]


def _open_legacy(file):
    places: dict[str, tuple[int, int]] = {}

    def read(key: str, first: int, count: int) -> bytes:
        start, size = places[key]
        file.seek(start + first)
        return file.read(min(count, size - first))

    if unpickle(file)[0] != LEGACY_MAGIC:
        raise ValueError("neither a zip archive nor the older format's first number")
    for _ in range(2):  # protocol version, sizes of C types
        unpickle(file)
    contents, itemsizes = unpickle(file, read)
    for key in unpickle(file)[0]:
        header = file.read(8)  # number of elements; then the elements
        if len(header) < 8:
            raise ValueError("the end of the file among the tensors")
        size = int.from_bytes(header, "little", signed=True) * itemsizes[key]
        places[key] = file.tell(), size
        file.seek(size, io.SEEK_CUR)
    return contents
