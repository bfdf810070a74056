"""Speculative decoding by definition: greedy search, word by word and without a cache, and the passes it would take."""

import math

import torch
from torch import Tensor

from janus_fast.decoding.hypothesis import Hypothesis
from janus_fast.packing import offsets_of
from janus_fast.reference.beam_search import NO_OUTPUT, among, follow, forbidden
from janus_fast.visibility import Visibility

RECENT = 2  # words by which an output finds its place in a text that it may copy


@torch.inference_mode()
def speculative(
    model, sources: list[list[int]], options, prefixes: list[list[int]] | None = None,
    drafts: list[list[int]] | None = None, words: list | None = None,
) -> list[list[Hypothesis]]:  # fmt: skip
    """The greedy output of every source by a ``JanusModel`` and the options of mode "speculative".

    A pass feeds the last word and a draft of what follows. It accepts the draft's words as long as they are those that
    greedy search would choose, and adds the one that greedy search chooses next. Drafts are, in this order, the rest
    of the prefix; what follows the last words in a draft that was given; and by ``drafter`` what follows them in the
    source, or what the model itself says.

    A model without ``streams_ahead`` fills masks. That takes a pass of its own, which adds its word, too: it feeds the
    last word and ``draft_length + 1`` masks, of which the first stands for the word that is added and the others are a
    draft for the next pass. One that has them drafts in the passes that check: beside the row that adds a word are
    those of up to ``draft_length`` streams, which see the same words and say what comes behind it. A pass whose draft
    is of a prefix or a text has no such rows, and leaves no draft for the next one.

    ``iterations`` are the passes where every draft is tried (``adaptive_drafts`` False). With ``words``, ids for each
    source, other tokens have no probability.

    Source: SpecDec (Xia et al. 2023) and TiDAR (Liu et al. 2025), with the drafts and the verdict of one model; streams
    that draft while they check are blockwise parallel decoding (Stern et al. 2018).
    """
    nothing = [[]] * len(sources)
    given = zip(sources, prefixes or nothing, drafts or nothing, words or [None] * len(sources), strict=True)
    return [[_decode(model, *own, options.resolved(model.config))] for own in given]


def _decode(model, source: list[int], prefix: list[int], given: list[int], words, options) -> Hypothesis:
    config, longest = model.config, options.longest(model.config)
    offsets = offsets_of(torch.tensor([len(source)], device=model.output_weight.device))
    encoded = model.encode(torch.tensor(source, device=offsets.device), offsets)
    streams, fills = options.streams(config), options.drafter == "model" and not config.streams_ahead
    tokens, scores, history, draft, filled = [], [], [], [], False  # filled: what the pass before had were masks
    while not tokens or tokens[-1] != config.eos_token_id:
        copied = prefix[len(tokens) :]
        if not copied and not filled:
            copied = follows(tokens, given, 1)
            if not copied and options.drafter == "source":
                copied = follows(tokens, source, RECENT)
        room = longest - len(tokens)
        draft = (copied or draft)[: min(options.draft_length, room)]
        filled = not draft and not filled and fills and options.draft_length > 0 and room > 0
        masks = min(options.draft_length + 1, room) if filled else 0
        history.append([*tokens, *draft])
        filling = fill(model, encoded, offsets, tokens, masks, options, words) if filled else []
        for tried in [*draft, None]:
            row = follow(model, encoded, offsets, tokens, words)
            if row.isnan().any():
                raise FloatingPointError(NO_OUTPUT)
            row[list(forbidden(config, tokens, prefix, longest, options))] = -math.inf
            tokens, scores = [*tokens, int(row.argmax())], [*scores, float(row.max())]
            if tokens[-1] == config.eos_token_id or tokens[-1] != tried:
                break
        ahead = 0 if copied else min(streams, longest - len(tokens))
        draft = look_ahead(model, encoded, offsets, tokens[:-1], ahead, options, words) if ahead > 0 else filling
    total = sum(torch.tensor(scores[len(prefix) :]).unbind(), torch.zeros(()))  # in float32, one after another
    if not total.isfinite():
        raise FloatingPointError(NO_OUTPUT)
    score, shown = float(total) / len(tokens) ** options.length_penalty, history if options.return_history else []
    return Hypothesis(tokens[:-1], score, scores, len(history), shown)


def fill(
    model, encoded: Tensor, source_offsets: Tensor, tokens: list[int], masks: int, options, words=None
) -> list[int]:
    """Masks behind these tokens, filled in one pass in which each sees what stands before it; without the first."""
    return likely_of(model.config, behind(model, encoded, source_offsets, tokens, masks, words)[1:], tokens, options)


def look_ahead(
    model, encoded: Tensor, source_offsets: Tensor, tokens: list[int], streams: int, options, words=None
) -> list[int]:
    """What so many streams say behind the word that follows these tokens, each in a pass of its own."""
    numbers = range(1, streams + 1)
    rows = [follow(model, encoded, source_offsets, tokens, words, ahead) for ahead in numbers]
    return likely_of(model.config, torch.stack(rows), tokens, options)


def likely_of(config, log_probs: Tensor, tokens: list[int], options) -> list[int]:
    """The likeliest words of rows [n, V] that know these tokens, as far as they are together not less likely than
    ``draft_threshold``, or to the end of the sentence."""
    log_probs[:, list(forbidden(config, tokens, [], options.longest(config), options))] = -math.inf
    best, draft = log_probs.max(-1), []
    likely = best.values.double().cumsum(0) >= (
        math.log(options.draft_threshold) if options.draft_threshold else -math.inf
    )
    for token, enough in zip(best.indices.tolist(), likely.tolist(), strict=True):
        if not enough or config.eos_token_id in draft:
            break
        draft.append(token)
    return draft


def behind(model, encoded: Tensor, source_offsets: Tensor, tokens: list[int], masks: int, words=None) -> Tensor:
    """Log-probabilities [masks, V] float32, on the CPU, of what so many masks behind these tokens stand for: one pass,
    in which each sees what stands before it."""
    config = model.config
    content = torch.tensor([config.decoder_start_token_id, *tokens] + [config.mask_token_id] * masks)
    content, lengths = content.to(encoded.device), torch.tensor([len(content)], device=encoded.device)
    visibility = Visibility.causal(lengths)
    cross = Visibility.bidirectional(visibility.query_offsets, source_offsets)
    hidden = model.decode(content, torch.arange(len(content), device=encoded.device), visibility, encoded, cross)
    return among(model.logits(hidden[-masks:]).float(), words).log_softmax(-1).cpu()


def follows(tokens: list[int], text: list[int], least: int) -> list[int]:
    """What follows the last words in a text, by the most of them up to ``RECENT``, and at least so many, that occur in
    it: of several places the first that is not before the output's own length, or the last. Before the first word, with
    ``least`` 1, all of it."""
    if not tokens:
        return text if least <= 1 else []
    for recent in range(min(len(tokens), RECENT), least - 1, -1):
        ends = [end for end in range(recent, len(text)) if text[end - recent : end] == tokens[-recent:]]
        if ends:
            return text[next((end for end in ends if end >= len(tokens)), ends[-1]) :]
    return []
