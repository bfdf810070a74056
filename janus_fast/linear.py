"""Linear layers as training wants them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops import _check
from .ops._operation import in_forward_mode, in_transform, needs_gradients

# In float32 the CPU's matrix products slow down by a third when they sum over more than some 4,000 rows at once. A
# part is half of that, to be well below on other processors, too.
MOST_ROWS = 2048
# In bfloat16 the CPU's products are compiled anew for each number of rows, half a MiB each, so that memory grows where
# no two batches have as many. Of multiples of this number there are few. More saves little and computes more zeros.
ROWS_AT_ONCE = 64


class Linear(nn.Linear):
    """``nn.Linear`` for rows [N, C], which with gradients on the CPU is computed in ways that suit it.

    In float32 the weight's gradient is summed up in parts of ``MOST_ROWS`` rows. Under autocast rows of zeros fill N up
    to a multiple of ``ROWS_AT_ONCE``.
    """

    def forward(self, x: Tensor) -> Tensor:
        plain = x.ndim != 2 or x.device.type != "cpu" or not needs_gradients(self.weight)
        if plain or in_transform() or in_forward_mode(x, self.weight, self.bias):
            return F.linear(x, self.weight, self.bias)
        rows = x.shape[0]
        if torch.is_autocast_enabled("cpu"):
            (x,) = _check.autocast(x)
            return F.linear(F.pad(x, (0, 0, 0, -rows % ROWS_AT_ONCE)), self.weight, self.bias)[:rows]
        if rows > MOST_ROWS and x.dtype == torch.float32:
            return _Linear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


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
