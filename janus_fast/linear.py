"""Linear layers as training wants them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops._operation import in_forward_mode, in_transform, needs_gradients

# In float32 the CPU's matrix products slow down by a third when they sum over more than some 4,000 rows at once. A
# part is half of that, to be well below on other processors, too.
MOST_ROWS = 2048


class Linear(nn.Linear):
    """``nn.Linear`` for rows [N, C], whose weight's gradient on the CPU is summed up in parts of ``MOST_ROWS`` rows."""

    def forward(self, x: Tensor) -> Tensor:
        long = x.ndim == 2 and x.shape[0] > MOST_ROWS and x.device.type == "cpu" and x.dtype == torch.float32
        plain = torch.is_autocast_enabled("cpu") or in_transform() or in_forward_mode(x, self.weight, self.bias)
        if long and not plain and needs_gradients(self.weight):
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
