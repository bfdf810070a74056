"""Decoding in torch, on every device; on a GPU without waiting for the host.

Everything is computed in shapes that the host knows beforehand: buffers have room for rounded-up numbers of sources, of
their rows and of rows of canvases (``shapes``), and how much of it is in use stays on the device. So a refinement, from
the encoder through all passes, and a step of beam search are programs that are recorded once as CUDA graphs
(``runtime``) and replayed. Eagerly, the same programs run on any device, in buffers of the size that a batch needs.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor

from ..ops.beam_step import MOST_BEAMS
from .beam_search import BeamSearch
from .fused import FusedModel
from .hypothesis import Hypothesis
from .mask_predict import MaskPredict, run_eagerly
from .options import AutoregressiveOptions, NonAutoregressiveOptions, Options, untaken
from .runtime import Eager
from .shapes import Sources, rounded

MOST_PROGRAMS = 64  # kept; each has buffers of its own, and as a graph results of its own
FIRST_GUESS = 1.25  # rows of a canvas for each row of its source


def refusal(options: Options, prefixes: list[list[int]] | None = None) -> str | None:
    """Why a call with these options cannot be recorded, or None when it can."""
    if (reason := untaken("cuda", options)) is not None:
        return reason
    if prefixes is not None:
        return "target_prefix is put into hypotheses by the host"
    if getattr(options, "beam_size", 1) > MOST_BEAMS:
        return f"a step of beam search takes at most {MOST_BEAMS} hypotheses, not {options.beam_size}"
    return None


class Decoder:
    """Decodes with ``model``; one batch at a time where ``runtime`` records programs."""

    def __init__(self, model: FusedModel, runtime: Eager):
        self.model, self.runtime = model, runtime
        self._programs: OrderedDict[Hashable, tuple] = OrderedDict()
        self._caches = model.model.output_weight.new_zeros(0)
        self._rows_each: float | None = None  # the most rows of canvases that a row of sources has had, each candidate

    def decode(
        self, sources: list[list[int]], options: Options, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        return getattr(self, options.algorithm)(sources, options, numbers, prefixes)

    @torch.inference_mode()
    def mask_predict(self, sources: list[list[int]], options: NonAutoregressiveOptions, *_) -> list[list[Hypothesis]]:
        if not self.runtime.recorded:
            return run_eagerly(self.model, sources, options)
        settings = options.iterations, options.length_beam, options.length_candidates, options.adaptive
        rows = sum(map(len, sources)) * options.length_beam
        room = rounded(math.ceil(rows * (FIRST_GUESS if self._rows_each is None else self._rows_each)))
        while True:
            refinement, run = self._program(self.refinement, _held(sources), room, *settings)
            refinement.sources.load(sources, self.runtime)
            needed, results = refinement.results(run(), len(sources), options, self.runtime)
            self._rows_each = max(self._rows_each or 0.0, needed / rows)
            if results is not None:
                return results
            room = rounded(needed)

    @torch.inference_mode()
    def beam_search(
        self, sources: list[list[int]], options: AutoregressiveOptions, numbers: list[int] = (),
        prefixes: list[list[int]] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """Sampling draws by the ``numbers`` of the sources; every output begins with its source's prefix."""
        longest, model = options.longest(self.model.config), self.model
        if self.runtime.recorded:
            search, begin, step = self._program(self.search, _held(sources), options.beam_size, longest)
        else:
            room = Sources(model.model, len(sources), sum(map(len, sources)))
            caches = _zeros(self._cache_sizes(len(sources) * options.kept, longest), self._caches)
            search = BeamSearch(model, room, options, caches, numbers, prefixes)
            begin, step = search.begin, search.step
        search.sources.load(sources, self.runtime)
        search.run(self.runtime, begin, step, options)
        return search.results(len(sources), options, self.runtime)

    def refinement(
        self, held: tuple[int, int], room: int, iterations: int, length_beam: int, candidates: str, adaptive: bool
    ) -> tuple[MaskPredict, Callable]:
        """For so many sources and rows of sources, and rows of canvases: a refinement, and its recorded ``run``."""
        options = NonAutoregressiveOptions(iterations, length_beam, candidates, adaptive=adaptive)
        refinement = MaskPredict(self.model, options, Sources(self.model.model, *held), room)
        return refinement, self.runtime.record(refinement.run)

    def search(self, held: tuple[int, int], beams: int, longest: int) -> tuple[BeamSearch, Callable, Callable]:
        """For so many sources and rows of sources: a search, and its recorded ``begin`` and ``step``."""
        options = AutoregressiveOptions(beams, max_decoding_length=longest, min_decoding_length=0)
        caches = self._cache_of(self._cache_sizes(held[0] * beams, longest))
        search = BeamSearch(self.model, Sources(self.model.model, *held), options, caches)
        return search, self.runtime.record(search.begin), self.runtime.record(search.step)

    def _cache_sizes(self, hypotheses: int, longest: int) -> tuple[int, ...]:
        config = self.model.config
        return config.decoder_layers, hypotheses * (longest + 1), 2, config.attention_heads, config.head_size

    def _cache_of(self, sizes: tuple[int, ...]) -> Tensor:
        """Room for keys and values: one piece of memory for all searches, of which one runs at a time."""
        size = math.prod(sizes)
        if self._caches.numel() < size:
            for key in [key for key in self._programs if key[0] == "search"]:
                del self._programs[key]
            self._caches = self._caches.new_zeros(size)
        return self._caches[:size].view(sizes)

    def _program(self, build: Callable[..., tuple], *sizes: Hashable) -> tuple:
        """What ``build`` makes for these sizes, or has made."""
        key = build.__name__, *sizes
        if key not in self._programs:
            if len(self._programs) >= MOST_PROGRAMS:
                self._programs.popitem(last=False)
            self._programs[key] = build(*sizes)
        self._programs.move_to_end(key)
        return self._programs[key]


def _zeros(sizes: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros that take memory only where they are written over, if they lie on the CPU."""
    if like.device.type != "cpu":
        return like.new_zeros(sizes)
    zeros = np.zeros(math.prod(sizes) * like.element_size(), np.uint8)
    return torch.from_numpy(zeros).view(like.dtype).view(sizes)


def _held(sources: list[list[int]]) -> tuple[int, int]:
    """How many sources, and rows of them, a program is made for that is to take these."""
    return rounded(len(sources)), rounded(sum(map(len, sources)))
