"""Parallel or monolingual text as arrays of ids, and the endless, restartable stream of training batches."""

import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import JanusConfig
from ..objectives import PackedBatch
from ..text import Vocabulary
from ..text.batching import batches_by_tokens
from ..text.lines import lines_of
from .code_switching import CodeSwitching
from .corruption import Corruption


@dataclass
class ParallelData:
    """Sentence pairs as ids, ends included; ``kept`` are the line numbers that passed the length filter.

    Of the others ``empty`` had nothing on a side, and ``too_long`` more than the model has positions. With a
    ``corruption`` the text is monolingual, both sides the same: a source is then what it makes of the target. With a
    ``switching`` some words of sources are replaced in each batch.
    """

    sources: list[np.ndarray]
    targets: list[np.ndarray]
    kept: list[int]
    empty: int = 0
    too_long: int = 0
    corruption: Corruption | None = None
    switching: CodeSwitching | None = None

    @classmethod
    def read(
        cls, source: str | Path, target: str | Path, vocabularies, config: JanusConfig,
        corruption: Corruption | None = None, switching: CodeSwitching | None = None,
    ) -> "ParallelData":  # fmt: skip
        """Encodes two aligned text files; pairs that are empty or longer than the position tables are left out.

        Of monolingual text, which has a ``corruption``, both files are the same.
        """
        lines, data = aligned_lines(source, target), cls([], [], [], corruption=corruption, switching=switching)
        wraps = config.source_ids, config.target_ids
        words = [_encode(lines[0], vocabularies[0])]
        words.append(words[0] if corruption else _encode(lines[1], vocabularies[1]))
        sides = [[np.array(wrap(ids), dtype=np.int64) for ids in side] for side, wrap in zip(words, wraps, strict=True)]
        limits = config.max_source_positions, config.max_target_positions
        ends = [len(wrap([])) for wrap in wraps]
        for number, pair in enumerate(zip(*sides, strict=True)):
            if any(len(ids) <= empty for ids, empty in zip(pair, ends, strict=True)):
                data.empty += 1
            elif any(len(ids) > limit for ids, limit in zip(pair, limits, strict=True)):
                data.too_long += 1
            else:
                data.sources.append(pair[0])
                data.targets.append(pair[1])
                data.kept.append(number)
        if not data.kept:
            raise ValueError(
                f"train: {_named(source, target)} must hold at least one usable pair, got none: {data.empty:,} are "
                f"empty and {data.too_long:,} longer than {limits[0]} or {limits[1]} tokens"
            )
        return data

    def pairs(self, index, generator: torch.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Sources and targets of these numbers; ``generator`` draws the corruption, if there is one."""
        targets = [self.targets[i] for i in index]
        if self.corruption:
            return [self.corruption(target, generator) for target in targets], targets
        return [self.sources[i] for i in index], targets

    def packed(self, objective, index, generator: torch.Generator, share: tuple[int, int] = (0, 1)) -> PackedBatch:
        """The batch that an objective makes of these numbers, or a share of it; ``generator`` draws."""
        sources, targets = self.pairs(index, generator)
        switched = None
        if self.switching:
            sources, switched = self.switching(sources, targets, generator)
        return objective.pack(sources, targets, generator, share, switched)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def lengths(self) -> np.ndarray:
        """Of each pair, the tokens of its longer side."""
        return np.array([max(len(s), len(t)) for s, t in zip(self.sources, self.targets, strict=True)])


def aligned_lines(source: str | Path, target: str | Path) -> list[list[str]]:
    """The lines of two files, which are as many, and not all of them empty."""
    lines = [lines_of(path) for path in (source, target)]
    if len(lines[0]) != len(lines[1]):
        numbers = f"{len(lines[0]):,} and {len(lines[1]):,}"
        raise ValueError(f"train: {source} and {target} must have the same number of lines, got {numbers}")
    if not any(s.strip() and t.strip() for s, t in zip(*lines, strict=True)):
        what = "sentence" if source == target else "pair of sentences"
        raise ValueError(f"train: {_named(source, target)} must hold at least one {what}, got none")
    return lines


def _named(source, target) -> str:
    return " and ".join(dict.fromkeys((str(source), str(target))))


def _encode(lines: list[str], vocabulary: Vocabulary) -> list[list[int]]:
    return [vocabulary.ids(vocabulary.encode(line)) for line in lines]


class BatchStream:
    """Batches from ``start`` on, packed on a thread of their own.

    Batch number ``n`` depends on (data, objective, max_tokens, seed, n) alone, so that a run that resumes at a batch
    number sees what the uninterrupted run would have seen. Of each batch ``share`` = (r, n) is the r-th of n shares.
    """

    def __init__(
        self, data: ParallelData, objective, max_tokens: int, seed: int, start: int = 0, prefetch: int = 4,
        share: tuple[int, int] = (0, 1),
    ):  # fmt: skip
        self.data, self.objective, self.max_tokens, self.seed = data, objective, max_tokens, seed
        self.share = share
        self.lengths = data.lengths
        self.queue = queue.Queue(maxsize=prefetch)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._produce, args=(start,), daemon=True)
        self.thread.start()

    def __iter__(self):
        while True:
            item = self.queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self):
        self.stopped.set()
        self.thread.join()

    def _numbers(self, start: int):
        number, epoch = 0, 0
        while True:
            generator = np.random.default_rng([self.seed, epoch])
            for batch in batches_by_tokens(self.lengths, self.max_tokens, generator):
                if number >= start:
                    yield number, epoch, batch
                number += 1
            epoch += 1

    def _produce(self, start: int):
        try:
            for number, epoch, index in self._numbers(start):
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
                self._put((number, epoch, self.data.packed(self.objective, index, generator, self.share)))
                if self.stopped.is_set():
                    return
        except BaseException as error:  # raised again where the batches are used
            self._put(error)

    def _put(self, item):
        while not self.stopped.is_set():
            try:
                return self.queue.put(item, timeout=0.1)
            except queue.Full:
                continue
