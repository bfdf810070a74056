"""Target lengths by definition: mean of each source, projection, log-softmax, and the lengths around or on top."""

import torch
from torch import Tensor


def predict_lengths(
    encoded: Tensor, offsets: Tensor, weight: Tensor, beam: int, window: bool, min_length: int, max_length: int
) -> tuple[Tensor, Tensor]:
    """Returns lengths [S, beam] and their log-probabilities [S, beam]."""
    dtype = torch.promote_types(encoded.dtype, torch.float32)
    mean, _, _ = mean_of_sources(encoded.to(dtype), offsets)
    log_probs = (mean @ weight.to(dtype).T).log_softmax(-1)  # [S, C] @ [C, L] -> [S, L]
    if window:
        steps = torch.arange(beam, device=encoded.device) - beam // 2
        lengths = (log_probs.max(-1).indices[:, None] + steps).clamp(min_length, max_length)
    else:
        allowed = log_probs[:, min_length : max_length + 1]
        lengths = allowed.sort(dim=-1, descending=True, stable=True).indices[:, :beam] + min_length
    return lengths, log_probs.gather(1, lengths)


def mean_of_sources(encoded: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of each source [S, C], zeros for one without rows; each row's source [Ns]; rows of each, or 1 [S, 1]."""
    counts = offsets.diff().long()
    source = torch.arange(counts.numel(), device=encoded.device)
    source = torch.repeat_interleave(source, counts, output_size=encoded.shape[0])
    total = encoded.new_zeros(counts.numel(), encoded.shape[1]).index_add(0, source, encoded)
    counts = counts.clamp(min=1)[:, None]
    return total / counts, source, counts
