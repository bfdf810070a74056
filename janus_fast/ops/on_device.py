"""The steps of decoding whose counts stay on the device, on CUDA alone: no shape depends on data and nothing waits for
the host, so a CUDA graph can hold them. They are ``torch.ops.janus_fast.*`` without a face of their own.

``update_mask_static(tokens [N], scores [N], rows [M], row_count, predicted_tokens [M], predicted_scores [M],
offsets [S + 1], done, ratio, mask_token)`` is ``update_mask`` with room for every row. Of ``rows`` and the predictions
only the first ``row_count[0]`` count (all without it); rows of ``tokens`` behind the last offset stay as they are;
canvases that are ``done`` [S] bool (none without it) keep what they hold, whatever was predicted, and are masked no
more. Returns tokens [N], scores [N], the tokens with ``mask_token`` where the next pass predicts [N], next rows and
zeros behind them [N], changed [S] bool, where each canvas' next rows begin [S + 1] int32, and totals [3] int32: rows
listed, canvases changed, scores that are not finite. ``totals`` is the ``row_count`` of the next call.

``predict_canvases(encoded, offsets, weight, beam, window, min_length, max_length)`` is ``predict_lengths``, and as a
third result where packed canvases of these lengths begin: [S * beam + 1] int32. Of equal lengths of a source the first
alone has rows; the canvases of a source without rows have none.
"""

import torch

from janus_fast.ops._operation import define


def _fake_update_mask_static(tokens, scores, rows, row_count, predicted, predicted_scores, offsets, *rest):
    changed = tokens.new_empty(offsets.shape[0] - 1, dtype=torch.bool)
    totals = tokens.new_empty(3, dtype=torch.int32)
    masked_tokens, next_rows = torch.empty_like(tokens), torch.empty_like(tokens)
    row_offsets = torch.empty_like(offsets)
    return torch.empty_like(tokens), torch.empty_like(scores), masked_tokens, next_rows, changed, row_offsets, totals


def _fake_predict_canvases(encoded, offsets, weight, beam, window, min_length, max_length):
    sources = offsets.shape[0] - 1
    lengths = encoded.new_empty((sources, beam), dtype=torch.int64)
    return lengths, torch.empty_like(lengths, dtype=torch.float32), offsets.new_empty(sources * beam + 1)


define(
    "update_mask_static",
    "(Tensor tokens, Tensor scores, Tensor rows, Tensor? row_count, Tensor predicted_tokens, Tensor predicted_scores,"
    " Tensor offsets, Tensor? done, float ratio, int mask_token) -> (Tensor tokens, Tensor scores,"
    " Tensor masked_tokens, Tensor rows, Tensor changed, Tensor row_offsets, Tensor totals)",
    _fake_update_mask_static,
)
define(
    "predict_canvases",
    "(Tensor encoded, Tensor offsets, Tensor weight, int beam, bool window, int min_length, int max_length)"
    " -> (Tensor lengths, Tensor log_probs, Tensor canvas_offsets)",
    _fake_predict_canvases,
)
