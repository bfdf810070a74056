"""Beam search by definition: one source after another, the whole past of every hypothesis in every step, no cache."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from janus_fast.decoding.hypothesis import LAST, Hypothesis
from janus_fast.inputs import OptionError
from janus_fast.packing import offsets_of
from janus_fast.visibility import Visibility

NO_OUTPUT = (
    "generate: every source must have an output of finite score, got one without: its logits are not finite, "
    "or the length and n-gram options forbid every token"
)


@torch.inference_mode()
def beam_search(
    model, sources: list[list[int]], options, prefixes: list[list[int]] | None = None, words: list | None = None
) -> list[list[Hypothesis]]:
    """The ``num_hypotheses`` best outputs of every source, best first, by a ``JanusModel`` and the options of mode
    "ar"; every output begins with its source's prefix, which is free of charge. With one hypothesis the search is
    greedy. With ``words``, ids for each source, other tokens have no probability.

    Each step keeps, of all continuations of a sentence's hypotheses, the best ``2 * beam_size``; those among the first
    ``beam_size`` that end are finished, the best ``beam_size`` of the others go on. A sentence is done when
    ``beam_size`` hypotheses or more are finished, unless ``patience`` or ``early_stopping`` say otherwise. Sampling is
    none of this.
    """
    if options.sampling_topk != 1:
        raise OptionError("beam_search: sampling_topk", "be 1, as a search draws nothing", options.sampling_topk)
    given = zip(sources, prefixes or [[]] * len(sources), words or [None] * len(sources), strict=True)
    return [_search(model, *own, options, number, bool(prefixes)) for number, own in enumerate(given)]


@dataclass
class _Begun:
    """A hypothesis that is not finished."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    attention: list[list[float]] = field(default_factory=list)
    logits: list[list[float]] = field(default_factory=list)


