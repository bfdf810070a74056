"""Decoding in torch, on every device; on a GPU without waiting for the host.

Everything is computed in shapes that the host knows beforehand: buffers have room for rounded-up numbers of sources, of
their rows and of rows of canvases (``shapes``), and how much of it is in use stays on the device. So a refinement, from
the encoder through all passes, and a step of beam search are programs that are recorded once as CUDA graphs
(``runtime``) and replayed. Eagerly, the same programs run on any device, in buffers of the size that a batch needs.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .. import reference
from ..config import JanusConfig
from ..ops.beam_step import MOST_BEAMS
from .beam_search import BeamSearch
from .continuations import allowed_tokens
from .fused import FusedModel
from .hypothesis import Hypothesis
from .mask_predict import MaskPredict
from .options import (
    AutoregressiveOptions,
    NonAutoregressiveOptions,
    Options,
    SemiAutoregressiveOptions,
    SpeculativeOptions,
    recorded,
    untaken,
)
from .runtime import Eager
from .shapes import Sources, rounded
from .speculative import Speculation

MOST_PROGRAMS = 64  # kept; each has buffers of its own, and as a graph results of its own
FIRST_GUESS = 1.25  # rows of a canvas for each row of its source
FIRST_POSITIONS = 16  # of a search whose caches can grow


def refusal(
    options: Options, config: JanusConfig, prefixes: list[list[int]] | None = None,
    drafts: list[list[int]] | None = None,
) -> str | None:  # fmt: skip
    """Why a call with these options cannot be recorded, or None when it can."""
    if (reason := untaken("cuda", options, config)) is not None:
        return reason
    if prefixes is not None:
        return "target_prefix is put into hypotheses by the host"
    if drafts is not None or getattr(options, "drafter", "model") == "source":
        return "texts are searched for drafts by the host"
    if getattr(options, "beam_size", 1) > MOST_BEAMS:
        return f"a step of beam search takes at most {MOST_BEAMS} hypotheses, not {options.beam_size}"
    return None


class Decoder:
    """Decodes with ``model``; one batch at a time where ``runtime`` records programs."""

    def __init__(self, model: FusedModel, runtime: Eager):
        self.model, self.runtime = model, runtime
        self._programs: OrderedDict[Hashable, tuple] = OrderedDict()
        self._caches: Tensor | None = None
        self._rows_each: float | None = None  # the most rows of canvases that a row of sources has had, each candidate

    def decode(
        self, sources: list[list[int]], options: Options, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None, drafts: list[list[int]] | None = None,
        words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """With ``words`` a source becomes none but its own, which no program is recorded for."""
        options = options.resolved(self.model.config)
        return getattr(self, options.algorithm)(sources, options, numbers, prefixes, drafts, words)

    @torch.inference_mode()
    def mask_predict(
        self, sources: list[list[int]], options: NonAutoregressiveOptions, *given
    ) -> list[list[Hypothesis]]:
        if self.model.config.permuted:
            return reference.mask_predict(self.model.model, sources, options, given[-1] if given else None)
        if not self.runtime.recorded:
            allowed = allowed_tokens(self.model.model, given[-1] if given else None)
            held = Sources(self.model.model, len(sources), sum(map(len, sources)))
            program = MaskPredict(self.model, options, held, allowed=allowed)
            program.sources.load(sources, self.runtime)
            return program.results(program.run(), len(sources), options, self.runtime)[1]
        held, rows = self._held(sources), sum(map(len, sources)) * options.length_beam
        room = rounded(math.ceil(rows * (FIRST_GUESS if self._rows_each is None else self._rows_each)))
        while True:
            key = options.algorithm, held, room, *recorded(options, self.model.config)
            refinement, run = self._program(key, lambda room=room: self.refinement(held, room, options))
            refinement.sources.load(sources, self.runtime)
            needed, results = refinement.results(run(), len(sources), options, self.runtime)
            self._rows_each = max(self._rows_each or 0.0, needed / rows)
            if results is not None:
                return results
            room = rounded(needed)

    @torch.inference_mode()
    def beam_search(
        self, sources: list[list[int]], options: AutoregressiveOptions, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None, drafts: None = None, words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """Sampling draws by the ``numbers`` of the sources; every output begins with its source's prefix."""
        if options.by_definition or self.model.config.recurrent:
            return reference.beam_search(self.model.model, sources, options, prefixes, words)
        held, allowed = self._held(sources), allowed_tokens(self.model.model, words)
        key = options.algorithm, held, *recorded(options, self.model.config)
        search, *parts = self._program(key, lambda: self.search(held, options, numbers, prefixes, allowed))
        search.sources.load(sources, self.runtime)
        search.run(self.runtime, *parts, options)
        return search.results(len(sources), options, self.runtime)

    @torch.inference_mode()
    def speculative(
        self, sources: list[list[int]], options: SpeculativeOptions, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None, drafts: list[list[int]] | None = None,
        words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        if self.model.config.recurrent:
            return reference.speculative(self.model.model, sources, options, prefixes, drafts, words)
        held, allowed = self._held(sources), allowed_tokens(self.model.model, words)
        # of a search the host reads min_decoding_length
        key = options.algorithm, held, options.min_decoding_length, *recorded(options, self.model.config)
        speculation, begin, cycle = self._program(
            key, lambda: self.speculation(held, options, prefixes, drafts, allowed)
        )
        speculation.sources.load(sources, self.runtime)
        speculation.run(self.runtime, begin, cycle)
        return speculation.results(len(sources), options, self.runtime)

    @torch.inference_mode()
    def semi_nar(
        self, sources: list[list[int]], options: SemiAutoregressiveOptions, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None, drafts: None = None, words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """By the definition."""
        return reference.semi_nar(self.model.model, sources, options, prefixes, words)

    def refinement(
        self, held: tuple[int, int], room: int, options: NonAutoregressiveOptions
    ) -> tuple[MaskPredict, Callable]:
        """For so many sources and rows of sources, and rows of canvases: a refinement, and its recorded ``run``."""
        refinement = MaskPredict(self.model, options, Sources(self.model.model, *held), room)
        return refinement, self.runtime.record(refinement.run)

    def search(
        self, held: tuple[int, int], options: AutoregressiveOptions, *more
    ) -> tuple[BeamSearch, Callable, Callable, Callable]:
        """For so many sources and rows of sources: a search, and its recorded ``begin``, ``step`` and ``end``."""
        positions = options.longest(self.model.config) + 1
        if not self.runtime.recorded:
            positions = min(positions, FIRST_POSITIONS)
        caches = self._caches_of(held[0] * options.kept, positions)
        search = BeamSearch(self.model, Sources(self.model.model, *held), options, caches, *more)
        return search, *map(self.runtime.record, (search.begin, search.step, search.end))

    def speculation(
        self, held: tuple[int, int], options: SpeculativeOptions, *more
    ) -> tuple[Speculation, Callable, Callable]:
        """For so many sources and rows of sources: a call's sentences, and the recorded ``begin`` and ``cycle``."""
        positions = Speculation.room(options, self.model.config)
        if not self.runtime.recorded:
            positions = min(positions, FIRST_POSITIONS)
        caches = self._caches_of(held[0], positions)
        speculation = Speculation(self.model, Sources(self.model.model, *held), options, caches, *more)
        cycle = (
            speculation.cycle if options.drafter == "model" else partial(speculation.check, speculation.draft[:, :0])
        )
        return speculation, self.runtime.record(speculation.begin), self.runtime.record(cycle)

    def _held(self, sources: list[list[int]]) -> tuple[int, int]:
        """How many sources, and rows of them, a program is made for that is to take these."""
        sizes = len(sources), sum(map(len, sources))
        return (rounded(sizes[0]), rounded(sizes[1])) if self.runtime.recorded else sizes

    def _caches_of(self, hypotheses: int, positions: int) -> Tensor:
        """Room for keys and values, finite: one piece of memory for all programs kept, as one runs at a time."""
        config, weight = self.model.config, self.model.model.output_weight
        sizes = config.decoder_layers, hypotheses * positions, 2, config.attention_heads, config.head_size
        size = math.prod(sizes)
        if not self.runtime.recorded:
            return weight.new_zeros(sizes)
        if self._caches is None or self._caches.numel() < size:
            searches = AutoregressiveOptions.algorithm, SpeculativeOptions.algorithm
            for key in [key for key in self._programs if key[0] in searches]:
                del self._programs[key]
            self._caches = weight.new_zeros(size)
        return self._caches[:size].view(sizes)

    def _program(self, key: Hashable, build: Callable[[], tuple]) -> tuple:
        """What ``build`` makes, or has made for this ``key``."""
        if not self.runtime.recorded:
            return build()
        if key not in self._programs:
            if len(self._programs) >= MOST_PROGRAMS:
                self._programs.popitem(last=False)
            self._programs[key] = build()
        self._programs.move_to_end(key)
        return self._programs[key]
