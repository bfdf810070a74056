"""BANG (Qi et al., ICML 2021): streams between AR and NAR, which know fewer and fewer of the tokens before theirs."""

from dataclasses import dataclass

import torch

from ..inputs import integers, option
from ..packing import ranges, stairs
from ..visibility import Visibility
from .objective import Objective
from .streams import Streams, first_rows, masked_streams


@dataclass
class Bang(Objective):
    """L = CE(ar) + CE(bridge) + CE(nar) + 0.1 CE(length).

    ``bridge`` are the N streams of ``bridge_length``: row p of stream s predicts token p from the source, the tokens
    0 .. p - s, and masks in the s - 1 places before it. So behind every prefix there is a chain of N masks, each of
    which sees itself and those before it. CE(bridge) is the mean over the rows of all streams, as in the original.
    ``ar`` and ``nar`` are the ends of the bridge, in the rows that modes "ar" and "nar" decode by: the query stream of
    ``autoregressive``, and a canvas of which all words are masked, for a single pass. Mode "speculative" drafts with
    the masks of these chains, and mode "semi_nar" predicts its blocks with them.

    Of the original the architecture lacks the buckets of relative positions. Its NAR rows are a chain as long as the
    source, of which what is behind the first ``eos`` is cut off. Here the length is predicted, and a canvas' rows see
    each other and the end.
    """

    modes = ("ar", "nar", "semi_nar", "speculative")
    predicts_length = True
    validated = {"nar": {"iterations": 1}}  # canvases with words in them are not trained

    bridge_length: int = option(4, integers(1), "streams of BANG's bridge: masks behind every prefix")

    def terms(self):
        return {"ar": 1.0, "bridge": 1.0, "nar": 1.0}, {}

    def build(self, target, lengths, drawn):
        mask_token, words, place = self.config.mask_token_id, lengths - 1, ranges(lengths)
        rows, stream, seen = stairs(words, [0, *range(self.bridge_length)])
        own, masked = seen + stream, stream > 0  # the place of a row; main rows are stream 0
        there = target[(lengths.cumsum(0) - lengths).repeat_interleave(rows) + own]
        known = place < words.repeat_interleave(lengths)
        queries = torch.full_like(place[known], mask_token)
        bridge = Streams(
            tokens=(there.masked_fill(masked, mask_token), queries),
            positions=(own, place[known]),
            visibility=Visibility.bang(words, self.bridge_length),
            predictions={
                "ar": (own.numel() + torch.arange(queries.numel()), target[~first_rows(lengths)]),
                "bridge": (masked.nonzero().flatten(), there[masked]),
            },
        )
        inner = known & ~first_rows(lengths)
        return [bridge, masked_streams(target, lengths, inner, inner, mask_token, auxiliary=False)]
