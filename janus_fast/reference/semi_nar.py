"""Decoding in blocks by definition: a whole forward for each word and for the masks of each block, nothing cached."""

import math

import torch

from janus_fast.decoding.hypothesis import Hypothesis
from janus_fast.packing import offsets_of
from janus_fast.reference.beam_search import NO_OUTPUT, follow, forbidden
from janus_fast.reference.mask_predict import without_repeats
from janus_fast.reference.speculative import behind


@torch.inference_mode()
def semi_nar(
    model, sources: list[list[int]], options, prefixes: list[list[int]] | None = None, words: list | None = None
) -> list[list[Hypothesis]]:
    """The output of every source by a ``JanusModel`` and the options of mode "semi_nar".

    A pass adds a block: the likeliest word behind those so far, as a step of greedy search finds it, and what the model
    fills ``block_length`` masks behind them with, but for the first, which stands for that word. It is what a pass of
    mode "speculative" with a ``draft_length`` of ``block_length`` - 1 adds and drafts; here all of it is accepted, up
    to the end, whatever another pass would say to it. With a ``block_length`` of 1 this is greedy search. The first
    passes read a prefix, ``block_length`` words each, weighed as in mode "ar"; blocks begin behind it. Where the
    longest output is reached, the block ends, and one more pass adds the end.

    A word's score is its log-probability in the row that predicted it, which knows the words before its block. An
    output's is their sum, that of ``eos`` counted and those of a prefix not, divided by the number of words and ``eos``
    to the power of ``length_penalty``. ``remove_repeats`` leaves of a finished output no word behind the prefix that is
    the one before it, and both scores are of what is left. With ``words``, ids for each source, other tokens have no
    probability.

    Source: the blocks of Wang et al. 2018 (Semi-Autoregressive Neural Machine Translation), with the chains of masks of
    BANG (Qi et al. 2021).
    """
    longest = options.longest(model.config)
    given = zip(sources, prefixes or [[]] * len(sources), words or [None] * len(sources), strict=True)
    return [[_decode(model, *own, longest, options)] for own in given]


def _decode(model, source: list[int], prefix: list[int], words, longest: int, options) -> Hypothesis:
    config, end = model.config, model.config.eos_token_id
    offsets = offsets_of(torch.tensor([len(source)], device=model.output_weight.device))
    encoded = model.encode(torch.tensor(source, device=offsets.device), offsets)
    tokens, scores, passes = [], [], 0
    while end not in tokens:
        passes, begin = passes + 1, len(tokens)
        steps = max(1, min(options.block_length, len(prefix) - begin))  # that a row of mode "ar" predicts
        rows = [follow(model, encoded, offsets, tokens + prefix[begin:n], words) for n in range(begin, begin + steps)]
        masks = min(options.block_length, longest - begin) if begin >= len(prefix) else 0
        if masks > 1:
            rows += behind(model, encoded, offsets, tokens, masks, words)[1:]
        for row in rows:
            if row.isnan().any():
                raise FloatingPointError(NO_OUTPUT)
            row[list(forbidden(config, tokens, prefix, longest, options))] = -math.inf
            tokens, scores = [*tokens, int(row.argmax())], [*scores, float(row.max())]
            if tokens[-1] == end:
                break
    ids, last = tokens[:-1], scores[-1:]
    if options.remove_repeats:
        ids, scores = without_repeats(ids, scores, len(prefix))
        scores += last
    total = sum(torch.tensor(scores[len(prefix) :]).unbind(), torch.zeros(()))  # in float32, one after another
    if not total.isfinite():
        raise FloatingPointError(NO_OUTPUT)
    return Hypothesis(ids, float(total) / len(scores) ** options.length_penalty, scores, passes)
