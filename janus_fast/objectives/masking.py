"""Which target words are masked in training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inputs import choice, option, rule, weight
from .objective import Objective

# Truncated Poisson(2) over span lengths 0, 1, ...: section 3 of BART (Lewis et al. 2020), with the rate JANUS uses.
POISSON_RATE = 2.0


def span_length_probabilities(rate: float = POISSON_RATE, limit: int = 128) -> Tensor:
    """Poisson probabilities, cut where they fall under 1e-7, normalised; float32 [lengths]."""
    probabilities, power, factorial = [], 1.0, 1
    for k in range(limit):
        probabilities.append(math.exp(-rate) * power / factorial)
        power *= rate
        factorial *= k + 1
        if probabilities[-1] < 1e-7:
            break
    return torch.tensor(probabilities, dtype=torch.float32)


def drawn_spans(budget: int, probabilities: Tensor, generator: torch.Generator) -> list[int]:
    """Lengths of spans that add up to ``budget``, of which the last one is cut to that; 0 is one of them."""
    spans, left = [], budget
    while left > 0:
        for span in torch.multinomial(probabilities, budget, True, generator=generator).tolist():
            spans.append(min(span, left))
            left -= spans[-1]
            if left == 0:
                break
    return spans


def span_mask(length: int, ratio: float, generator: torch.Generator, probabilities: Tensor | None = None) -> Tensor:
    """Masks spans of the words between ``bos`` and ``eos``: bool [length], True = masked.

    Draws span lengths from a truncated Poisson until they add up to ceil(ratio * length), and for each a start of its
    own among all places, so that spans may overlap or fall on ``bos`` and ``eos``, which stay: about 56% of the words
    end up masked at ratio 0.7. At least one word is masked if there is one. The draws, and their order, are those of
    the original's.
    """
    probabilities = span_length_probabilities() if probabilities is None else probabilities
    mask = torch.zeros(length, dtype=torch.bool)
    if length < 3:
        return mask
    budget = math.ceil(torch.tensor(length, dtype=torch.float32) * ratio)  # in float32, as the original
    spans = drawn_spans(budget, probabilities, generator)
    starts = torch.randperm(length, generator=generator).tolist()  # a span without length uses up a start, too
    for start, span in zip(starts, spans, strict=False):
        mask[start : start + span] = True
    mask[0] = mask[-1] = False
    if not mask.any():
        mask[1 + int(torch.randint(length - 2, (1,), generator=generator))] = True
    return mask


def uniform_mask(length: int, ratio: float, generator: torch.Generator, probabilities=None) -> Tensor:
    """Masks a uniformly drawn number (1 to all) of uniformly drawn words: CMLM (Ghazvininejad et al. 2019).

    ``ratio`` is unused: the number of masks is itself uniform.
    """
    mask = torch.zeros(length, dtype=torch.bool)
    words = length - 2
    if words >= 1:
        count = 1 + int(torch.randint(words, (1,), generator=generator))
        mask[torch.randperm(words, generator=generator)[:count] + 1] = True
    return mask


MASKINGS = {"span": span_mask, "uniform": uniform_mask}


def masking_option(default: str):
    def check(name: str, value):
        return None if value is None else choice(name, value, MASKINGS)

    return option(default, check, " or ".join(MASKINGS))


def stream_weight(stream: str):
    check = rule("be at least 0 and finite", lambda x: x is None or 0 <= x < math.inf)
    return option(None, check, f"weight of {stream}'s cross-entropy")


@dataclass
class Masked(Objective):
    """An objective that predicts masked words, and lengths: ``masking`` is "span" (JANUS's) or "uniform" (CMLM's).

    ``mask_ratio`` is the budget of spans. In a share ``suffix_share`` of the sentences, drawn one by one, the masks are
    instead all words from a uniformly drawn one on, as where the rest of a sentence is drafted.

    A draft is accepted up to its first wrong word, so early words matter more. With ``tail_decay`` the word i places
    behind the first mask of such a sentence is predicted with probability exp(-i / tail_decay); the others are masked,
    too, and in no term of the loss. Terms stay means over predicted words, so that in expectation each word weighs
    exp(-i / tail_decay), as in "Teaching Diffusion to Speculate Left-to-Right" (arXiv 2606.11552), and one of another
    sentence 1.
    """

    predicts_length = True

    masking: str = masking_option("span")
    mask_ratio: float = 0.7
    suffix_share: float = option(
        0.0, rule("be in [0, 1]", lambda x: 0 <= x <= 1), "share of the sentences of which the last words are masked"
    )
    tail_decay: float = option(
        0.0, weight,
        "of a masked end, or a draft, the word i places behind its first is predicted with probability exp(-i / X); "
        "0: all are",
    )  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        choice("objective: masking", self.masking, MASKINGS)
        if not 0.0 < self.mask_ratio <= 1.0:
            raise ValueError(f"objective: mask_ratio must be in (0, 1], got {self.mask_ratio!r}")

    @classmethod
    def without_effect(cls, options):
        return {} if options["suffix_share"] else {"tail_decay": "suffix_share 0"}

    def masks(self, lengths: list[int], generator: torch.Generator) -> list[Tensor]:
        """Of each sentence which tokens ``masking`` masks: bool [length]."""
        mask, probabilities = MASKINGS[self.masking], span_length_probabilities()
        return [mask(length, self.mask_ratio, generator, probabilities) for length in lengths]

    def draw(self, target: Tensor, lengths: list[int], generator: torch.Generator) -> Tensor:
        """Which tokens are masked, and which of these are predicted: bool [N, 2]."""
        masks = self.masks(lengths, generator)
        predicted = [*masks]
        for number, length in enumerate(lengths if self.suffix_share else ()):
            if length >= 3 and float(torch.rand((), generator=generator)) < self.suffix_share:
                begin = 1 + int(torch.randint(length - 2, (1,), generator=generator))
                masks[number] = torch.arange(length) >= begin
                masks[number][-1] = False
                predicted[number] = self.tail(length, begin, length - 1, generator)
        masked, predicted = (torch.cat(places) if places else target.bool() for places in (masks, predicted))
        if self.config.predictable_mask:  # the original masks every word that already is the mask token
            more = (target == self.config.mask_token_id) & ~masked
            masked, predicted = masked | more, predicted | more
        return torch.stack([masked, predicted], 1)

    def tail(self, length: int, begin: int, end: int, generator: torch.Generator) -> Tensor:
        """Which of the places from ``begin`` to ``end`` are predicted: bool [length]; the first one always."""
        places = torch.arange(length)
        within = (places >= begin) & (places < end)
        if not self.tail_decay:
            return within
        return within & (torch.rand(length, generator=generator) < torch.exp((begin - places) / self.tail_decay))
