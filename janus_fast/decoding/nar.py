"""Non-autoregressive decoding: predict lengths, fill every mask at once, refine (mask-predict)."""

import math

import torch
from torch import Tensor

from .. import ops
from ..model import JanusModel
from ..packing import offsets_of, pack, ranges
from ..visibility import Visibility
from .hypothesis import Hypothesis
from .options import NonAutoregressiveOptions

FEW = 3


@torch.inference_mode()
def mask_predict(
    model: JanusModel, sources: list[list[int]], options: NonAutoregressiveOptions
) -> list[list[Hypothesis]]:
    """The ``num_hypotheses`` best candidates of every source, best first.

    After pass t of T, the trunc((L - 2) * (1 - t / T)) least certain tokens of a canvas of L are masked again.
    Source: Mask-Predict (Ghazvininejad et al. 2019), as the authors of JANUS run it.
    """
    config, device = model.config, model.output_weight.device
    longest = options.longest(config)
    source, source_lengths = pack(sources)
    source_offsets = offsets_of(source_lengths).to(device)
    encoded = model.encode(source.to(device), source_offsets)
    lengths, length_log_probs = ops.predict_lengths(
        encoded, source_offsets, model.decoder.embed_length.weight, beam=options.length_beam,
        candidates=options.length_candidates, min_length=2, max_length=longest,
    )  # fmt: skip
    require_finite("length", length_log_probs)
    # of equal lengths of a source the first alone is refined
    same = lengths[:, :, None] == lengths[:, None, :]
    distinct = same.int().argmax(-1) == torch.arange(options.length_beam, device=device)
    owners = distinct.nonzero()[:, 0].to(torch.int32)
    canvases = _Canvases(model, lengths[distinct], owners)
    cross_keys = model.decoder.cross_keys(encoded)
    forbidden = forbidding_bias(model)
    for iteration in range(options.iterations):
        if canvases.rows.numel() == 0:
            break
        cross = Visibility.bidirectional(canvases.offsets, source_offsets, canvases.sources)
        hidden = model.decoder(
            canvases.masked(), canvases.positions, Visibility.bidirectional(canvases.offsets), cross_keys, cross,
            canvases.rows,
        )  # fmt: skip
        predicted, log_probs = ops.linear_argmax(hidden, model.output_weight, forbidden)
        require_finite("prediction", log_probs)
        canvases.update(predicted, log_probs, iteration + 1, options)
    canvases.retire(torch.ones_like(canvases.candidates, dtype=torch.bool))
    groups: list[list[Hypothesis]] = [[] for _ in sources]
    for owner, candidate in zip(owners.tolist(), canvases.results, strict=True):
        groups[owner].append(candidate)
    most_likely = lengths.gather(1, length_log_probs.argmax(1, keepdim=True))[:, 0].tolist()
    return [rank(group, length, options) for group, length in zip(groups, most_likely, strict=True)]


