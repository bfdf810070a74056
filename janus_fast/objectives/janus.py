"""JANUS (EMNLP 2022): AR, NAR and AUX together, tied by symmetric divergences on the masked positions."""

import math
from dataclasses import dataclass

import torch

from ..inputs import OptionError, integers, option, rule, switch, weight
from ..ops.joint_loss import CROSS_ENTROPY, DIVERGENCE
from .masking import Masked, stream_weight
from .streams import drafting_streams, first_rows, masked_streams

GAP_UPDATES = 100  # over which the mean of the distance of two losses is taken


def _nats(text: str | float) -> float:
    try:
        return math.nan if isinstance(text, bool) else float(text)
    except ValueError:
        return math.nan


@dataclass
class Janus(Masked):
    """L = CE(ar) + 0.5 (CE(nar) + CE(aux)) + 0.1 CE(length) + J(ar, nar) + 3 J(ar, aux) + J(nar, aux).

    Without the auxiliary stream, CE(ar) + CE(nar) + 0.1 CE(length) + J(ar, nar): fewer rows. With
    ``autoregressive_every=n`` only each n-th sentence of a batch has AR streams, and no divergence may name them.
    Training multiplies the divergences by ``divergence_weight``, to which they rise in the first
    ``divergence_warmup_updates``.

    ``draft_weight`` adds CE(draft): of the words behind a uniformly drawn place of each sentence that has AR streams,
    in one pass by ``draft_length`` masks, each of which sees the AR content rows before that place and the masks before
    it. ``tail_decay`` says which of these words count.
    """

    modes = ("ar", "nar")

    auxiliary: bool = True
    without_auxiliary: bool = option(False, switch, "leave JANUS's auxiliary stream out")
    divergence_weight: float = option(1.0, weight, "factor of JANUS's divergences")
    encoder_passes: int = option(
        1,
        rule("be 1 or 2", lambda x: x in (1, 2)),
        "1, or 2: the AR and NAR streams read the source under dropouts of their own",
    )
    autoregressive_every: int = option(
        1, integers(1), "only each N-th sentence of a batch also trains JANUS's AR streams"
    )
    detach: str = option(
        "none", rule("be none, ar or a number of nats from 0", lambda x: x in ("none", "ar") or _nats(x) >= 0),
        "whether divergences leave the AR streams as they are: none; ar; or a number: while NAR's loss, over "
        "some hundred updates, is more nats than that above AR's",
    )  # fmt: skip
    ar_weight: float | None = stream_weight("AR")
    nar_weight: float | None = stream_weight("NAR")
    aux_weight: float | None = stream_weight("AUX")
    draft_weight: float = option(0.0, weight, "weight of the cross-entropy of drafts over the AR rows; 0: none")
    draft_length: int = option(8, integers(1), "masks in a draft over the AR rows")
    divergence_warmup_updates: int = option(0, integers(0), "updates until the divergences have their full weight")

    def __post_init__(self):
        self.auxiliary = self.auxiliary and not self.without_auxiliary
        if self.draft_weight:
            self.modes = (*self.modes, "semi_nar", "speculative")
        if not self.divergence_weight:
            self.divergence = {}
        super().__post_init__()
        every = self.autoregressive_every
        if every != 1 and (every < 1 or any("ar" in pair for pair in self.divergence)):
            words = "be 1, or more beside a nar stream and without divergences of ar"
            given = f"{every!r} with streams {self.streams} and divergence {self.divergence}"
            raise OptionError("objective: autoregressive_every", words, given)

    def terms(self):
        weights, divergence = {"ar": 1.0, "nar": 1.0}, {("ar", "nar"): 1.0}
        if self.auxiliary:
            weights, divergence = CROSS_ENTROPY, DIVERGENCE
        if self.draft_weight:
            weights = {**weights, "draft": self.draft_weight}
        own = {stream: getattr(self, f"{stream}_weight") for stream in weights}
        return {s: weights[s] if own[s] is None else own[s] for s in weights}, divergence

    @property
    def watched(self) -> tuple[str, ...]:
        return () if self.detach in ("none", "ar") else ("ar_nll", "nar_nll")

    def observe(self, terms):
        gap = terms["nar_nll"] - terms["ar_nll"]
        if math.isfinite(gap):
            before = self.state.get("gap", gap)
            self.state["gap"] = before + (gap - before) / GAP_UPDATES

    def detached(self):
        if self.detach == "none" or (self.watched and self.state.get("gap", math.inf) <= float(self.detach)):
            return {}
        return {pair: "ar" for pair in self.divergence if "ar" in pair}

    @property
    def together(self) -> int:
        """Sentences of which the first one alone has AR streams."""
        return self.autoregressive_every

    @classmethod
    def without_effect(cls, options):
        """Divergences that weigh nothing, and streams that are not there."""
        divergences = () if options["divergence_weight"] else ("divergence_warmup_updates", "detach")
        found = dict.fromkeys(divergences, "divergence_weight 0")
        found |= {"aux_weight": "without_auxiliary"} if options.get("without_auxiliary") else {}
        if not options["draft_weight"]:
            found["draft_length"] = "draft_weight 0"
            found |= {name: f"{why} and draft_weight 0" for name, why in super().without_effect(options).items()}
        return found

    def divergence_scale(self, update: int) -> float:
        """Rises linearly from 0 to ``divergence_weight``.

        In a model whose AR distribution is trained already, divergences at full weight from the start would pull it
        towards NAR and AUX distributions that know nothing yet.
        """
        warmup = self.divergence_warmup_updates
        return self.divergence_weight * (min(1.0, update / warmup) if warmup else 1.0)

    def draw(self, target, lengths, generator):
        """Which tokens are masked, which of these are predicted, and which a draft predicts: bool [N, 3]."""
        masks, drafted = super().draw(target, lengths, generator), []
        for length in lengths if self.draft_weight else ():
            begin = 1 + int(torch.randint(length - 1, (1,), generator=generator))
            drafted.append(self.tail(length, begin, min(begin + self.draft_length, length), generator))
        drafted = torch.cat(drafted) if drafted else torch.zeros_like(masks[:, 0])
        return torch.cat([masks, drafted[:, None]], 1)

    def build(self, target, lengths, drawn):
        masked, predicted, drafted = drawn.unbind(1)
        mask_token, every = self.config.mask_token_id, self.autoregressive_every
        if self.draft_weight:
            left_to_right = drafting_streams(target, lengths, drafted, mask_token, every)
        else:
            left_to_right = self.left_to_right(target, lengths, every)
        if every == 1:  # AR row i predicts token i + 1; the first token of a sentence has no row
            left_to_right.compared["ar"] = predicted[~first_rows(lengths)].nonzero().flatten()
        return [left_to_right, masked_streams(target, lengths, masked, predicted, mask_token, auxiliary=self.auxiliary)]
