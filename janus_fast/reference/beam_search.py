"""Beam search by definition: one source after another, the whole past of every hypothesis in every step, no cache."""

import math

import torch
from torch import Tensor

from janus_fast.decoding.hypothesis import Hypothesis
from janus_fast.inputs import OptionError
from janus_fast.packing import offsets_of
from janus_fast.visibility import Visibility

NO_OUTPUT = (
    "generate: every source must have an output of finite score, got one without: its logits are not finite, "
    "or the length and n-gram options forbid every token"
)


@torch.inference_mode()
def beam_search(
    model, sources: list[list[int]], options, prefixes: list[list[int]] | None = None
) -> list[list[Hypothesis]]:
    """The ``num_hypotheses`` best outputs of every source, best first, by a ``JanusModel`` and the options of mode
    "ar"; every output begins with its source's prefix. With one hypothesis the search is greedy.

    Each step keeps, of all continuations of a sentence's hypotheses, the best ``2 * beam_size``; those among the first
    ``beam_size`` that end are finished, the best ``beam_size`` of the others go on. A sentence is done when
    ``beam_size`` hypotheses are finished. Sampling is none of this.
    """
    if options.sampling_topk != 1:
        raise OptionError("beam_search: sampling_topk", "be 1, as a search draws nothing", options.sampling_topk)
    return [_search(model, *given, options) for given in zip(sources, prefixes or [[]] * len(sources), strict=True)]


def _search(model, source: list[int], prefix: list[int], options) -> list[Hypothesis]:
    config, beam, longest = model.config, options.beam_size, options.longest(model.config)
    offsets = offsets_of(torch.tensor([len(source)], device=model.output_weight.device))
    encoded = model.encode(torch.tensor(source, device=offsets.device), offsets)
    going: list[tuple[list[int], list[float]]] = [([], [])]  # tokens and their log-probabilities
    totals, finished = torch.zeros(1), []
    for step in range(longest + 1):
        log_probs = torch.stack([follow(model, encoded, offsets, tokens) for tokens, _ in going])  # [hypotheses, V]
        for row, (tokens, _) in zip(log_probs, going, strict=True):
            row[list(forbidden(config, tokens, prefix, longest, options))] = -math.inf
        candidates = (totals[:, None] + log_probs).flatten()
        if candidates.isnan().any():
            raise FloatingPointError(NO_OUTPUT)
        totals, order = (t[: 2 * beam] for t in candidates.sort(descending=True, stable=True))
        kept = []
        for row, token in ((place // log_probs.shape[1], place % log_probs.shape[1]) for place in order.tolist()):
            tokens, scores = going[row]
            kept.append(([*tokens, token], [*scores, float(log_probs[row, token])]))
        ends = [tokens[-1] == config.eos_token_id for tokens, _ in kept]
        for (tokens, scores), ended, total in [*zip(kept, ends, totals.tolist(), strict=True)][:beam]:
            if ended and math.isfinite(total) and len(finished) < beam:
                score = total / (step + 1) ** options.length_penalty
                finished.append(Hypothesis(tokens[:-1], score, scores, step + 1))
        best = [i for i, ended in enumerate(ends) if not ended and math.isfinite(totals[i])][:beam]
        going, totals = [kept[i] for i in best], totals[best]
        if len(finished) == beam or not going:
            break
    if not finished:
        raise FloatingPointError(NO_OUTPUT)
    # sorted is stable: of equal scores the one that finished first wins
    return sorted(finished, key=lambda h: -h.score)[: options.num_hypotheses]


def follow(model, encoded: Tensor, source_offsets: Tensor, tokens: list[int]) -> Tensor:
    """Log-probabilities [V] float32, on the CPU, of what follows these tokens."""
    config, device = model.config, encoded.device
    content = torch.tensor([config.decoder_start_token_id, *tokens], device=device)
    lengths, positions = content.new_tensor([len(content)]), torch.arange(len(content), device=device)
    visibility = Visibility.causal(lengths)
    if config.two_stream:  # the query rows predict
        content = torch.cat([content, torch.full_like(content, config.mask_token_id)])
        visibility, positions = Visibility.autoregressive(lengths), positions.repeat(2)
    cross = Visibility.bidirectional(
        visibility.query_offsets, source_offsets, torch.zeros_like(visibility.query_offsets[1:])
    )
    hidden = model.decode(content, positions, visibility, encoded, cross)
    return model.logits(hidden[-1:]).float().log_softmax(-1)[0].cpu()


def forbidden(config, tokens: list[int], prefix: list[int], longest: int, options) -> set[int]:
    """What may not follow these tokens."""
    step, size, everything = len(tokens), options.no_repeat_ngram_size, set(range(config.target_vocab_size))
    if step < len(prefix):
        return everything - {prefix[step]}
    if step == longest:
        return everything - {config.eos_token_id}
    never = set(config.suppressed)
    if step < options.min_decoding_length:
        never.add(config.eos_token_id)
    if size:
        recent = tokens[step - size + 1 :] if step >= size else None
        never |= {tokens[i + size - 1] for i in range(step - size + 1) if tokens[i : i + size - 1] == recent}
    return never
