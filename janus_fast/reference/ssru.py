"""The recurrence of an SSRU over packed rows."""

import torch
from torch import Tensor


def ssru(x: Tensor, forget: Tensor, offsets: Tensor) -> Tensor:
    """``relu(c)`` of the states ``c`` that the rows of each sequence leave, one after another.

    State ``t`` of a sequence is ``f * c + (1 - f) * x[t]``, where ``c`` is the state before, zeros before the first
    row, and ``f`` is ``sigmoid(forget[t])``. States are float32 where ``x`` is narrower.

    Args:
        x: [N, C], what enters.
        forget: [N, C], how much of the state before stays, as logits.
        offsets: [S + 1] integers, where each sequence begins.
    Returns:
        [N, C], of the type of ``x``.
    Source: SSRU (Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine
        Translation"), and class ``SSRU`` in ``src/rnn/cells.h`` of marian-dev (2781d735, browsermt, 2024).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    stays, enters = forget.to(wide).sigmoid(), (-forget.to(wide)).sigmoid() * x.to(wide)
    states = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        state = torch.zeros_like(x[0], dtype=wide) if end > begin else None
        for row in range(begin, end):
            state = stays[row] * state + enters[row]
            states.append(state)
    return torch.stack(states).relu().to(x.dtype) if states else torch.empty_like(x)
