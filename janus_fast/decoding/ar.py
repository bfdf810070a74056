"""Autoregressive decoding: greedy and beam search, sampling, and scoring of given targets."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..model import JanusModel
from ..objectives.streams import autoregressive_streams, causal_streams, join
from ..packing import offsets_of, pack
from .cache import StepDecoder
from .hypothesis import Hypothesis
from .options import AutoregressiveOptions

NO_OUTPUT = (
    "generate: every source must have an output of finite score, got one without: its logits are not finite, "
    "or the length and n-gram options forbid every token"
)


@torch.inference_mode()
def beam_search(
    model: JanusModel, sources: list[list[int]], options: AutoregressiveOptions, prefixes: list[list[int]] | None = None
) -> list[list[Hypothesis]]:
    """The ``num_hypotheses`` best outputs of every source, best first.

    Each step keeps, of all continuations of a sentence's hypotheses, the best ``2 * beam_size``; those among the first
    ``beam_size`` that end are finished, the best ``beam_size`` of the others go on. A sentence is done when
    ``beam_size`` hypotheses are finished. ``prefixes`` are ids that every output of a source must begin with.
    """
    config, beam, device = model.config, options.beam_size, model.output_weight.device
    source, lengths = pack(sources)
    offsets = offsets_of(lengths).to(device)
    decoder = StepDecoder(model, model.encode(source.to(device), offsets), offsets)
    longest = options.longest(config)
    prefixes = prefixes or [[]] * len(sources)
    finished: list[list[Hypothesis]] = [[] for _ in sources]
    # hypotheses lie sentence after sentence, as many for each; before the first step there is one a sentence
    active = list(range(len(sources)))
    tokens = torch.full((len(active), 1), config.decoder_start_token_id, device=device)  # [R, step + 1]
    token_scores = torch.zeros(len(active), 0, device=device, dtype=torch.float32)  # [R, step]
    totals = torch.zeros(len(active), device=device, dtype=torch.float32)  # [R]
    for step in range(longest + 1):
        width = tokens.shape[0] // len(active)
        owner = torch.tensor(active, dtype=torch.int32, device=device).repeat_interleave(width)
        hidden = decoder.step(tokens[:, -1], owner)
        ids, log_probs = _continuations(model, hidden, tokens, step, longest, options)
        _force_prefixes(model, hidden, ids, log_probs, [prefixes[s] for s in active], width, step)

        candidates = totals[:, None] + log_probs  # [R, K]
        ranked = candidates.view(len(active), -1).sort(descending=True, stable=True)
        keep = min(2 * beam, ranked.values.shape[1])
        order = ranked.indices[:, :keep]
        origin = order // ids.shape[1] + torch.arange(len(active), device=device)[:, None] * width
        choice = order % ids.shape[1]
        best_ids, best_totals = ids[origin, choice], ranked.values[:, :keep]
        best_scores = log_probs[origin, choice]

        ends = (best_ids == config.eos_token_id) & best_totals.isfinite()
        survivors, still_active = [], []
        for i, sentence in enumerate(active):
            for column in ends[i, :beam].nonzero().flatten().tolist():
                if len(finished[sentence]) < beam:
                    row = int(origin[i, column])
                    scores = [*token_scores[row].tolist(), float(best_scores[i, column])]
                    score = float(best_totals[i, column]) / (step + 1) ** options.length_penalty
                    finished[sentence].append(Hypothesis(tokens[row, 1:].tolist(), score, scores, step + 1))
            if len(finished[sentence]) < beam and step < longest:
                still_active.append(sentence)
                survivors.append(i)
        if not still_active:
            break
        index = torch.tensor(survivors, device=device)
        # ended ones sort behind all that go on, in the order they had
        going = (best_ids == config.eos_token_id)[index].to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
        rows = origin[index].gather(1, going).flatten()
        tokens = torch.cat([tokens[rows], best_ids[index].gather(1, going).view(-1, 1)], 1)
        token_scores = torch.cat([token_scores[rows], best_scores[index].gather(1, going).view(-1, 1)], 1)
        totals = best_totals[index].gather(1, going).flatten()
        totals = totals.masked_fill(tokens[:, -1] == config.eos_token_id, float("-inf"))
        decoder.reorder(rows)
        active = still_active
    if not all(finished):
        raise FloatingPointError(NO_OUTPUT)
    # sorted is stable: of equal scores the one that finished first wins
    return [sorted(group, key=lambda h: -h.score)[: options.num_hypotheses] for group in finished]


@torch.inference_mode()
def sample(
    model: JanusModel, sources: list[list[int]], options: AutoregressiveOptions, numbers: list[int],
    prefixes: list[list[int]] | None = None,
) -> list[list[Hypothesis]]:  # fmt: skip
    """``num_hypotheses`` independent samples a source, best score first.

    Draws from the ``sampling_topk`` best tokens at ``sampling_temperature``, cut to the smallest set that holds
    ``sampling_topp`` of their mass. The random numbers of a sample depend on (seed, the source's number, the sample's
    number) alone, not on the batch. Scores are the model's own log-probabilities, whatever the temperature.
    """
    config, count, device = model.config, options.num_hypotheses, model.output_weight.device
    source, lengths = pack(sources)
    offsets = offsets_of(lengths).to(device)
    decoder = StepDecoder(model, model.encode(source.to(device), offsets), offsets)
    longest = options.longest(config)
    prefixes = [prefix for prefix in prefixes or [[]] * len(sources) for _ in range(count)]
    generators = [np.random.default_rng([options.seed, n, k]) for n in numbers for k in range(count)]
    owners = torch.arange(len(sources), dtype=torch.int32, device=device).repeat_interleave(count)
    results: list[Hypothesis | None] = [None] * len(owners)
    active = torch.arange(len(owners), device=device)
    tokens = torch.full((len(owners), 1), config.decoder_start_token_id, device=device)
    token_scores = torch.zeros(len(owners), 0, device=device, dtype=torch.float32)
    for step in range(longest + 1):
        hidden = decoder.step(tokens[:, -1], owners[active])
        ids, log_probs = _continuations(model, hidden, tokens, step, longest, options)
        _force_prefixes(model, hidden, ids, log_probs, [prefixes[r] for r in active.tolist()], 1, step)
        weights = (log_probs.double() / options.sampling_temperature).softmax(-1)  # best first
        if not weights.isfinite().all():
            raise FloatingPointError(NO_OUTPUT)
        cumulative = weights.cumsum(-1)
        weights = weights.masked_fill(cumulative - weights >= options.sampling_topp, 0.0)
        uniform = torch.tensor([generators[r].random() for r in active.tolist()], device=device, dtype=torch.float64)
        cumulative = weights.cumsum(-1)
        drawn = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        drawn = drawn.minimum((weights > 0).sum(-1, keepdim=True) - 1)
        new = ids.gather(1, drawn)
        token_scores = torch.cat([token_scores, log_probs.gather(1, drawn)], 1)
        ended = new[:, 0] == config.eos_token_id
        for i in ended.nonzero().flatten().tolist():
            scores = token_scores[i].tolist()
            score = sum(scores) / (step + 1) ** options.length_penalty
            results[int(active[i])] = Hypothesis(tokens[i, 1:].tolist(), score, scores, step + 1)
        if ended.all():
            break
        rows = (~ended).nonzero().flatten()
        tokens, token_scores, active = torch.cat([tokens, new], 1)[rows], token_scores[rows], active[rows]
        decoder.reorder(rows)
    groups = [results[i * count : (i + 1) * count] for i in range(len(sources))]
    return [sorted(group, key=lambda h: -h.score) for group in groups]


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
    log_probs = F.log_softmax(model.logits(hidden).float(), -1)
    scores = log_probs.gather(1, batch.targets["ar"][:, None])[:, 0]
    return [part.tolist() for part in scores.split((lengths - 1).tolist())]


def _continuations(
    model: JanusModel, hidden: Tensor, tokens: Tensor, step: int, longest: int, options: AutoregressiveOptions
) -> tuple[Tensor, Tensor]:
    """The tokens that may follow each hypothesis and their log-probabilities, best first: [R, K] each.

    Forbidden ones keep their place with log-probability minus infinity, moved to the end.
    """
    config = model.config
    if step >= longest:  # nothing but the end may follow
        ids = torch.full_like(tokens[:, :1], config.eos_token_id)
        return ids, _log_probs_of(model, hidden, ids[:, 0])[:, None]
    banned = {config.pad_token_id, config.bos_token_id} | (set() if config.predictable_mask else {config.mask_token_id})
    if step < options.min_decoding_length:
        banned.add(config.eos_token_id)
    repeats = _repeated_ngrams(tokens, options.no_repeat_ngram_size)
    wanted = options.sampling_topk if options.sampling_topk != 1 else 2 * options.beam_size
    vocabulary = config.target_vocab_size
    k = wanted + len(banned) + max(map(len, repeats), default=0) if wanted else vocabulary
    ids, log_probs = ops.linear_topk(hidden, model.output_weight, model.output_bias, k=min(k, vocabulary))
    forbidden = torch.isin(ids, torch.tensor(sorted(banned), device=ids.device))
    for row, followers in enumerate(repeats):
        if followers:
            forbidden[row] |= torch.isin(ids[row], torch.tensor(sorted(followers), device=ids.device))
    order = forbidden.to(torch.int8).sort(dim=1, stable=True).indices[:, : wanted or vocabulary]
    return ids.gather(1, order), log_probs.masked_fill(forbidden, float("-inf")).gather(1, order)


def _repeated_ngrams(tokens: Tensor, size: int) -> list[set[int]]:
    """For each hypothesis the tokens that would complete an n-gram it already holds."""
    if size == 0:
        return []
    banned = []
    for row in tokens[:, 1:].tolist():
        recent = row[len(row) - size + 1 :]
        starts = range(len(row) - size + 1)
        banned.append({row[i + size - 1] for i in starts if row[i : i + size - 1] == recent})
    return banned


def _force_prefixes(
    model: JanusModel, hidden: Tensor, ids: Tensor, log_probs: Tensor, prefixes: list[list[int]], width: int, step: int
) -> None:
    """Where a sentence's prefix reaches past ``step``, its token alone may follow."""
    rows = [i * width + w for i, prefix in enumerate(prefixes) if step < len(prefix) for w in range(width)]
    if not rows:
        return
    forced = torch.tensor([prefixes[row // width][step] for row in rows], device=ids.device)
    ids[rows, 0] = forced
    log_probs[rows] = float("-inf")
    log_probs[rows, 0] = _log_probs_of(model, hidden[rows], forced)


def _log_probs_of(model: JanusModel, hidden: Tensor, tokens: Tensor) -> Tensor:
    return F.log_softmax(model.logits(hidden).float(), -1).gather(1, tokens[:, None])[:, 0]
