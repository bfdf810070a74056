"""An objective: from (source, target) pairs to a packed batch, and from its predicted rows to a loss."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import JanusConfig
from ..inputs import OptionError
from ..ops.joint_loss import CROSS_ENTROPY, DIVERGENCE
from ..packing import pack
from .masking import MASKINGS, span_length_probabilities
from .packed_batch import PackedBatch
from .streams import autoregressive_streams, causal_streams, join, masked_streams, sentences_of

# A loss term's first word, and what it is a mean over. Divergences compare masked rows.
ROWS_OF = {"ar": "ar", "nar": "nar", "aux": "aux", "kl": "nar", "length": "length"}


@dataclass
class Objective:
    """Which streams a batch is made of and which losses tie them.

    ``masking`` is "span" (the original's) or "uniform" (CMLM's); ``mask_ratio`` the span budget. ``cross_entropy`` and
    ``divergence`` weigh the terms of ``janus_fast.joint_loss``, ``length_weight`` the length cross-entropy. With
    ``encoder_passes=2`` the AR and the NAR streams read the source under dropouts of their own, as in the original.
    With ``autoregressive_every=n`` only each n-th sentence of a batch has AR streams, and no divergence may name them.
    """

    config: JanusConfig
    streams: tuple[str, ...]
    masking: str = "span"
    mask_ratio: float = 0.7
    label_smoothing: float = 0.1
    cross_entropy: dict[str, float] | None = None
    divergence: dict[tuple[str, str], float] | None = None
    length_weight: float = 0.1
    encoder_passes: int = 1
    autoregressive_every: int = 1

    def __post_init__(self):
        if not self.config.two_stream and self.streams != ("ar",):
            raise ValueError(f'objective: streams must be ("ar",) for a one-stream model, got {self.streams}')
        if self.config.output_bias:
            raise ValueError("objective: output_bias must be off in a model that is trained, got True")
        if self.masking not in MASKINGS:
            raise ValueError(f"objective: masking must be one of {sorted(MASKINGS)}, got {self.masking!r}")
        if not 0.0 < self.mask_ratio <= 1.0:
            raise ValueError(f"objective: mask_ratio must be in (0, 1], got {self.mask_ratio!r}")
        if self.encoder_passes not in (1, 2):
            raise OptionError("objective: encoder_passes", "be 1 or 2", self.encoder_passes)
        named = {*(self.cross_entropy or {}), *(stream for pair in self._divergence for stream in pair)}
        if absent := sorted(named - set(self.streams)):
            raise ValueError(f"objective: loss terms must be of the streams {self.streams}, got one of {absent[0]!r}")
        every = self.autoregressive_every
        if every != 1 and (every < 1 or "nar" not in self.streams or any("ar" in pair for pair in self._divergence)):
            raise OptionError(
                "objective: autoregressive_every", "be 1, or more beside a nar stream and without divergences of ar",
                f"{every!r} with streams {self.streams} and divergence {self._divergence}",
            )  # fmt: skip

    @property
    def _divergence(self) -> dict[tuple[str, str], float]:
        if self.divergence is not None:
            return self.divergence
        return {pair: weight for pair, weight in DIVERGENCE.items() if set(pair) <= set(self.streams)}

    def pack(
        self, sources: list, targets: list, generator: torch.Generator, share: tuple[int, int] = (0, 1)
    ) -> PackedBatch:
        """Ids as ``source_ids`` and ``target_ids`` make them -> one packed batch; ``generator`` draws the masks.

        ``share`` = (r, n) packs the r-th of n shares of the sentences. Masks are those of the whole batch, and
        the losses of all shares add up to its loss.
        """
        target, lengths = pack(targets)
        masked = self._draw_masks(target, lengths.tolist(), generator) if "nar" in self.streams else None
        totals = self._totals(lengths, masked)
        shares = dict.fromkeys(totals, 1.0)
        if share[1] > 1:
            chosen = self._chosen(len(targets), share)
            # Where there are fewer sentences than shares, one without any takes the first, at no weight.
            taken = chosen if chosen.numel() else torch.tensor([0])
            rows = torch.isin(sentences_of(lengths), taken)
            sources, target, lengths = [sources[i] for i in taken], target[rows], lengths[taken]
            masked = None if masked is None else masked[rows]
            own = self._totals(lengths, masked)
            shares = {part: bool(chosen.numel()) * own[part] / max(n, 1) for part, n in totals.items()}
        source, source_lengths = pack(list(sources) * self.encoder_passes)
        mask_token, parts = self.config.mask_token_id, []
        if "ar" in self.streams and self.config.two_stream:
            parts.append(autoregressive_streams(target, lengths, mask_token, self.autoregressive_every))
        elif "ar" in self.streams:
            parts.append(causal_streams(target, lengths))
        if masked is not None:
            parts.append(masked_streams(target, lengths, masked, mask_token, auxiliary="aux" in self.streams))
        batch = join(source, source_lengths, parts, self.encoder_passes)
        batch.totals, batch.shares = totals, shares
        if masked is not None:
            batch.lengths = lengths.clamp(max=self.config.length_classes - 1)
            if "ar" in self.streams and self.autoregressive_every == 1:
                # AR row i predicts token i + 1; the first token of a sentence has no row
                first = torch.zeros_like(masked).index_fill(0, lengths.cumsum(0) - lengths, True)
                batch.ar_masked = masked[~first].nonzero().flatten()
        return batch

    def loss(self, model, batch: PackedBatch, divergence_scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the model once over the batch: the loss and its unweighted terms, or a share's part of them."""
        divergence = {p: divergence_scale * weight for p, weight in self._divergence.items() if divergence_scale}
        cross_entropy = self.cross_entropy
        if cross_entropy is None:
            cross_entropy = {stream: CROSS_ENTROPY[stream] for stream in self.streams}
        encoded = model.encode(batch.source, batch.source_offsets)
        hidden = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
        total, terms = ops.joint_loss(
            {name: hidden[part] for name, part in batch.parts.items()}, model.output_weight, batch.targets,
            batch.ar_masked, label_smoothing=self.label_smoothing,
            cross_entropy={stream: batch.shares[stream] * weight for stream, weight in cross_entropy.items()},
            divergence={pair: batch.shares["nar"] * weight for pair, weight in divergence.items()},
        )  # fmt: skip
        if batch.lengths is not None:
            logits = model.length_logits(encoded, batch.source_offsets)[-batch.lengths.numel() :]
            terms["length"] = F.cross_entropy(logits.float(), batch.lengths)
            total = total + self.length_weight * batch.shares["length"] * terms["length"]
        return total, {name: batch.shares[ROWS_OF[name.split("_")[0]]] * value for name, value in terms.items()}

    def _chosen(self, sentences: int, share: tuple[int, int]) -> Tensor:
        """The sentences of a share: every n-th, in groups of which the first one alone has AR streams."""
        numbers = torch.arange(sentences)
        return numbers[numbers // self.autoregressive_every % share[1] == share[0]]

    def _totals(self, lengths: Tensor, masked: Tensor | None) -> dict[str, int]:
        """Rows that each stream predicts, and sentences."""
        ar = int((lengths[:: self.autoregressive_every] - 1).sum())
        rows = {"ar": ar} | dict.fromkeys(("nar", "aux"), 0 if masked is None else int(masked.sum()))
        return {**{stream: rows[stream] for stream in self.streams}, "length": lengths.numel()}

    def _draw_masks(self, target: Tensor, lengths: list[int], generator: torch.Generator) -> Tensor:
        draw, probabilities = MASKINGS[self.masking], span_length_probabilities()
        masks = [draw(length, self.mask_ratio, generator, probabilities) for length in lengths]
        masked = torch.cat(masks) if masks else target.bool()
        if self.config.predictable_mask:  # the original masks every word that already is the mask token
            masked |= target == self.config.mask_token_id
        return masked
