"""Decoding on a GPU that never waits for the host: the same outputs as ``decoding/nar.py`` and ``decoding/ar.py``.

Everything is computed in shapes that the host knows beforehand: buffers have room for rounded-up numbers of sources, of
their rows and of rows of canvases (``shapes``), and how much of it is in use stays on the device. So a refinement, from
the encoder through all passes, and a step of beam search are programs that are recorded once as CUDA graphs
(``graphs``) and replayed. Eagerly, the same programs run on any device.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ...config import JanusConfig
from ...model import JanusModel
from ...ops.beam_step import MOST_BEAMS
from ..hypothesis import Hypothesis
from ..options import AutoregressiveOptions, NonAutoregressiveOptions, untaken
from .ar import Search
from .graphs import Eager
from .model import FusedModel
from .nar import Refinement
from .shapes import Sources, rounded

MOST_CLASSES_AND_CHANNELS = (96 << 10) // 16  # of predict_canvases
MOST_PROGRAMS = 64  # kept; each has buffers of its own, and as a graph results of its own
FIRST_GUESS = 1.25  # rows of a canvas for each row of its source


def refusal(
    options: AutoregressiveOptions | NonAutoregressiveOptions, config: JanusConfig,
    prefixes: list[list[int]] | None = None,
) -> str | None:  # fmt: skip
    """Why a call with these options is decoded by ``decoding/ar.py`` or ``nar.py`` instead, or None when it is not."""
    if (reason := untaken("cuda", options)) is not None:
        return reason
    if not hasattr(OnDeviceDecoder, options.algorithm):
        return f"it has no {options.algorithm}"
    if isinstance(options, NonAutoregressiveOptions):
        if config.two_stream and config.length_classes + config.d_model > MOST_CLASSES_AND_CHANNELS:
            together = f"at most {MOST_CLASSES_AND_CHANNELS}, not {config.length_classes + config.d_model}"
            return (
                f"length classes and channels, which predict_canvases keeps in shared memory, are together {together}"
            )
        return None
    if prefixes is not None:
        return "target_prefix is put into hypotheses by the host"
    if options.beam_size > MOST_BEAMS:
        return f"a step of beam search takes at most {MOST_BEAMS} hypotheses, not {options.beam_size}"
    return None


class OnDeviceDecoder:
    """Decodes one batch at a time with ``model``, whose weights it moves together. ``runtime`` records programs."""

    def __init__(self, model: JanusModel, runtime: Eager):
        self.model, self.runtime = FusedModel(model), runtime
        self._programs: OrderedDict[Hashable, tuple] = OrderedDict()
        self._caches = model.output_weight.new_zeros(0)
        self._rows_each: float | None = None  # the most rows of canvases that a row of sources has had, each candidate

    def decode(
        self, sources: list[list[int]], options: AutoregressiveOptions | NonAutoregressiveOptions
    ) -> list[list[Hypothesis]]:
        return getattr(self, options.algorithm)(sources, options)

    @torch.inference_mode()
    def mask_predict(self, sources: list[list[int]], options: NonAutoregressiveOptions) -> list[list[Hypothesis]]:
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
    def beam_search(self, sources: list[list[int]], options: AutoregressiveOptions) -> list[list[Hypothesis]]:
        longest = options.longest(self.model.config)
        search, begin, step = self._program(self.search, _held(sources), options.beam_size, longest)
        search.sources.load(sources, self.runtime)
        search.run(self.runtime, begin, step, options)
        return search.results(len(sources), options, self.runtime)

    def refinement(
        self, held: tuple[int, int], room: int, iterations: int, length_beam: int, candidates: str, adaptive: bool
    ) -> tuple[Refinement, Callable]:
        """For so many sources and rows of sources, and rows of canvases: a refinement, and its recorded ``run``."""
        options = NonAutoregressiveOptions(iterations, length_beam, candidates, adaptive=adaptive)
        refinement = Refinement(self.model, options, Sources(self.model.model, *held), room)
        return refinement, self.runtime.record(refinement.run)

    def search(self, held: tuple[int, int], beams: int, longest: int) -> tuple[Search, Callable, Callable]:
        """For so many sources and rows of sources: a search, and its recorded ``begin`` and ``step``."""
        config = self.model.config
        sizes = config.decoder_layers, held[0] * (longest + 1) * beams, 2, config.attention_heads, config.head_size
        search = Search(self.model, Sources(self.model.model, *held), beams, longest, self._cache_of(sizes))
        return search, self.runtime.record(search.begin), self.runtime.record(search.step)

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


def _held(sources: list[list[int]]) -> tuple[int, int]:
    """How many sources, and rows of them, a program is made for that is to take these."""
    return rounded(len(sources)), rounded(sum(map(len, sources)))