class _Canvases:
    """The candidates still being refined, packed; finished ones move to ``results`` and leave the batch."""

    def __init__(self, model: JanusModel, lengths: Tensor, sources: Tensor):
        config, device = model.config, lengths.device
        self.bos, self.eos, self.mask = config.bos_token_id, config.eos_token_id, config.mask_token_id
        self.candidates = torch.arange(lengths.numel(), device=device)
        self.sources = sources
        self.lengths = lengths
        self.results: list[Hypothesis | None] = [None] * lengths.numel()
        self.histories: list[list[list[int]]] = [[] for _ in self.results]
        self._layout()
        inner = (self.positions > 0) & (self.positions < lengths.repeat_interleave(lengths) - 1)
        self.tokens = torch.full_like(self.positions, self.mask)
        self.tokens[self.positions == 0] = self.bos
        self.tokens[self.offsets[1:].long() - 1] = self.eos
        self.scores = torch.zeros(self.tokens.numel(), device=device, dtype=torch.float32)
        self.rows = inner.nonzero().flatten()
        self.passes = torch.zeros_like(lengths)

    def _layout(self) -> None:
        self.offsets = offsets_of(self.lengths)
        self.positions = ranges(self.lengths)

    def masked(self) -> Tensor:
        return self.tokens.index_fill(0, self.rows, self.mask)

    def update(self, predicted: Tensor, log_probs: Tensor, iteration: int, options: NonAutoregressiveOptions) -> None:
        predicts = self._masks_left() > 0
        self.passes += predicts
        if options.return_history and iteration == 1:
            self._remember(predicts)
        self.tokens, self.scores, self.rows, changed = ops.update_mask(
            self.tokens, self.scores, self.rows, predicted, log_probs, self.offsets,
            ratio=1.0 - iteration / options.iterations, mask_token=self.mask,
        )  # fmt: skip
        if options.return_history:
            self._remember(predicts)
        left = self._masks_left()
        done = left == 0
        if options.adaptive:
            done |= settled(changed, left, self.lengths - 2)
        self.retire(done)

    def retire(self, done: Tensor) -> None:
        """Moves the candidates ``done`` [B] bool out of the batch."""
        if not done.any():
            return
        tokens, scores = (t.split(self.lengths.tolist()) for t in (self.tokens, self.scores))
        for i in done.nonzero().flatten().tolist():
            number = int(self.candidates[i])
            ids, log_probs = tokens[i][1:-1].tolist(), scores[i][1:-1].tolist()
            history = self.histories[number]
            if history:  # what is still masked was filled by the last pass
                history[-1] = ids
            self.results[number] = Hypothesis(ids, 0.0, log_probs, int(self.passes[i]), history)
        stay = (~done).repeat_interleave(self.lengths)
        moved = stay.cumsum(0) - 1
        self.rows = moved[self.rows[stay[self.rows]]]
        self.tokens, self.scores = self.tokens[stay], self.scores[stay]
        self.candidates, self.sources, self.lengths, self.passes = (
            t[~done] for t in (self.candidates, self.sources, self.lengths, self.passes)
        )
        self._layout()

    def _masks_left(self) -> Tensor:
        """How many places of each canvas are masked: [B]."""
        masks = torch.zeros_like(self.tokens).index_fill(0, self.rows, 1).cumsum(0)
        return torch.nn.functional.pad(masks, (1, 0))[self.offsets.long()].diff()

    def _remember(self, which: Tensor) -> None:
        canvases = self.masked().split(self.lengths.tolist())
        for i in which.nonzero().flatten().tolist():
            self.histories[int(self.candidates[i])].append(canvases[i][1:-1].tolist())


def settled(changed: Tensor, left: Tensor, words: Tensor) -> Tensor:
    """The adaptive stop: a canvas is done that a pass did not change, once at most one word of ``FEW`` is masked.

    Agreement before that says little: most words were guessed beside masks. ``left`` of ``words`` are masked: [B].
    """
    return changed < (FEW * left <= words)  # not changed, and few


def require_finite(what: str, log_probs: Tensor) -> None:
    if not log_probs.isfinite().all():
        raise FloatingPointError(f"generate: every {what} must have a finite score, got NaN or infinity")


def forbidding_bias(model: JanusModel) -> Tensor | None:
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


def rank(candidates: list[Hypothesis], most_likely_length: int, options: NonAutoregressiveOptions) -> list[Hypothesis]:
    """Scores the candidates of one source and sorts them, best first."""
    for candidate in candidates:
        words = len(candidate.ids)
        if options.score == "canvas":
            candidate.score = math.fsum(candidate.token_scores) / (words + 2)
        elif words:
            candidate.score = math.fsum(candidate.token_scores) / words
        else:
            candidate.score = 0.0 if most_likely_length == 2 else -math.inf
    return sorted(candidates, key=lambda c: -c.score)[: options.num_hypotheses]
