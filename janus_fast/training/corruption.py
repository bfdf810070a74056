"""Monolingual text that a model learns to restore: what its source is, corrupted anew each time it is drawn."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..config import JanusConfig
from ..inputs import numbers, option
from ..objectives.masking import drawn_spans, span_length_probabilities

_share = numbers(least=0, most=1)
STOPS, WIDE_STOPS = (".", "!", "?"), ("。", "！", "？")  # the latter need no space behind them
BEGINS = "▁"  # a word, in sentencepiece


@dataclass(kw_only=True)
class CorruptionOptions:
    """How monolingual text is corrupted; the defaults are BART's."""

    mask_ratio: float = option(0.3, _share, "share of a line's tokens that spans take", monolingual=True)
    poisson_lambda: float = option(
        3.5, numbers(least=0.1, most=16), "mean length of a span, of which one mask is left", monolingual=True
    )
    mask_random: float = option(0.1, _share, "share of those masks that are random tokens instead", monolingual=True)
    permute_sentences: float = option(
        1.0, _share, "share of the sentences of a line that change places", monolingual=True
    )


class Corruption:
    """Text infilling and sentence permutation (BART, Lewis et al. 2020, section 2.2): from a target to its source.

    First the sentences of the line change places: ceil(``permute_sentences`` * their number) of them, in an order that
    is drawn uniformly. A sentence ends at a token in . ! ? before a new word, at one in 。！？, and at the line's end.

    Then span lengths are drawn from a Poisson distribution until they add up to ceil(``mask_ratio`` * tokens), and the
    last is cut. Each span begins at a token of its own, and a mask stands for all of it; those that overlap become one.
    Spans without length are masks put between tokens, as many as the others leave room for: no source is longer than
    its line. A share ``mask_random`` of the masks, drawn one by one, are random tokens instead.

    Args:
        options: what it does, by the names of :class:`CorruptionOptions`.
        config: of the model, both sides of which have one vocabulary.
        tokens: that vocabulary's.
    Source: ``DenoisingDataset`` of fairseq, which counts words instead of tokens where it knows them.
    """

    def __init__(self, options, config: JanusConfig, tokens: list[str]):
        self.options, self.config = options, config
        self.probabilities = span_length_probabilities(options.poisson_lambda)
        special = {config.bos_token_id, config.pad_token_id, config.eos_token_id, config.unk_token_id}
        self.random = [i for i in range(len(tokens)) if i not in special | {config.mask_token_id}]
        begins = [token.startswith(BEGINS) for token in tokens]
        self.begins = begins if any(begins) else [True] * len(tokens)
        self.stops, self.wide_stops = ([token.endswith(kind) for token in tokens] for kind in (STOPS, WIDE_STOPS))

    def __call__(self, target: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """The source, ends included, of which ``target`` is to be restored; ``generator`` draws."""
        ids = self.permuted(target[1:-1].tolist(), generator)
        return np.array(self.config.source_ids(self.infilled(ids, generator)), dtype=np.int64)

    def permuted(self, ids: list[int], generator: torch.Generator) -> list[int]:
        sentences, begin = [], 0
        for end, token in enumerate(ids, 1):
            if end == len(ids) or self.wide_stops[token] or (self.stops[token] and self.begins[ids[end]]):
                sentences.append(ids[begin:end])
                begin = end
        count = math.ceil(len(sentences) * self.options.permute_sentences)
        if len(sentences) == 1 or not count:
            return ids
        chosen = torch.randperm(len(sentences), generator=generator)[:count].tolist()
        order = dict(zip(sorted(chosen), chosen, strict=True))
        return [token for place in range(len(sentences)) for token in sentences[order.get(place, place)]]

    def infilled(self, ids: list[int], generator: torch.Generator) -> list[int]:
        if not (budget := math.ceil(len(ids) * self.options.mask_ratio)):
            return ids
        spans = drawn_spans(budget, self.probabilities, generator)
        lengths = [span for span in spans if span]
        starts = torch.randperm(len(ids), generator=generator)[: len(lengths)].tolist()
        gone = {i for start, span in zip(starts, lengths, strict=True) for i in range(start + 1, start + span)}
        masked, mask = {*starts}, lambda: self.mask(generator)
        left = [mask() if i in masked else token for i, token in enumerate(ids) if i not in gone]
        more = min(len(spans) - len(lengths), len(ids) - len(left))
        places = {*torch.randperm(len(left) + more, generator=generator)[:more].tolist()} if more else ()
        rest = iter(left)
        return [mask() if place in places else next(rest) for place in range(len(left) + more)]

    def mask(self, generator: torch.Generator) -> int:
        if float(torch.rand((), generator=generator)) >= self.options.mask_random:
            return self.config.mask_token_id
        return self.random[int(torch.randint(len(self.random), (1,), generator=generator))]
