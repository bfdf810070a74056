"""Attention over visibility intervals, by definition: pad, mask, softmax."""

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, query_offsets: Tensor, key_offsets: Tensor, key_sequences: Tensor,
    query_times: Tensor, visible_from: Tensor, visible_until: Tensor, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns output [Nq, H, D] and the log-sum-exp of the visible scores [Nq, H] (minus infinity where none is)."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    if query.shape[0] == 0 or key.shape[0] == 0:
        output = query * 0.0 + (key.sum() + value.sum()) * 0.0  # zeros that gradients flow through
        return output, query.new_full(query.shape[:2], float("-inf"), dtype=dtype)
    q_index, q_real = _padded_index(query_offsets[:-1], query_offsets.diff())  # [Q, Lq]
    seen = key_sequences.long()
    k_index, k_real = _padded_index(key_offsets[:-1][seen], key_offsets.diff()[seen])  # [Q, Lk]
    q_index, k_index = q_index.clamp(max=query.shape[0] - 1), k_index.clamp(max=key.shape[0] - 1)

    time = query_times[q_index][:, :, None]  # [Q, Lq, 1]
    sees = (visible_from[k_index][:, None] <= time) & (time < visible_until[k_index][:, None])
    sees = (sees & k_real[:, None] & q_real[:, :, None])[:, None]  # [Q, 1, Lq, Lk]
    # [Q, H, Lq, D] @ [Q, H, D, Lk] -> [Q, H, Lq, Lk]
    scores = query[q_index].to(dtype).transpose(1, 2) @ key[k_index].to(dtype).permute(0, 2, 3, 1) * scale
    scores = scores.masked_fill(~sees, float("-inf"))
    lse = scores.detach().logsumexp(-1)  # [Q, H, Lq]; a constant shift of the softmax, so no gradient is lost
    weights = torch.where(sees, (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp(), 0.0)
    weights = weights / weights.sum(-1, keepdim=True).masked_fill(~sees.any(-1, keepdim=True), 1.0)
    output = (weights @ value[k_index].to(dtype).transpose(1, 2)).transpose(1, 2)  # [Q, Lq, H, D]
    return output[q_real].to(query.dtype), lse.transpose(1, 2)[q_real]


def _padded_index(begins: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [S, L] of packed sequences laid out as a rectangle, and which of them are real."""
    column = torch.arange(int(lengths.max()) if lengths.numel() else 0, device=begins.device)
    return begins[:, None].long() + column, column < lengths[:, None]
