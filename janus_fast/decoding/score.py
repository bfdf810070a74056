"""Scores of given targets, in one pass over all of their tokens."""

import torch

from ..model import JanusModel
from ..objectives.streams import autoregressive_streams, causal_streams, join
from ..packing import pack
from .continuations import log_softmax_of


@torch.inference_mode()
def score(model: JanusModel, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
    """Log-probabilities (nats) of each target's tokens and its ``eos``, left to right.

    Sources and targets are as ``config.source_ids`` and ``config.target_ids`` make them.
    """
    config, device = model.config, model.output_weight.device
    target, lengths = pack(targets)
    if config.two_stream:
        streams = autoregressive_streams(target, lengths, config.mask_token_id)
    else:
        streams = causal_streams(target, lengths)
    batch = join(*pack(sources), [streams]).to(device)
    encoded = model.encode(batch.source, batch.source_offsets)
    hidden = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
    log_probs = log_softmax_of(model, hidden, model.output_bias)
    scores = log_probs.gather(1, batch.targets["ar"][:, None])[:, 0].float()
    return [part.tolist() for part in scores.split((lengths - 1).tolist())]
