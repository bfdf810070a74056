"""Mask-predict by definition: one source and one length after another, a whole forward each pass, nothing cached."""

import math

import torch
from torch import Tensor

from janus_fast.decoding.hypothesis import Hypothesis
from janus_fast.packing import offsets_of
from janus_fast.reference.beam_search import among, follow
from janus_fast.reference.linear_argmax import linear_argmax
from janus_fast.reference.predict_lengths import predict_lengths
from janus_fast.reference.update_mask import update_mask
from janus_fast.visibility import Visibility


@torch.inference_mode()
def mask_predict(model, sources: list[list[int]], options, words: list | None = None) -> list[list[Hypothesis]]:
    """The ``num_hypotheses`` best candidates of every source, best first, by a ``JanusModel`` and the options of mode
    "nar". With ``words``, ids for each source, other tokens have no probability.

    Source: Mask-Predict (Ghazvininejad et al. 2019), as the authors of JANUS run it; that another model, left to right,
    can choose among the candidates: Gu et al. 2018 (noisy parallel decoding). Here the model is its own.
    """
    device, longest, groups = model.output_weight.device, options.longest(model.config), []
    options = options.resolved(model.config)
    for source, own in zip(sources, words or [None] * len(sources), strict=True):
        offsets = offsets_of(torch.tensor([len(source)], device=device))
        encoded = model.encode(torch.tensor(source, device=device), offsets)
        window = options.length_candidates == "window"
        weight = model.decoder.embed_length.weight
        lengths, log_probs = predict_lengths(encoded, offsets, weight, options.length_beam, window, 2, longest)
        require_finite("length", log_probs)
        lengths, most_likely = lengths[0].tolist(), int(log_probs[0].argmax())
        candidates = [refine(model, encoded, offsets, length, options, own) for length in dict.fromkeys(lengths)]
        if options.rerank:
            for candidate in candidates:
                candidate.token_scores = read(model, encoded, offsets, candidate.ids, own)
        groups.append(rank(candidates, lengths[most_likely], options))
    return groups


def refine(model, encoded: Tensor, source_offsets: Tensor, length: int, options, words=None) -> Hypothesis:
    """A canvas of masks between ``bos`` and ``eos``, filled in ``iterations`` passes.

    Pass t of T predicts all masked tokens at once. Then the trunc((length - 2) * (1 - t / T)) least certain ones are
    masked again; with ``adaptive`` the canvas is done before, when ``update_mask`` says that it has settled.

    With an ``order`` a pass keeps one word of those that it predicts, the next one of that order, for good, and there
    are as many passes as words. In a model of ``permuted`` prediction no mask is seen: the word at place p is that of
    a query at p - 1, which sees the words that are known, each as it was when it was filled; the end is the first of
    them (XLNet, Yang et al. 2019). Of what is filled, ``remove_repeats`` leaves no word that is the one before it.
    """
    config, device = model.config, encoded.device
    bias = forbidding_bias(model)
    bias = among(torch.zeros_like(model.output_weight[:, 0]) if bias is None else bias, words)
    masks = [config.mask_token_id] * (length - 2)
    tokens = torch.tensor([config.bos_token_id, *masks, config.eos_token_id], device=device)
    scores = torch.zeros(length, device=device, dtype=torch.float32)
    positions, rows = torch.arange(length, device=device), torch.arange(1, length - 1, device=device)
    offsets = offsets_of(torch.tensor([length], device=device))
    sees = Visibility.bidirectional(offsets)
    cross = Visibility.bidirectional(offsets, source_offsets)
    masked, history, said, certain, passes = tokens, [masks], [], [], 0
    ordered, ranks = options.order != "parallel", torch.tensor([-1, *[length] * (length - 2), 0], device=device)
    while rows.numel() > 0 and (ordered or passes < options.iterations):
        passes += 1
        hidden = (
            queries(model, masked, ranks, encoded, source_offsets)
            if config.permuted
            else model.decode(masked, positions, sees, encoded, cross)
        )
        predicted, log_probs = (t[rows] for t in linear_argmax(hidden, model.output_weight, bias))
        require_finite("prediction", log_probs)
        ratio = 1.0 - passes / options.iterations
        if ordered:  # all other masks are still in the canvas, and stay masked
            chosen, ratio = [next_of(options.order, log_probs.tolist())], 0.0
            rows, predicted, log_probs = rows[chosen], predicted[chosen], log_probs[chosen]
            ranks[rows] = passes
        tokens, scores, rows, _, masked, row_offsets, _ = update_mask(
            tokens, scores, rows, predicted, log_probs.float(), offsets, ratio, config.mask_token_id,
            adaptive=options.adaptive and not ordered,
        )  # fmt: skip
        rows = rows[: row_offsets[-1]]
        history.append(masked[1:-1].tolist())
        said.append(tokens[1:-1].tolist())
        certain.append(scores[1:-1].tolist())
    ids, token_scores = tokens[1:-1].tolist(), scores[1:-1].tolist()
    shown = ([*history[:-1], ids], said, certain) if options.return_history and passes else ()
    if options.remove_repeats:
        ids, token_scores = without_repeats(ids, token_scores)
    return Hypothesis(ids, 0.0, token_scores, passes, *shown)


