"""The tokens that may follow hypotheses, and their log-probabilities."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..linear import linear
from ..model import JanusModel
from .options import AutoregressiveOptions, SpeculativeOptions


def log_probs_of(
    model: JanusModel, bias: Tensor | None, asked: Tensor, hidden: Tensor, best: Tensor, log_probs: Tensor
) -> Tensor:
    """The log-probability of one token ``asked`` [R] for each row, where that of the likeliest, ``best``, is known.

    It is as much lower as the token's logit, for which no room is needed for those of the whole vocabulary.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    lower = (model.output_weight[asked].to(dtype) - model.output_weight[best].to(dtype)).mul_(hidden).sum(-1)
    if bias is not None:
        lower += bias[asked].to(dtype) - bias[best].to(dtype)
    return (log_probs + lower).float()


def allowed_tokens(model: JanusModel, words: list[np.ndarray] | None) -> Tensor | None:
    """Which tokens [S, V] are among the ``words`` of each source."""
    if words is None:
        return None
    allowed = torch.zeros(len(words), model.config.target_vocab_size, dtype=torch.bool)
    for row, own in zip(allowed, words, strict=True):
        row[torch.from_numpy(own)] = True
    return allowed.to(model.output_weight.device)


def log_softmax_of(model: JanusModel, hidden: Tensor, bias: Tensor | None, allowed: Tensor | None = None) -> Tensor:
    """Log-probabilities [R, V] among the tokens that are ``allowed`` to each row; None: all of them."""
    logits = linear(hidden, model.output_weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits if allowed is None else logits.masked_fill(~allowed, float("-inf")), -1)


