"""An objective: from (source, target) pairs to a packed batch, and from its predicted rows to a loss."""

from collections.abc import Mapping
from copy import copy
from dataclasses import Field, dataclass, fields, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import JanusConfig
from ..inputs import OptionError
from ..packing import pack
from .packed_batch import PackedBatch
from .streams import Streams, autoregressive_streams, causal_streams, join, sentences_of

Terms = tuple[dict[str, float], dict[tuple[str, str], float]]


@dataclass
class Objective:
    """Which streams a batch is made of and which losses tie them.

    An objective is a subclass in a file of its own in this folder, by whose name training knows it. It declares

    * :meth:`terms`: its streams and the pairs of them that divergences tie, with the weights of these terms, which
      ``cross_entropy`` and ``divergence`` replace. Training counts the tokens that the first stream predicts;
    * :meth:`build`: the rows of these streams, and :meth:`draw` what it draws for them; where one of them is named
      ``encoder``, which is of the encoder's rows, :meth:`draw_source` which tokens of the sources it predicts;
    * ``watched``: names of loss terms that :meth:`observe` gets of each update of training. What it keeps of them in
      ``state``, numbers by name, is saved with a run;
    * ``modes`` of decoding that it trains, and whether it ``predicts_length``, weighed by ``length_weight``; by mode
      the options that training ``validated`` with beside those of the mode, which are what its models decode by;
    * its options of training: fields by :func:`janus_fast.inputs.option`.

    Its ``config`` says what its models are trained for, ``trained_modes``, ``permuted`` and ``streams_ahead``, whatever
    the one that it is given says; training gives it to the model.

    With ``encoder_passes=2`` every other part of :meth:`build` reads the source under dropouts of its own.
    """

    modes: ClassVar[tuple[str, ...]] = ()
    validated: ClassVar[Mapping[str, dict]] = {}
    predicts_length: ClassVar[bool] = False
    permuted: ClassVar[bool] = False  # whether mode "nar" fills words by queries that see the known words alone
    streams_ahead: ClassVar[int] = 0  # by which mode "speculative" drafts, instead of by masks that see each other
    takes_one_stream: ClassVar[bool] = False  # whether it trains ordinary Transformers
    restores: ClassVar[bool] = False  # whether its text must be monolingual
    watched: ClassVar[tuple[str, ...]] = ()
    together: ClassVar[int] = 1  # sentences of a batch that must go to the same process

    config: JanusConfig
    label_smoothing: float = 0.1
    cross_entropy: dict[str, float] | None = None
    divergence: dict[tuple[str, str], float] | None = None
    length_weight: float = 0.1
    encoder_passes: int = 1

    def __post_init__(self):
        self.state = {}
        weights, divergence = self.terms()
        self.streams = tuple(weights)
        self.cross_entropy = weights if self.cross_entropy is None else self.cross_entropy
        self.divergence = divergence if self.divergence is None else self.divergence
        if not (self.config.two_stream or self.takes_one_stream):
            raise ValueError(f'objective: streams must be ("ar",) for a one-stream model, got {self.streams}')
        if self.config.recurrent:
            raise ValueError(
                "objective: decoder_autoreg must be 'self-attention' in a model that is trained, got 'ssru'"
            )
        if self.config.output_bias:
            raise ValueError("objective: output_bias must be off in a model that is trained, got True")
        if self.encoder_passes not in (1, 2):
            raise OptionError("objective: encoder_passes", "be 1 or 2", self.encoder_passes)
        named = {*self.cross_entropy, *(stream for pair in self.divergence for stream in pair)}
        if absent := sorted(named - set(self.streams)):
            raise ValueError(f"objective: loss terms must be of the streams {self.streams}, got one of {absent[0]!r}")
        # what was trained otherwise before is now trained so
        trained = {"trained_modes": self.modes, "permuted": self.permuted, "streams_ahead": self.streams_ahead}
        self.config = replace(self.config, **trained)

    def terms(self) -> Terms:
        """The weights of the cross-entropy of each stream, and of the divergence of each pair that is tied."""
        raise NotImplementedError

    def draw(self, target: Tensor, lengths: list[int], generator: torch.Generator) -> Tensor | None:
        """What is drawn for each token of the packed targets: [N, ...], or nothing."""
        return None

    def draw_source(
        self, source: Tensor, lengths: list[int], generator: torch.Generator, replaced: Tensor | None = None
    ) -> Tensor | None:
        """Which tokens of the packed sources are masked and predicted by the encoder: bool [Ns], or nothing; none of
        those that are ``replaced`` [Ns] bool."""
        return None

    def build(self, target: Tensor, lengths: Tensor, drawn: Tensor | None) -> list[Streams]:
        """The rows of all streams, of packed targets."""
        raise NotImplementedError

    def left_to_right(self, target: Tensor, lengths: Tensor, every: int = 1, name: str = "ar") -> Streams:
        """The rows by which the model decodes left to right."""
        if self.config.two_stream:
            return autoregressive_streams(target, lengths, self.config.mask_token_id, every, name)
        return causal_streams(target, lengths, name)

    @classmethod
    def options(cls) -> dict[str, Field]:
        """The options of training that are this objective's."""
        return {field.name: field for field in fields(cls) if "help" in field.metadata}

    @classmethod
    def without_effect(cls, options: Mapping) -> dict[str, str]:
        """Which of its own options change nothing beside the others, and why."""
        return {}

    @classmethod
    def of(cls, config: JanusConfig, options) -> "Objective":
        """The objective that ``options`` of training describe; those that are None leave it its own."""
        own = {name: getattr(options, name) for name in ("label_smoothing", *cls.options())}
        return cls(config, **{name: value for name, value in own.items() if value is not None})

    def divergence_scale(self, update: int) -> float:
        """How much the divergences weigh at update 1, 2, ... of training."""
        return 1.0

    def observe(self, terms: dict[str, float]) -> None:
        """Takes note of the ``watched`` terms of an update."""

    def detached(self) -> dict[tuple[str, str], str]:
        """By pair of streams, the one that the gradient of their divergence must not reach now."""
        return {}

    def by_term(self) -> dict[str, "Objective"]:
        """The same objective with one of its terms alone, for each, by the names that :meth:`loss` gives them."""

        def alone(cross_entropy=(), divergence=(), length_weight=0.0):
            only = copy(self)
            only.cross_entropy, only.divergence = dict(cross_entropy), dict(divergence)
            only.length_weight = length_weight
            return only

        found = {f"{term[0]}_ce": alone([term]) for term in self.cross_entropy.items()}
        found |= {f"kl_{s}_{t}": alone(divergence=[((s, t), weight)]) for (s, t), weight in self.divergence.items()}
        return found | ({"length": alone(length_weight=self.length_weight)} if self.predicts_length else {})

    def pack(
        self, sources: list, targets: list, generator: torch.Generator, share: tuple[int, int] = (0, 1),
        switched: tuple[Tensor, Tensor] | None = None,
    ) -> PackedBatch:  # fmt: skip
        """Ids as ``source_ids`` and ``target_ids`` make them -> one packed batch; ``generator`` draws the masks.

        ``share`` = (r, n) packs the r-th of n shares of the sentences. Masks are those of the whole batch, and
        the losses of all shares add up to its loss. ``switched``, of objectives that take it, says which tokens of the
        sources stand in for words that the targets tell, and which tokens of the targets are masked for that, whatever
        is drawn: bool [Ns] and [Nt].
        """
        replaced, told = switched or (None, None)
        target, lengths = pack(targets)
        drawn = self.draw(target, lengths.tolist(), generator)
        drawn = drawn if told is None else drawn | told[:, None]
        source, source_lengths = pack(sources)
        masked = self.draw_source(source, source_lengths.tolist(), generator, replaced)
        parts = self.build(target, lengths, drawn)
        totals = self._totals(parts, lengths, masked)
        shares = dict.fromkeys(totals, 1.0)
        if share[1] > 1:
            numbers = torch.arange(len(targets))
            chosen = numbers[numbers // self.together % share[1] == share[0]]
            # Where there are fewer sentences than shares, one without any takes the first, at no weight.
            taken = chosen if chosen.numel() else torch.tensor([0])
            rows = torch.isin(sentences_of(lengths), taken)
            read = torch.isin(sentences_of(source_lengths), taken)
            source, source_lengths, target, lengths = source[read], source_lengths[taken], target[rows], lengths[taken]
            parts = self.build(target, lengths, None if drawn is None else drawn[rows])
            masked = None if masked is None else masked[read]
            own = self._totals(parts, lengths, masked)
            shares = {part: bool(chosen.numel()) * own[part] / max(n, 1) for part, n in totals.items()}
        hidden = source if masked is None else source.masked_fill(masked, self.config.mask_token_id)
        passes = self.encoder_passes
        batch = join(hidden.repeat(passes), source_lengths.repeat(passes), parts, passes)
        batch.totals, batch.shares = totals, shares
        if masked is not None:
            batch.source_rows, batch.targets["encoder"] = masked.nonzero().flatten(), source[masked]
        if self.predicts_length:
            batch.lengths = lengths.clamp(max=self.config.length_classes - 1)
        return batch

    def _totals(self, parts: list[Streams], lengths: Tensor, masked: Tensor | None) -> dict[str, int]:
        """Rows that each stream predicts, rows that divergences compare, and sentences."""
        rows = {name: targets for part in parts for name, (_, targets) in part.predictions.items()}
        rows |= {} if masked is None else {"encoder": masked.nonzero()[:, 0]}
        compared = rows | {name: index for part in parts for name, index in part.compared.items()}
        tied = next(iter(self.divergence), ())[:1]
        totals = {stream: rows[stream].numel() for stream in self.streams}
        return {**totals, "kl": sum(compared[stream].numel() for stream in tied), "length": lengths.numel()}

    def loss(self, model, batch: PackedBatch, divergence_scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the model once over the batch: the loss and its unweighted terms, or a share's part of them."""
        shares, divergence = batch.shares, self.divergence if divergence_scale else {}
        encoded = model.encode(batch.source, batch.source_offsets)
        hidden = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
        streams = {name: hidden[part] for name, part in batch.parts.items()}
        if batch.source_rows is not None:
            streams["encoder"] = encoded[batch.source_rows]
        total, terms = ops.joint_loss(
            streams, model.output_weight, batch.targets, batch.compared, label_smoothing=self.label_smoothing,
            cross_entropy={stream: shares[stream] * weight for stream, weight in self.cross_entropy.items()},
            divergence={pair: shares["kl"] * (divergence_scale * weight) for pair, weight in divergence.items()},
            detach={pair: stream for pair, stream in self.detached().items() if pair in divergence},
        )  # fmt: skip
        if batch.lengths is not None:
            logits = model.length_logits(encoded, batch.source_offsets)[-batch.lengths.numel() :]
            terms["length"] = F.cross_entropy(logits.float(), batch.lengths)
            total = total + self.length_weight * shares["length"] * terms["length"]
        part_of = {f"{stream}_{kind}": stream for stream in self.streams for kind in ("nll", "ce")}
        return total, {name: shares[part_of.get(name, name.split("_")[0])] * value for name, value in terms.items()}
