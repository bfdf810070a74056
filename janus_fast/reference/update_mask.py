"""The step between two passes of a refinement, by definition: write, compare, sort each canvas by score."""

import torch
from torch import Tensor


def update_mask(
    tokens: Tensor, scores: Tensor, rows: Tensor, predicted_tokens: Tensor, predicted_scores: Tensor, offsets: Tensor,
    ratio: float, mask_token: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns new tokens [N], new scores [N], the rows to mask next [M2], ascending, and which canvases changed [S]."""
    new_tokens = tokens.index_put((rows,), predicted_tokens)
    new_scores = scores.index_put((rows,), predicted_scores)
    masked = new_tokens == mask_token
    changed = torch.zeros(offsets.numel() - 1, dtype=torch.bool, device=tokens.device)
    certainty = new_scores.nan_to_num(nan=float("-inf"), neginf=float("-inf"), posinf=float("inf"))
    for canvas, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        changed[canvas] = (new_tokens[begin:end] != tokens[begin:end]).any()
        words = max(end - begin - 2, 0)
        count = int(torch.tensor(words, dtype=torch.float32) * torch.tensor(ratio, dtype=torch.float32))
        masked[begin + 1 + certainty[begin + 1 : end - 1].argsort(stable=True)[:count]] = True
    return new_tokens, new_scores, masked.nonzero().flatten(), changed
