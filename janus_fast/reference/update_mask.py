"""The step between two passes of mask-predict, by definition: write, compare, sort each canvas by score."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 3


def update_mask(
    tokens: Tensor, scores: Tensor, rows: Tensor, predicted_tokens: Tensor, predicted_scores: Tensor, offsets: Tensor,
    ratio: float, mask_token: int, row_offsets: Tensor | None = None, adaptive: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns new tokens [N], new scores [N], the rows to mask next, ascending, and zeros behind them [N], which
    canvases changed [S], the new tokens with ``mask_token`` in these rows [N], where each canvas' rows begin [S + 1],
    and how many scores are not finite [1]."""
    count = rows.numel() if row_offsets is None else int(row_offsets[-1])
    new_tokens = tokens.index_put((rows[:count],), predicted_tokens[:count])
    new_scores = scores.index_put((rows[:count],), predicted_scores[:count])
    certainty = new_scores.nan_to_num(nan=float("-inf"), neginf=float("-inf"), posinf=float("inf"))
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    changed = masked.new_zeros(offsets.numel() - 1)
    begins = offsets.tolist()
    for canvas, (begin, end) in enumerate(pairwise(begins)):
        changed[canvas] = (new_tokens[begin:end] != tokens[begin:end]).any()
        if row_offsets is not None and row_offsets[canvas] == row_offsets[canvas + 1]:
            continue  # it is done
        words = max(end - begin - 2, 0)
        chosen = int(torch.tensor(words, dtype=torch.float32) * torch.tensor(ratio, dtype=torch.float32))
        masked[begin:end] = new_tokens[begin:end] == mask_token
        masked[begin + 1 + certainty[begin + 1 : end - 1].argsort(stable=True)[:chosen]] = True
        if adaptive and not changed[canvas] and FEW * masked[begin:end].sum() <= words:
            masked[begin:end] = False
    listed = masked.nonzero().flatten()
    next_rows = F.pad(listed, (0, tokens.numel() - listed.numel()))
    next_offsets = F.pad(masked.cumsum(0), (1, 0))[offsets.long()].to(torch.int32)
    not_finite = (~new_scores[: begins[-1]].isfinite()).sum(0, keepdim=True, dtype=torch.int32)
    masked_tokens = new_tokens.masked_fill(masked, mask_token)
    return new_tokens, new_scores, next_rows, changed, masked_tokens, next_offsets, not_finite
