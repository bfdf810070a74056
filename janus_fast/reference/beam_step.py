"""One step of beam search, by definition: rank all continuations, finish what ends, go on with the best of the rest."""

from functools import cache
from typing import Annotated, NamedTuple, get_type_hints

import torch
from torch import Tensor


class BeamState(NamedTuple):
    """A search of S sentences with B hypotheses each, of at most T steps; ``beam_step`` writes it in place.

    Caches do not move: a sentence has one row of keys and values for each position and hypothesis. ``slots`` says which
    row wrote what a hypothesis descends from. Hypotheses that share a past form a tree; in the order of its branches
    those which see a key are neighbours, so attention at ``times`` over ``visible_from`` and ``visible_until`` gives
    each hypothesis the rows that it descends from, and its own.
    """

    steps: Annotated[Tensor, torch.int32, "S"]  # done; T when the sentence is done, and nothing of it changes
    totals: Annotated[Tensor, torch.float32, "S B"]  # sums of log-probabilities
    tokens: Annotated[Tensor, torch.int64, "S B"]  # what each hypothesis reads next
    slots: Annotated[Tensor, torch.int32, "S T B"]  # the row that wrote the keys of a position
    times: Annotated[Tensor, torch.int32, "S B"]  # the number of each hypothesis in the order of the tree
    visible_from: Annotated[Tensor, torch.int32, "S T B"]  # which of these numbers see the key of a row
    visible_until: Annotated[Tensor, torch.int32, "S T B"]
    history_tokens: Annotated[Tensor, torch.int32, "S T B"]  # what was chosen for each row in each step
    history_scores: Annotated[Tensor, torch.float32, "S T B"]
    finished_count: Annotated[Tensor, torch.int32, "S"]  # finished hypotheses, in the order in which they finished
    finished_lengths: Annotated[Tensor, torch.int32, "S F"]  # tokens without eos; F = 2 B, as B may end at once
    finished_tokens: Annotated[Tensor, torch.int32, "S F T"]
    finished_totals: Annotated[Tensor, torch.float32, "S F"]
    finished_scores: Annotated[Tensor, torch.float32, "S F T"]  # log-probabilities of the tokens and of eos
    remaining: Annotated[Tensor, torch.int32, "1"]  # sentences that are not done

    @classmethod
    @cache
    def fields(cls) -> dict[str, tuple[torch.dtype, str]]:
        """Of each field: its dtype and its dimensions."""
        return {name: hint.__metadata__ for name, hint in get_type_hints(cls, include_extras=True).items()}

    @classmethod
    def new(cls, sentences: int, steps: int, beams: int, device: torch.device | str = "cpu") -> "BeamState":
        """What a search is before its first step."""
        sizes = {"S": sentences, "T": steps, "B": beams, "F": 2 * beams, "1": 1}
        make = lambda dtype, letters: torch.zeros([sizes[n] for n in letters.split()], dtype=dtype, device=device)  # noqa: E731
        state = cls(*(make(*field) for field in cls.fields().values()))
        state.begin(torch.zeros(sentences, dtype=torch.bool, device=device))
        return state

    def begin(self, missing: Tensor) -> None:
        """Goes back before the first step, without the sentences that are ``missing`` [S]."""
        numbers = torch.arange(self.times.shape[1], dtype=torch.int32, device=self.times.device)
        self.steps.copy_(missing * self.slots.shape[1])
        self.remaining.copy_((~missing).sum())
        self.totals.fill_(float("-inf"))  # of one hypothesis
        self.totals[:, 0] = 0.0
        self.finished_count.zero_()
        self.times.copy_(numbers.expand_as(self.times))
        self.visible_from[:, 0] = numbers
        self.visible_until[:, 0] = numbers + 1


def beam_step(log_probs: Tensor, ids: Tensor, eos: int, *state: Tensor) -> None:
    """Continues hypotheses by the tokens ``ids`` [S, B, K], of these log-probabilities; writes the ``BeamState``."""
    s = BeamState(*state)
    steps, beams = s.slots.shape[1:]
    rows = torch.arange(beams, device=ids.device)
    for n in (s.steps < steps).nonzero().flatten().tolist():
        step, count = int(s.steps[n]), int(s.finished_count[n])
        candidates = (s.totals[n, :, None] + log_probs[n]).flatten()
        if candidates.isnan().any():  # the sentence has no output
            s.finished_count[n], s.steps[n] = 0, steps
            s.remaining.sub_(1)
            continue
        totals, order = (t[: 2 * beams] for t in candidates.sort(descending=True, stable=True))
        origins, tokens, scores = order // ids.shape[2], ids[n].flatten()[order], log_probs[n].flatten()[order]
        ends = tokens == eos
        slots = torch.cat([s.slots[n, :step], rows[None]])  # [step + 1, B] ancestors, and each itself
        for c in (ends & totals.isfinite())[:beams].nonzero().flatten().tolist():
            chosen = slots[1:, origins[c], None]  # [step, 1]
            s.finished_tokens[n, count, :step] = s.history_tokens[n, :step].gather(1, chosen.long())[:, 0]
            s.finished_scores[n, count, :step] = s.history_scores[n, :step].gather(1, chosen.long())[:, 0]
            s.finished_scores[n, count, step] = scores[c]
            s.finished_totals[n, count], s.finished_lengths[n, count] = totals[c], step
            count += 1
        s.finished_count[n] = count
        if count >= beams or step + 1 == steps:
            s.steps[n] = steps
            s.remaining.sub_(1)
            continue
        going = ends.to(torch.int8).argsort(stable=True)[:beams]  # ended ones, which nothing can follow, come last
        parents = origins[going]
        s.steps[n] = step + 1
        s.history_tokens[n, step], s.history_scores[n, step] = tokens[going], scores[going]
        s.tokens[n], s.totals[n] = tokens[going], totals[going].masked_fill(ends[going], float("-inf"))
        s.times[n] = times = (s.times[n, parents] * beams + rows).argsort().argsort().int()
        s.slots[n, : step + 2] = slots = torch.cat([slots[:, parents], rows[None]])
        descend = slots[:, :, None] == rows  # [step + 2, B, B] whether a hypothesis sees the key of a row
        s.visible_from[n, : step + 2] = times[:, None].where(descend, beams).amin(1)
        s.visible_until[n, : step + 2] = (times[:, None] + 1).where(descend, 0).amax(1)
