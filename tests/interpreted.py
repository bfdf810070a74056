"""Triton's interpreter, made to check: importing this repairs it for the whole process, where it is on.

It runs kernels on the CPU when TRITON_INTERPRET=1 was set before Triton was imported. As it comes, it reads and writes
wherever a pointer leads, multiplies the bit patterns of bfloat16, truncates when it rounds to bfloat16, and leaves
``tl.dot`` to NumPy's BLAS, which adds up in an order of its own on each processor. Here

* every launch sees copies of its tensors with room between them, and an address that is no element of any is an error;
* bfloat16 is rounded to nearest even, ``tl.dot`` takes it, and other arithmetic in it is an error: kernels widen first;
* ``tl.dot`` is, for each element, a chain of fused multiply-adds that begins with what it is added to: so Triton
  compiles it for float32. Tensor cores add up several exact products at once, which errs no more.
"""

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

if find_spec("triton"):
    import triton.language as tl
    from triton import knobs
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

ROOM = 1 << 12  # bytes before and behind each tensor


def missing() -> str | None:
    """Why kernels are not interpreted here, or None."""
    if not find_spec("triton"):
        return "needs Triton: pip install triton"
    if not knobs.runtime.interpret:
        return "needs the interpreter: TRITON_INTERPRET=1, which is set where no GPU is"
    return None


class Memory:
    """The tensors of one launch, copied apart."""

    def __init__(self, tensors: list[Tensor]):
        self.blocks: dict[tuple, tuple[Tensor, Tensor]] = {}  # what identifies a tensor: itself and its copy
        for tensor in tensors:
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if key not in self.blocks:
                self.blocks[key] = (tensor, _copied_apart(tensor))
        copies = sorted((copy for _, copy in self.blocks.values() if copy.numel()), key=Tensor.data_ptr)
        self.starts = np.array([copy.data_ptr() for copy in copies], dtype=np.int64)
        elements = [_elements(copy) for copy in copies]
        self.sizes = np.array([e.size for e in elements], dtype=np.int64)
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.is_element = np.concatenate([*elements, np.zeros(1, bool)])

    def __getitem__(self, tensor: Tensor) -> Tensor:
        return self.blocks[tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()][1]

    def check(self, pointers, mask, what: str) -> None:
        addresses = pointers.data.astype(np.int64)
        if mask is not None:
            addresses = addresses[np.broadcast_to(mask.data, addresses.shape)]
        outside = np.ones(addresses.shape, bool)
        if self.starts.size:
            block = np.searchsorted(self.starts, addresses, side="right") - 1
            byte = addresses - self.starts[block]
            inside = (block >= 0) & (byte < self.sizes[block])
            outside = ~self.is_element[np.where(inside, self.firsts[block] + byte, -1)]
        if outside.any():
            raise IndexError(f"{what}: {int(outside.sum())} of {outside.size} addresses are no element of an argument")

    def write_back(self) -> None:
        for tensor, copy in self.blocks.values():
            if tensor.numel() and not np.array_equal(_bytes(tensor), _bytes(copy)):
                tensor.copy_(copy)


def _span(tensor: Tensor) -> int:
    """Bytes from the first to behind the last element."""
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


def _copied_apart(tensor: Tensor) -> Tensor:
    storage = torch.zeros(_span(tensor) + 2 * ROOM, dtype=torch.uint8)
    copy = storage[ROOM : ROOM + _span(tensor)].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())  # of an expanded dimension
    copy[once].copy_(tensor[once])
    return copy


def _elements(tensor: Tensor) -> np.ndarray:
    """[bytes] bool: where an element begins."""
    begins = np.zeros(_span(tensor), bool)
    offsets = np.zeros(1, np.int64)
    for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = (offsets[:, None] + np.arange(n) * stride * tensor.element_size()).ravel()
    begins[offsets] = True
    return begins


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy() if tensor.ndim else _bytes(tensor[None])


def _widened(handle):
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(handle, dtype):
    data = torch.from_numpy(np.ascontiguousarray(handle.data)).bfloat16().view(torch.int16).numpy().view(np.uint16)
    return TensorHandle(data, dtype.scalar)


def _chain(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    """start + a @ b in the dtype of ``start``; a product of two numbers below float64 is exact in float64.

    A sum is rounded to float64 and then to that dtype, which differs from one rounding only next to a tie.
    """
    total, scratch = start.astype(np.float64), np.empty(start.shape)
    for k in range(a.shape[-1]):
        total += np.multiply(a[..., k, None], b[..., None, k, :], out=scratch)
        total[...] = total.astype(start.dtype)
    return total.astype(start.dtype)


def _install() -> None:
    """Puts the checks and repairs between Triton's builder and what it does."""
    builder, memory = InterpreterBuilder, []

    def around(name: str, make) -> None:
        setattr(builder, name, make(getattr(builder, name)))

    def checked(what):
        def make(original):
            def access(self, *arguments):
                places = {"load": (0, 1), "store": (0, 2), "atomic": (1, 3)}[what]
                pointers, mask = (arguments[i] for i in places)
                memory[-1].check(pointers, mask, what)
                return original(self, *arguments)

            return access

        return make

    def dot(original):
        def product(self, a, b, start, *rest):
            a, b = _widened(a).data.astype(np.float64), _widened(b).data.astype(np.float64)
            return TensorHandle(_chain(a, b, start.data), start.dtype.scalar)

        return product

    def cast(original):
        def convert(self, source, dtype, *rest):
            if source.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
                return _rounded(source, dtype)
            return original(self, source, dtype, *rest)

        return convert

    def arithmetic(original):
        def compute(self, *arguments):
            if any(isinstance(a, TensorHandle) and a.dtype.scalar == tl.bfloat16 for a in arguments):
                raise TypeError("arithmetic in bfloat16: convert to float32 first")
            return original(self, *arguments)

        return compute

    around("create_masked_load", checked("load"))
    around("create_masked_store", checked("store"))
    around("create_atomic_rmw", checked("atomic"))
    around("create_dot", dot)
    around("cast_impl", cast)
    around("create_fp_to_fp", cast)
    for name in ("binary_op", "unary_op", "create_fma"):
        around(name, arithmetic)

    run = GridExecutor.__call__

    def launch(self, *arguments, **options):
        memory.append(Memory([a for a in (*arguments, *options.values()) if isinstance(a, Tensor)]))
        try:
            apart = lambda a: memory[-1][a] if isinstance(a, Tensor) else a  # noqa: E731
            run(self, *map(apart, arguments), **{name: apart(a) for name, a in options.items()})
            memory[-1].write_back()
        finally:
            memory.pop()

    GridExecutor.__call__ = launch


if not missing():
    _install()
