"""Linear layers as the CPU wants them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import OPERATIONS, _check, isa
from .ops._operation import in_forward_mode, in_transform, needs_gradients
from .reference.linear_activation import ACTIVATIONS

# In float32 the CPU's matrix products slow down by a third when they sum over more than some 4,000 rows at once. A
# part is half of that, to be well below on other processors, too.
MOST_ROWS = 2048
# The CPU's products of these are compiled anew for each number of rows, half a MiB each, so that memory grows where no
# two batches have as many. Of numbers with four leading bits there are few, and at most an eighth more rows to compute;
# above 1,024 multiples of 64 are few enough.
COMPILED, ROWS_AT_ONCE = (torch.bfloat16, torch.float16), 64
WITH_RELU = ("cpu", "cuda", "meta")  # devices whose product takes relu along


def filled(x: Tensor) -> Tensor:
    """Rows [N, C], of ``COMPILED`` dtypes on the CPU with rows of zeros behind them, so that there are few N."""
    if x.dtype not in COMPILED or x.device.type != "cpu" or in_transform():
        return x
    rows = x.shape[0]
    if torch.compiler.is_compiling():  # N is a symbol, of which nothing may be asked
        return F.pad(x, (0, 0, 0, -rows % ROWS_AT_ONCE)) if torch.is_grad_enabled() else x
    step = min(ROWS_AT_ONCE, 1 << max(0, rows.bit_length() - 4))
    return F.pad(x, (0, 0, 0, -rows % step)) if -rows % step else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``activation`` of ``F.linear`` of rows [N, C], for inference.

    On the CPU, in the types of its kernel, that is ``ops.linear_activation``: what a row becomes does not depend on the
    others. Elsewhere it is torch's product, of ``filled`` rows.
    """
    if runs_row_by_row(x, weight, bias):
        return _row_by_row(x, weight, bias, activation)
    return _by_torch(x, weight, bias, activation)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    rows = filled(x)
    if activation == "relu" and bias is not None and x.device.type in WITH_RELU:
        product = torch._addmm_activation(bias, rows, weight.t())
    else:
        product = ACTIVATIONS[activation](F.linear(rows, weight, bias))
    return product if rows is x else product[: x.shape[0]]


def is_plain_cpu(x: Tensor) -> bool:
    """Whether ``x`` is on the CPU and nothing but a tensor: what is traced with fake ones is what GPUs would get."""
    return type(x) is Tensor and x.device.type == "cpu"


def runs_row_by_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether rows are computed by our kernel, each as if it were alone."""
    if not is_plain_cpu(x) or in_transform() or torch.is_autocast_enabled("cpu"):
        return False
    return OPERATIONS["linear_activation"].refusal("cpp", x, weight, bias) is None


def _row_by_row(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    if x.stride(-1) == 1 and weight.stride(-1) == 1 and (bias is None or bias.stride(0) == 1):
        return torch.ops.janus_fast.linear_activation.default(x, weight, bias, activation)  # 2 microseconds of 5 sooner
    return OPERATIONS["linear_activation"].run("cpp", x, weight, bias, activation)


def trains_in_amx(x: Tensor) -> bool:
    """Whether layers train by our kernel: under autocast to bfloat16, where the processor has AMX.

    Elsewhere products take so much longer than what is around them that it brings nothing.
    """
    return (
        torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and is_plain_cpu(x)
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not (torch.compiler.is_compiling() or in_transform())
        and isa() == "avx512_bf16_amx"
    )


def factor(x: Tensor) -> Tensor:
    """Rows of several products, rounded once for all of them where our kernel trains the layers."""
    return x.to(torch.bfloat16) if trains_in_amx(x) else x


class Linear(nn.Linear):
    """``activation`` of ``nn.Linear`` for rows [N, C], computed in ways that suit the CPU.

    Without gradients as ``linear`` does. With gradients, and autocast to bfloat16 on a processor with AMX, that is
    ``ops.trained_linear``. Elsewhere in float32 the gradient of the weight is summed up in parts of ``MOST_ROWS`` rows;
    in bfloat16, and under autocast, rows are ``filled``.
    """

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        if activation in ("none", "relu") and self._trains_in_amx(x):
            x = x.to(torch.bfloat16)
            return OPERATIONS["trained_linear"].run("cpp", x, self.weight, self.bias, activation == "relu")
        return ACTIVATIONS[activation](self._product(x))

    def _trains_in_amx(self, x: Tensor) -> bool:
        if x.ndim != 2 or self.bias is None or self.weight.dtype != torch.float32 or not trains_in_amx(x):
            return False
        return OPERATIONS["trained_linear"].refusal("cpp", x, self.weight, self.bias) is None

    def _product(self, x: Tensor) -> Tensor:
        if x.ndim == 2 and runs_row_by_row(x, self.weight, self.bias):
            return _row_by_row(x, self.weight, self.bias)
        if x.ndim != 2 or x.device.type != "cpu" or in_transform() or in_forward_mode(x, self.weight, self.bias):
            return F.linear(x, self.weight, self.bias)
        if needs_gradients(self.weight):
            if torch.is_autocast_enabled("cpu"):
                (x,) = _check.autocast(x)
            elif x.shape[0] > MOST_ROWS and x.dtype == torch.float32:
                return _Linear.apply(x, self.weight, self.bias)
        return _by_torch(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad_output):
        x, weight = ctx.saved_tensors
        parts = -(-x.shape[0] // MOST_ROWS)
        (first, *others), (first_gradients, *gradients) = x.tensor_split(parts), grad_output.tensor_split(parts)
        grad_weight = first_gradients.T @ first
        for rows, of_rows in zip(others, gradients, strict=True):
            grad_weight.addmm_(of_rows.T, rows)
        grad_x = grad_output @ weight if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight, grad_output.sum(0) if ctx.needs_input_grad[2] else None