class Continuations:
    """Asks the vocabulary for what options leave of it. ``prefixes`` are tokens that outputs must begin with,
    ``allowed`` [S, V] those that there are for each source.

    What is forbidden keeps its place, with log-probability minus infinity; so all shapes are known beforehand.
    """

    def __init__(
        self,
        model: JanusModel,
        options: AutoregressiveOptions | SpeculativeOptions,
        prefixes: list[list[int]] | None = None,
        allowed: Tensor | None = None,
    ):
        config = model.config
        self.model, self.options, self.allowed = model, options, allowed
        self.eos, self.ngram = config.eos_token_id, options.no_repeat_ngram_size
        always = set(config.suppressed)
        self.banned = torch.zeros(config.target_vocab_size, dtype=torch.bool, device=model.output_weight.device)
        for token in always:
            self.banned[token] = True
        self.bias = model.output_bias
        if options.renormalize_logits:  # what is forbidden gives its probability to the others
            self.bias = torch.zeros_like(model.output_weight[:, 0]) if self.bias is None else self.bias.clone()
            self.end_bias = self.bias[self.eos].clone()
            self.bias[self.banned] = float("-inf")
        wanted = options.sampling_topk if options.sampling_topk != 1 else 2 * options.beam_size
        forbidden = len(always | {self.eos}) + (options.longest(config) if self.ngram else 0)  # at most
        self.choices = min(wanted + forbidden if wanted else config.target_vocab_size, config.target_vocab_size)
        most = max(map(len, prefixes or [[]]))
        padded = [[*prefix, *[-1] * (most - len(prefix))] for prefix in prefixes or ()]
        self.prefixes = torch.tensor(padded, device=self.banned.device)

    def allow_end(self, allowed: bool) -> None:
        self.banned[self.eos : self.eos + 1].fill_(not allowed)
        if self.options.renormalize_logits:
            self.bias[self.eos] = self.end_bias if allowed else float("-inf")

    def __call__(self, hidden: Tensor, owners: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ids and log-probabilities [R, K], best first but for those that are forbidden.

        ``owners`` are the sources [R], ``past`` the tokens [R, n] so far, which n-grams and prefixes ask for.
        """
        if self.allowed is None:
            ids, log_probs = ops.linear_topk(hidden, self.model.output_weight, self.bias, k=self.choices)
        else:
            log_probs, ids = self._log_probs(hidden, owners).sort(dim=-1, descending=True, stable=True)
            ids, log_probs = (t[:, : self.choices].contiguous() for t in (ids, log_probs))
        forbidden = self.banned[ids]
        if self.ngram:
            forbidden |= self._repeating(past).gather(1, ids)
        log_probs = log_probs.masked_fill(forbidden, float("-inf"))
        if past is not None and past.shape[1] < self.prefixes.shape[-1]:
            self._force(hidden, owners, self.prefixes[owners, past.shape[1]], ids, log_probs)
        return ids, log_probs

    def end(self, hidden: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """The end alone may follow."""
        ids = torch.full((hidden.shape[0], self.choices), self.eos, device=hidden.device)
        log_probs = torch.full(ids.shape, float("-inf"), device=hidden.device)
        log_probs[:, 0] = self._log_prob(hidden, owners, ids[:, 0])
        return ids, log_probs

    def greedy(
        self, hidden: Tensor, owners: Tensor, steps: Tensor, never: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The likeliest token that may follow so many words, ``steps`` [R], and its log-probability [R] each.

        ``never`` [R, V] is what may not, where that takes more than the number of words.
        """
        only = self._forced(owners, steps)  # the end alone may follow the longest output, and a prefix goes on
        asked = only.clamp(min=0)
        if self.allowed is not None:
            every = self._log_probs(hidden, owners)
            best, chosen = every.masked_fill(never, float("-inf")).max(-1)
            own = every.gather(1, asked[:, None])[:, 0]
        else:
            ids, log_probs = ops.linear_topk(hidden, self.model.output_weight, self.bias, k=self.choices)
            own = log_probs_of(self.model, self.bias, asked, hidden, ids[:, 0], log_probs[:, 0])
            early = (ids == self.eos) & (steps < self.options.min_decoding_length)[:, None]
            refused = self.banned[ids] | early if never is None else never.gather(1, ids)
            best, place = log_probs.masked_fill(refused, float("-inf")).max(-1)
            chosen = ids.gather(1, place[:, None])[:, 0]
        return torch.where(only < 0, chosen, only), torch.where(only < 0, best, own)

    def _forced(self, owners: Tensor, steps: Tensor) -> Tensor:
        """The one token that may follow so many words, [R]; -1 where there are others."""
        forced = torch.full_like(steps, -1)
        if most := self.prefixes.shape[-1]:
            forced = self.prefixes[owners, steps.clamp(max=most - 1)].masked_fill(steps >= most, -1)
        return forced.masked_fill(steps >= self.options.longest(self.model.config), self.eos)

    def _log_prob(self, hidden: Tensor, owners: Tensor, asked: Tensor) -> Tensor:
        """Of one token for each row."""
        if self.allowed is not None:
            return self._log_probs(hidden, owners).gather(1, asked[:, None])[:, 0]
        best = ops.linear_argmax(hidden, self.model.output_weight, self.bias)
        return log_probs_of(self.model, self.bias, asked, hidden, *best)

    def _log_probs(self, hidden: Tensor, owners: Tensor) -> Tensor:
        allowed = None if self.allowed is None else self.allowed[owners]
        return log_softmax_of(self.model, hidden, self.bias, allowed).float()

    def _repeating(self, past: Tensor) -> Tensor:
        """Which tokens [R, V] would complete an n-gram that the past holds."""
        banned = self.banned.new_zeros(past.shape[0], self.banned.numel())
        if past.shape[1] >= self.ngram:
            grams = past.unfold(1, self.ngram, 1)  # [R, grams, size]
            again = (grams[:, :, :-1] == past[:, None, past.shape[1] - self.ngram + 1 :]).all(-1)
            rows, places = again.nonzero(as_tuple=True)
            banned[rows, grams[rows, places, -1]] = True
        return banned

    def _force(self, hidden: Tensor, owners: Tensor, forced: Tensor, ids: Tensor, log_probs: Tensor) -> None:
        """Where a source's prefix has a token here, that alone may follow; elsewhere it is -1."""
        rows = (forced >= 0).nonzero()[:, 0]
        ids[rows, 0] = forced[rows]
        log_probs[rows] = float("-inf")
        own = self._log_prob(hidden[rows], owners[rows], forced[rows])
        # of what would not be allowed
        log_probs[rows, 0] = own.masked_fill(own == float("-inf"), 0.0) if self.options.renormalize_logits else own
