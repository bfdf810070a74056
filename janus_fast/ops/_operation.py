"""What every operation shares: its record, its registration with torch, and the choice of a backend."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from janus_fast.inputs import among, choice
from janus_fast.ops import _check, _native, _triton

library = torch.library.Library("janus_fast", "FRAGMENT")
OPERATIONS: dict[str, "Operation"] = {}


def define(name: str, schema: str, fake: Callable, triton: str | None = None) -> None:
    """Registers ``torch.ops.janus_fast.<name>``; its kernels come from the native library, in any load order.

    ``triton`` names the module of ``janus_fast.kernels`` whose function ``name`` implements it on CUDA devices.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.register_fake(f"janus_fast::{name}", fake, lib=library)
    if triton is not None:
        library.impl(name, _triton.launcher(triton, name.removesuffix("_triton")), "CUDA")


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Samples of a normal distribution in float32, the same on every machine.

    torch's own in float32 depend in the last place on the instruction sets that it finds.
    """
    return torch.randn(shape, generator=generator, dtype=torch.float64).float()


def _no_limits(backend: str, *arguments) -> None:
    return None


@dataclass(frozen=True)
class Operation:
    """One operation: its schema, its definition in plain torch, and what its kernels take.

    ``reference`` and the registered operators take the same flat arguments, in the order of ``schema``: the native
    kernels are ``<name>``, on the CPU and on CUDA devices; the Triton kernel, where there is one, ``<name>_triton``.
    ``samples()`` yields (label, flat arguments) for tests: odd sizes, one row, nothing, strided, extreme values.
    ``work(*arguments)`` is (bytes, floating-point operations) that a call needs at least, for benchmark ratios, and
    ``work_bwd(*arguments)`` those of its gradients.
    ``cpp_dtypes``, ``cuda_dtypes`` and ``triton_dtypes`` are what the kernels take, nothing where there is no kernel;
    ``limits(backend, *arguments)`` says why one cannot take a call of such a type, or None; it may see the first few of
    the flat arguments alone.
    ``gradients`` names the arguments that have one, from an operator ``<name>_bwd`` of (gradient of the first result,
    *results, *arguments). The native CUDA kernels have none.
    ``backward(ctx, gradient, *kept)`` gives the gradients of the flat arguments from that of the first floating-point
    result and from ``keep(ctx, results, *arguments)``; ``ctx`` has ``backend`` and ``needs_input_grad``. What
    it computes in torch's own operations has derivatives of every order, what it computes by ``once`` has none.
    """

    name: str
    schema: str
    reference: Callable
    fake: Callable
    samples: Callable[[], Iterable[tuple[str, tuple]]]
    work: Callable[..., tuple[int, int]]
    cpp_dtypes: tuple[torch.dtype, ...] = ()
    cuda_dtypes: tuple[torch.dtype, ...] = ()
    triton_dtypes: tuple[torch.dtype, ...] = ()
    keep: Callable[..., tuple] | None = None
    backward: Callable[..., tuple] | None = None
    limits: Callable[..., str | None] = _no_limits
    gradients: tuple[str, ...] = ()
    work_bwd: Callable[..., tuple[int, int]] | None = None

    def __post_init__(self):
        define(self.name, self.schema, self.fake)
        if self.triton_dtypes:
            define(f"{self.name}_triton", self.schema, self.fake, triton=self.name)
        OPERATIONS[self.name] = self

    def kernel(self, backend: str) -> Callable:
        """The registered operator that runs a backend other than the reference."""
        name = f"{self.name}_triton" if backend == "triton" else self.name
        return getattr(torch.ops.janus_fast, name).default

    def written(self) -> list[int]:
        """Which of the flat arguments are written in place."""
        return [i for i, argument in enumerate(self.schema.partition(" -> ")[0].split(",")) if "!" in argument]

    def differentiable(self) -> list[int]:
        """Which of the flat arguments ``gradients`` names."""
        names = [part.split()[-1] for part in self.schema.partition(")")[0].removeprefix("(").split(",")]
        return [names.index(name) for name in self.gradients]

    def candidates(self, device: str) -> tuple[str, ...]:
        kinds = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "triton", "reference"), "meta": ("meta",)}
        return kinds.get(device, ("reference",))

    def refusal(self, backend: str, *arguments, gradients: bool = False) -> str | None:
        """Why a backend cannot run a call, or None when it can; without arguments, of no call in particular.

        The first argument is the tensor whose dtype all share; ``gradients``: they are wanted, whatever tensors say.
        """
        if backend in ("reference", "meta"):  # the latter makes shapes and dtypes alone
            return None
        dtypes = {"cpp": self.cpp_dtypes, "cuda": self.cuda_dtypes, "triton": self.triton_dtypes}[backend]
        if not dtypes:
            return "there is no such kernel of this operation"
        missing = {"cpp": _native.missing, "cuda": _native.cuda_missing, "triton": _triton.missing}[backend]
        if missing is not None or not arguments:
            return missing
        if arguments[0].dtype not in dtypes:
            return f"it takes {', '.join(str(d).removeprefix('torch.') for d in dtypes)}, not {arguments[0].dtype}"
        if self.backward is None and needs_gradients(*arguments):
            return "it computes no gradients"
        if in_forward_mode(*arguments):
            return "it computes no forward-mode derivatives, which backend='reference' does"
        if torch.compiler.is_compiling() and torch.is_grad_enabled() and in_transform():
            return "torch.compile finds no derivatives of it for torch.func, which backend='reference' has"
        if backend == "cuda" and self.gradients and (gradients or needs_gradients(*arguments)):
            return "it computes no gradients"
        return self.limits(backend, *arguments)

    def choose(self, backend: str, *arguments) -> str:
        """The backend that runs a call, of which every floating-point tensor is given, and what ``limits`` looks at."""
        candidates = self.candidates(arguments[0].device.type)
        if backend == "auto":
            for candidate in candidates:
                if self.refusal(candidate, *arguments) is None:
                    return candidate
        if backend not in candidates:
            rule, got = among(backend, ("auto", *candidates), f" on {arguments[0].device.type}")
            raise ValueError(f"{self.name}: backend must {rule}, got {got}")
        if (reason := self.refusal(backend, *arguments)) is not None:
            raise NotImplementedError(f"{self.name}: backend must be able to run this call, got {backend!r}: {reason}")
        return backend

    def run(self, backend: str, *arguments) -> Tensor | tuple:
        """The results of a chosen backend, with their derivatives; the last dimension of tensors may be strided."""
        if backend == "reference":
            with _no_autocast(arguments[0].device.type):
                return self.reference(*arguments)
        rows = [a.contiguous() if isinstance(a, Tensor) and a.ndim and a.stride(-1) != 1 else a for a in arguments]
        if needs_gradients(*rows):
            return _Kernel.apply(*_distinct(rows), self.name, backend)
        return self.kernel(backend)(*rows)


class _Kernel(torch.autograd.Function):
    """The results of an operation's kernel: (*flat arguments, name of the operation, backend)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs):
        *arguments, name, backend = inputs
        return OPERATIONS[name].kernel(backend)(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *arguments, ctx.name, ctx.backend = inputs
        results = as_tuple(output)
        ctx.differentiable = next(i for i, result in enumerate(results) if result.is_floating_point())
        if others := [result for i, result in enumerate(results) if i != ctx.differentiable]:
            ctx.mark_non_differentiable(*others)
        ctx.set_materialize_grads(False)
        kept = OPERATIONS[ctx.name].keep(ctx, results, *arguments)
        ctx.save_for_backward(*[k if isinstance(k, Tensor) else None for k in kept])
        ctx.others = [None if isinstance(k, Tensor) else k for k in kept]

    @staticmethod
    def backward(ctx, *gradients):
        if gradients[ctx.differentiable] is None:
            return (None,) * len(ctx.needs_input_grad)
        kept = [k if k is not None else other for k, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        gradient = gradients[ctx.differentiable]
        with _no_autocast(gradient.device.type):
            return *OPERATIONS[ctx.name].backward(ctx, gradient, *kept), None, None


class _Once(torch.autograd.Function):
    """Gradients that have no derivative: (*arguments, what computes them, name of the operation, backend)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs):
        *arguments, compute, name, backend = inputs
        return compute(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *_, ctx.name, ctx.backend = inputs

    @staticmethod
    def backward(ctx, *gradients):
        raise _second(ctx)


for function in (_Kernel, _Once):  # else torch looks for it in every call, which takes longer than a small kernel
    function.forward.__signature__ = inspect.signature(function.forward)


def _no_autocast(device: str):
    """What an operation computes is not autocast's to round; of its arguments the functions have taken care."""
    on = device in _check.AUTOCAST and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def once(ctx, compute: Callable, *arguments) -> tuple:
    """``compute(*arguments)`` in a ``backward``; one of the arguments must depend on all that the gradients do."""
    if in_forward_mode(*arguments):
        raise _second(ctx)
    if needs_gradients(*arguments):
        return _Once.apply(*_distinct(arguments), compute, ctx.name, ctx.backend)
    return compute(*arguments)


def _second(ctx) -> NotImplementedError:
    return NotImplementedError(f"{ctx.name}: backend must be 'reference' for second derivatives, got {ctx.backend!r}")


def _distinct(arguments: Sequence) -> Sequence:
    """No tensor twice, which torch.compile refuses of an autograd function."""
    if not torch.compiler.is_compiling():
        return arguments
    distinct = []
    for a in arguments:
        distinct.append(a.view_as(a) if isinstance(a, Tensor) and any(a is b for b in distinct) else a)
    return distinct


def as_tuple(results: Tensor | tuple) -> tuple:
    """What an operator returns, as a tuple also where it is one tensor, or none."""
    return (results,) if isinstance(results, Tensor) else tuple(results or ())


def backends(name: str, device: str = "cpu") -> tuple[str, ...]:
    """The backends that operation ``name`` can use here on ``device``, in the order in which "auto" tries them.

    None where torch finds no such device.

    Raises:
        ValueError: no operation of that name.
    """
    operation = _find(name)
    kind = torch.device(device).type
    module = getattr(torch, kind, None)
    if module is not None and not module.is_available():
        return ()
    return tuple(b for b in operation.candidates(kind) if operation.refusal(b) is None)


def explain(name: str, *arguments) -> str:
    """Which backend runs a call of operation ``name`` (default: of float32 tensors on the CPU), and why.

    Arguments come in the order of the operation's; one alone is enough where no limit concerns the others.

    Raises:
        ValueError: no operation of that name.
    """
    operation = _find(name)
    floating = [isinstance(a, Tensor) and a.is_floating_point() for a in arguments]
    given = arguments[floating.index(True) :] if any(floating) else [torch.empty(0, dtype=torch.float32)]
    device, dtype = given[0].device.type, given[0].dtype
    chosen = operation.choose("auto", *given)
    gradients = ", with gradients" if needs_gradients(*given) else ""
    lines = [f"{name} on {device}, {str(dtype).removeprefix('torch.')}{gradients}:"]
    for candidate in operation.candidates(device):
        reason = operation.refusal(candidate, *given)
        detail = f"no: {reason}" if reason else "chosen" if candidate == chosen else "can run"
        lines.append(f"  {candidate}{f' ({_native.isa()})' if candidate == 'cpp' and not reason else ''}: {detail}")
    return "\n".join(lines)


def needs_gradients(*arguments) -> bool:
    """Whether autograd may ask for a gradient; under a transform of torch.func not every tensor shows it."""
    if not torch.is_grad_enabled():
        return False
    if in_transform():
        return True
    for a in arguments:  # a generator would take twice as long, and every call asks
        if isinstance(a, Tensor) and a.requires_grad:
            return True
    return False


def in_transform() -> bool:
    return torch._C._are_functorch_transforms_active()


def in_forward_mode(*arguments) -> bool:
    """Whether forward-mode derivatives may be asked for; under torch.func.jvp or torch.compile no tensor shows it.

    torch's level alone does not say, for all threads share it.
    """
    return forward_ad._current_level >= 0 and (
        torch.compiler.is_compiling()
        or in_transform()
        or any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in arguments)
    )


def _find(name: str) -> Operation:
    return OPERATIONS[choice("janus_fast: operation", name, sorted(OPERATIONS))]