def queries(model, tokens: Tensor, ranks: Tensor, encoded: Tensor, source_offsets: Tensor) -> Tensor:
    """Hidden rows [n, C] that predict each of these tokens [n] from those of lower ``ranks``, but for the first one."""
    lengths, places = ranks.new_tensor([len(tokens)]), torch.arange(len(tokens), device=tokens.device)
    masks = torch.full_like(tokens[1:], model.config.mask_token_id)
    sees = Visibility.xlnet(lengths, ranks)
    cross = Visibility.bidirectional(sees.query_offsets, source_offsets, torch.zeros_like(sees.query_offsets[1:]))
    rows = model.decode(torch.cat([tokens, masks]), torch.cat([places, places[:-1]]), sees, encoded, cross)
    return torch.cat([rows[:1], rows[len(tokens) :]])


def next_of(order: str, log_probs: list[float]) -> int:
    """Which of the masked words of a canvas is filled next; among equally certain ones the first."""
    if order == "easy_first":
        return log_probs.index(max(log_probs))
    return {"left_to_right": 0, "right_to_left": len(log_probs) - 1}[order]


def without_repeats(ids: list[int], scores: list[float], known: int = 0) -> tuple[list[int], list[float]]:
    """The ``known`` first words and those that differ from the one before them, and their scores."""
    kept = [place for place, token in enumerate(ids) if place < max(1, known) or token != ids[place - 1]]
    return [ids[place] for place in kept], [scores[place] for place in kept]


def read(model, encoded: Tensor, source_offsets: Tensor, ids: list[int], words=None) -> list[float]:
    """The log-probability of each of these tokens, and of the end behind them, after those before it, left to right."""
    steps = [*ids, model.config.eos_token_id]
    log_probs = [follow(model, encoded, source_offsets, ids[:n], words)[t] for n, t in enumerate(steps)]
    log_probs = torch.stack(log_probs)
    require_finite("candidate", log_probs)
    return log_probs.tolist()


def rank(candidates: list[Hypothesis], most_likely_length: int, options) -> list[Hypothesis]:
    """Scores the candidates of one source and sorts them, best first."""
    for candidate in candidates:
        words = len(candidate.ids)
        if options.rerank:  # the scores of mode "ar", with a length penalty of 1
            candidate.score = math.fsum(candidate.token_scores) / (words + 1)
        elif options.score == "canvas":
            candidate.score = math.fsum(candidate.token_scores) / (words + 2)
        elif words:
            candidate.score = math.fsum(candidate.token_scores) / words
        else:
            candidate.score = 0.0 if most_likely_length == 2 else -math.inf
    return sorted(candidates, key=lambda c: -c.score)[: options.num_hypotheses]


def forbidding_bias(model) -> Tensor | None:
    """The output's bias, which also keeps ``bos``, ``pad``, ``eos`` and ``mask`` from being predicted inside a canvas.

    Scores are log-probabilities among the other tokens. Models converted from the original predict over their whole
    vocabulary, as the original does.
    """
    config = model.config
    if config.predictable_mask:
        return model.output_bias
    bias = torch.zeros_like(model.output_weight[:, 0]) if model.output_bias is None else model.output_bias.clone()
    bias[[config.bos_token_id, config.pad_token_id, config.eos_token_id, config.mask_token_id]] = -math.inf
    return bias


def require_finite(what: str, log_probs: Tensor) -> None:
    if not log_probs.isfinite().all():
        raise FloatingPointError(f"generate: every {what} must have a finite score, got NaN or infinity")
