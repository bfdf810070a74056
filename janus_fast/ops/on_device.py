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

``beam_step(ids [S * B, K], log_probs [S * B, K], divisors, eos, state...)`` is one step of
``janus_fast.decoding.ar.beam_search`` with B hypotheses for each of S sentences, of at most T = longest + 1 steps, its
state written in place. ``ids`` and ``log_probs`` are what may follow each; in the last step, the end alone (minus
infinity for what fills the other places). ``divisors[t]`` [T] float64 is (t + 1) ** length_penalty. State, to begin
with zeros but where another value is named:

    steps [S] int32                             steps done; T when the sentence is done, and nothing of it changes
    totals [S, B] float32, tokens [S, B]        sums of log-probabilities; what each hypothesis reads next
    slots [S, T, B] int32                       which of the sentence's rows wrote the keys and values of a position
    times [S, B] int32, first arange(B)         the number of each hypothesis in the order of their tree
    visible_from, visible_until [S, T, B] int32 which of these numbers see the key that a row wrote in a position; those
                                                of position 0 are first arange(B) and arange(B) + 1
    history_tokens, history_scores [S, T, B]    int32, float32; what was chosen for each row in each step
    finished_count [S] int32                    finished hypotheses, in the order in which they finished:
    finished_lengths [S, B] int32, finished_tokens [S, B, T] int32          tokens without ``eos``
    finished_scores [S, B] float64, finished_token_scores [S, B, T] float32 of the tokens and of ``eos``
    remaining [1] int32, first S                sentences that are not done

Caches do not move: a sentence has one row of keys and values for each position and hypothesis, and attention at
``times`` over ``visible_from`` and ``visible_until`` gives each hypothesis the rows that it descends from, and its own.
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


STATE = (
    "steps totals tokens slots times visible_from visible_until history_tokens history_scores finished_count"
    " finished_lengths finished_tokens finished_scores finished_token_scores remaining"
).split()
_MUTATED = ", ".join(f"Tensor({chr(ord('a') + i)}!) {name}" for i, name in enumerate(STATE))

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
define(
    "beam_step",
    f"(Tensor ids, Tensor log_probs, Tensor divisors, int eos, {_MUTATED}) -> ()",
    lambda *arguments: None,
)