def _search(
    model, source: list[int], prefix: list[int], words, options, number: int, prefixed: bool
) -> list[Hypothesis]:
    config, beam, ends = model.config, options.beam_size, options.ends(model.config)
    offsets = offsets_of(torch.tensor([len(source)], device=model.output_weight.device))
    encoded = model.encode(torch.tensor(source, device=offsets.device), offsets)
    going, totals, finished, best_ended = [_Begun()], torch.zeros(1), [], False
    steps = options.steps(config)
    for step in range(steps):
        forced = step < len(prefix) and not options.prefix_bias_beta
        logits, attention = zip(*(look(model, encoded, offsets, h.tokens, options) for h in going), strict=True)
        logits = [among(own, words) for own in logits]
        rows = [weigh(config, own, h.tokens, prefix, options) for own, h in zip(logits, going, strict=True)]
        log_probs = torch.stack([row for row, _ in rows])  # [hypotheses, V]
        candidates = (totals[:, None] + log_probs).flatten()
        if candidates.isnan().any():
            raise FloatingPointError(NO_OUTPUT)
        totals, order = (t[: 2 * beam] for t in candidates.sort(descending=True, stable=True))
        if forced:
            totals = totals.masked_fill(totals.isfinite(), 0.0)
        given_up = prefixed and step == len(prefix) and options.prefix_alone != "any" and not options.prefix_bias_beta
        kept = []
        for row, token in ((place // log_probs.shape[1], place % log_probs.shape[1]) for place in order.tolist()):
            h = going[row]
            more = [*h.attention, attention[row]], [*h.logits, rows[row][1].tolist()]
            kept.append(_Begun([*h.tokens, token], [*h.log_probs, float(log_probs[row, token])], *more))
        if given_up:
            for i, h in enumerate(kept[1:], 1):
                if h.tokens[-1] in ends and math.isfinite(totals[i]):
                    totals[i] = LAST if options.prefix_alone == "last" else -math.inf
                    h.tokens[-1] = h.tokens[-1] if options.prefix_alone == "last" else config.pad_token_id
        last = step + 1 == steps
        ended = [(h.tokens[-1] in ends and not forced) or (last and not options.forced_eos) for h in kept]
        if options.callback and math.isfinite(totals[0]):
            token, log_prob = kept[0].tokens[-1], 0.0 if forced else kept[0].log_probs[-1]
            ended[0] |= bool(options.callback(number, 0, step, token, log_prob, ended[0]))
        for h, end, total in [*zip(kept, ended, totals.tolist(), strict=True)][:beam]:
            if end and math.isfinite(total):
                finished.append(_finished(h, total, ends, options))
        best_ended |= ended[0] and math.isfinite(totals[0])
        best = [i for i, end in enumerate(ended) if not end][:beam]
        best = [i for i in best if math.isfinite(totals[i])]
        going, totals = [kept[i] for i in best], totals[best]
        if not going or _enough([h.score for h in finished], best_ended, float(totals[0]), step + 1, steps, options):
            break
    if not finished:
        raise FloatingPointError(NO_OUTPUT)
    # sorted is stable: of equal scores the one that finished first wins
    return sorted(finished, key=lambda h: -h.score)[: options.num_hypotheses]


def _finished(h: _Begun, total: float, ends: tuple[int, ...], options) -> Hypothesis:
    score, length = total / len(h.tokens) ** options.length_penalty, len(h.tokens)
    if options.coverage_penalty:
        covered = torch.tensor(h.attention).sum(0)
        score += options.coverage_penalty * float(covered[covered > 0].clamp(max=1).log().sum())
    ids = h.tokens if options.return_end_token or h.tokens[-1] not in ends else h.tokens[:-1]
    attention = h.attention[: len(ids)] if options.return_attention else []
    return Hypothesis(
        ids, score, h.log_probs, length, attention=attention, logits=h.logits if options.return_logits_vocab else []
    )


def _enough(scores: list[float], best_ended: bool, best: float, length: int, steps: int, options) -> bool:
    """Whether a search is over: with finished hypotheses of these ``scores``, and others, of which the ``best`` has
    this sum of log-probabilities."""
    if options.early_stopping is True:
        return len(scores) >= options.wanted
    if options.early_stopping == "first":
        weighs = options.length_penalty or options.coverage_penalty
        return len(scores) >= options.wanted if weighs else best_ended and len(scores) >= options.num_hypotheses
    if len(scores) < options.beam_size:
        return False
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = steps
    return best / length**options.length_penalty <= sorted(scores, reverse=True)[options.beam_size - 1]


def among(logits: Tensor, words) -> Tensor:
    """Logits [..., V] that leave these words alone a probability; None: all of them."""
    if words is None:
        return logits
    never = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[torch.as_tensor(words, device=logits.device)] = False
    return logits.masked_fill(never, -math.inf)


def follow(model, encoded: Tensor, source_offsets: Tensor, tokens: list[int], words=None, ahead: int = 0) -> Tensor:
    """Log-probabilities [V] float32, on the CPU, of what follows these tokens, among these words, or of the token so
    far ``ahead`` of that, by the model's stream of this number."""
    return among(look(model, encoded, source_offsets, tokens, ahead=ahead)[0], words).log_softmax(-1)


def look(
    model, encoded: Tensor, source_offsets: Tensor, tokens: list[int], options=None, ahead: int = 0
) -> tuple[Tensor, list[float]]:
    """Logits [V] float32, on the CPU, of what follows these tokens, or of the token so far ``ahead`` of that, and where
    the row that says so looks."""
    config, device = model.config, encoded.device
    content = torch.tensor([config.decoder_start_token_id, *tokens], device=device)
    lengths, positions = content.new_tensor([len(content)]), torch.arange(len(content), device=device)
    visibility = Visibility.causal(lengths)
    if config.two_stream:  # the query rows predict
        content = torch.cat([content, torch.full_like(content, config.mask_token_id)])
        visibility, positions = Visibility.autoregressive(lengths), torch.cat([positions, positions + ahead])
    cross = Visibility.bidirectional(
        visibility.query_offsets, source_offsets, torch.zeros_like(visibility.query_offsets[1:])
    )
    projected, layer = [], model.decoder.layers[-1].encoder_attn
    hook = layer.q_proj.register_forward_hook(lambda module, given, result: projected.append(result[-1]))
    try:
        hidden = model.decode(content, positions, visibility, encoded, cross)
    finally:
        hook.remove()
    attention = []
    if options is not None and (options.return_attention or options.coverage_penalty):
        heads = projected[0].view(config.attention_heads, 1, config.head_size)
        keys = layer.k_proj(encoded).view(-1, config.attention_heads, config.head_size).permute(1, 2, 0)
        weights = (heads @ keys / config.head_size**0.5).softmax(-1)[:, 0]  # [heads, source]
        attention = weights[: options.alignment_heads or None].mean(0).tolist()
    return model.logits(hidden[-1:]).float()[0].cpu(), attention


def weigh(config, logits: Tensor, tokens: list[int], prefix: list[int], options) -> tuple[Tensor, Tensor]:
    """What the options make of the ``logits`` [V] of what follows these tokens: log-probabilities, and scores."""
    scores = (logits if options.renormalize_logits else logits.log_softmax(-1)).clone()
    if options.repetition_penalty != 1 and tokens:
        said = sorted(set(tokens))
        penalty = options.repetition_penalty
        scores[said] *= torch.where(scores[said] < 0, penalty, 1 / penalty)
    step, longest = len(tokens), options.longest(config)
    begun = prefix if options.prefix_bias_beta == 0 else []
    forced = begun[step] if step < len(begun) else options.ends(config)[0] if step == longest else None
    if forced is None or options.renormalize_logits:
        scores[list(forbidden(config, tokens, [], -1, options))] = -math.inf
    log_probs = scores.log_softmax(-1) if options.renormalize_logits else scores
    if forced is not None:
        own = log_probs[forced].clone()
        log_probs = torch.full_like(log_probs, -math.inf)
        log_probs[forced] = 0.0 if options.renormalize_logits and own == -math.inf else own  # what would not be allowed
    if options.prefix_bias_beta and step < len(prefix) and tokens == prefix[:step]:
        probabilities = (1 - options.prefix_bias_beta) * log_probs.exp()
        probabilities[prefix[step]] += options.prefix_bias_beta
        log_probs = probabilities.log()
    return log_probs, scores


def forbidden(config, tokens: list[int], prefix: list[int], longest: int, options) -> set[int]:
    """What may not follow these tokens."""
    step, size, everything = len(tokens), options.no_repeat_ngram_size, set(range(config.target_vocab_size))
    if step < len(prefix):
        return everything - {prefix[step]}
    if step == longest:
        return everything - {options.ends(config)[0]}
    never = set(config.suppressed)
    if options.disable_unk:
        never.add(config.unk_token_id)
    if step < options.min_decoding_length:
        never.update(options.ends(config))
    if size:
        recent = tokens[step - size + 1 :] if step >= size else None
        never |= {tokens[i + size - 1] for i in range(step - size + 1) if tokens[i : i + size - 1] == recent}
    for *begin, end in filter(None, options.suppress_sequences):
        if tokens[step - len(begin) :] == begin and step >= len(begin):
            never.add(end)
    return never
