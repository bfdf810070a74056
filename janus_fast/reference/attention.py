"""Attention over visibility intervals, by definition: pad, mask, softmax."""

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, query_offsets: Tensor, key_offsets: Tensor, key_sequences: Tensor,
    query_times: Tensor, visible_from: Tensor, visible_until: Tensor, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns output [Nq, H, D] and the log-sum-exp of the visible scores [Nq, H] (minus infinity where none is)."""
    q_index, q_real = _padded_index(query_offsets)  # [Q, Lq]
    k_index, k_real = (t[key_sequences.long()] for t in _padded_index(key_offsets))  # [Q, Lk]
    q_index, k_index = q_index.clamp(max=max(query.shape[0] - 1, 0)), k_index.clamp(max=max(key.shape[0] - 1, 0))
    if query.shape[0] == 0 or key.shape[0] == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:2], float("-inf"))

    time = query_times[q_index][:, :, None]  # [Q, Lq, 1]
    sees = (visible_from[k_index][:, None] <= time) & (time < visible_until[k_index][:, None])
    sees = (sees & k_real[:, None] & q_real[:, :, None])[:, None]  # [Q, 1, Lq, Lk]
    # [Q, H, Lq, D] @ [Q, H, D, Lk] -> [Q, H, Lq, Lk]
    scores = query[q_index].transpose(1, 2) @ key[k_index].permute(0, 2, 3, 1) * scale
    scores = scores.masked_fill(~sees, float("-inf"))
    lse = scores.logsumexp(-1)  # [Q, H, Lq]
    weights = torch.where(sees, (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp(), 0.0)
    output = (weights @ value[k_index].transpose(1, 2)).transpose(1, 2)  # [Q, Lq, H, D]
    return output[q_real], lse.transpose(1, 2)[q_real]


def _padded_index(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [S, L] of packed sequences laid out as a rectangle, and which of them are real."""
    lengths = offsets.diff().long()
    column = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=offsets.device)
    return offsets[:-1, None].long() + column, column < lengths[:, None]
