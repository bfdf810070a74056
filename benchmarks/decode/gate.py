"""What has to hold before anything is timed.

janus_fast in float32 produces the tokens of its reference path. In any other type its BLEU on the test set, with the
shipped model, is within ``BLEU_MARGIN`` of float32's. Peers in float32 produce the tokens of the reference path too,
which shows that they have the same weights and do the same work; slimt has int8 alone, and produces, behind the same
words, at least ``ALIKE`` of them. Every output has the length that the row says.
"""

import dataclasses
import functools
from itertools import takewhile

from benchmarks.peers import Models, Process, work
from benchmarks.workload import OUTPUT, Row

BLEU_MARGIN = 0.3
# Integers round some words to others of nearly the same score: 2.6% of those of tiny11-ssru, 4.3% of tiny-ssru. Of a
# decoder that computes anything else one word in hundreds is the same.
ALIKE = 0.9
SHIPPED, PAIR = "en-de-small", "en-de"


class Wrong(Exception):
    """A result that must not be timed, and why."""


class Gate:
    """Answers each question once."""

    def __init__(self, models: Models, threads: int):
        self.models, self.threads = models, threads
        self.known: dict[tuple, list[list[int]]] = {}  # hypotheses of the reference path
        self.passed: set[tuple] = set()
        self.bleu = functools.cache(self._bleu)

    def check(self, row: Row) -> dict:
        """Holds janus_fast to the row's compute type; returns what was found."""
        if row.compute_type == "float32":
            self._compare("janus_fast", row)
            return {"tokens": "the reference path's"}
        options = {name: value for name, value in row.options.items() if "decoding_length" not in name}
        expected, found = (self.bleu(row.mode, tuple(options.items()), t) for t in ("float32", row.compute_type))
        if abs(found - expected) > BLEU_MARGIN:
            raise Wrong(
                f"janus_fast: BLEU in {row.compute_type} must be within {BLEU_MARGIN} of float32's {expected:.2f}, "
                f"got {found:.2f}"
            )
        return {"bleu": found, "bleu_float32": expected}

    def check_peer(self, name: str, row: Row) -> None:
        (self._compare_rounded if name == "slimt" else self._compare)(name, work(name, row))

    def first_decode(self, name: str, row: Row, process: Process) -> float:
        """Checks the lengths of a process's outputs; its first decode also warms it up. Returns the seconds it took."""
        row = work(name, row)
        hypotheses, seconds = process.decode()
        lengths = [len(ids) for group in hypotheses for ids in group]
        first = OUTPUT - row.length_beam // 2 if row.mode == "nar" else OUTPUT
        allowed = range(first, first + (row.length_beam if row.mode == "nar" else 1))
        if len(lengths) != sum(map(len, row.calls)) or not set(lengths) <= set(allowed):
            raise Wrong(
                f"{name}: outputs must be one of {OUTPUT} tokens a source, got {len(lengths)} of {sorted({*lengths})}"
            )
        return seconds

    def _compare(self, name: str, row: Row) -> None:
        key = (name, *_decoding(row), row.batch)
        if key in self.passed:
            return
        alone = {"batch": 1} if row.shortlist else {}  # a peer's shortlist is that of a batch
        with self.models.start(name, row, **self._exact(row), **alone) as process:
            found, _ = process.decode()
        expected = self._reference(row)
        if name != "janus_fast":  # the order of a beam is by scores with the end's, which CTranslate2 leaves out
            found, expected = ([sorted(group) for group in groups] for groups in (found, expected))
        if found != expected:
            wrong = [i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
            raise Wrong(
                f"{name}: tokens in float32 must be those of the reference path, got others for {len(wrong)} of "
                f"{len(expected)} sources, the first of them source {wrong[0]}"
            )
        self.passed.add(key)

    def _compare_rounded(self, name: str, row: Row) -> None:
        row = dataclasses.replace(row, batch=32)  # more sources than a call of one
        with self.models.start(name, row, batch=1, intra_threads=1) as process:
            pairs = zip(process.decode()[0], self._reference(row), strict=True)
            share = alike([(found[0], expected[0]) for found, expected in pairs])
        if share < ALIKE:
            raise Wrong(
                f"{name}: of the tokens behind the same ones at least {ALIKE} must be those of the reference path, got "
                f"{share:.3f}"
            )

    def _reference(self, row: Row) -> list[list[list[int]]]:
        keys = [(*_decoding(row), *source) for call in row.calls for source in call]
        if not self.known.keys() >= set(keys):
            with self.models.start("janus_fast", row, backend="torch", **self._exact(row)) as process:
                self.known |= zip(keys, process.decode()[0], strict=True)
        return [self.known[key] for key in keys]

    def _exact(self, row: Row) -> dict:
        """How to start a process for comparison: in float32, with all the hypotheses of a beam."""
        whole = {"num_hypotheses": row.beam_size} if row.mode == "ar" else {}
        return {"compute_type": "float32", "intra_threads": self.threads, "options": row.options | whole}

    def _bleu(self, mode: str, options: tuple, compute_type: str) -> float:
        from janus_fast import directory, models
        from janus_fast.data import test_set
        from janus_fast.evaluate import scores

        path = models.locate(SHIPPED)
        config, (source, target) = directory.read_config(path), directory.read_vocabularies(path)
        texts, references = test_set(PAIR)
        ids = [config.source_ids(source.ids(source.encode(text))) for text in texts]
        row = Row("tiny", mode, 32, compute_type)
        with self.models.start(
            "janus_fast", row, model=path, calls=[ids], options=dict(options), intra_threads=self.threads
        ) as process:
            best = [group[0] for group in process.decode()[0]]
        return scores([target.decode(target.tokens_of(words)) for words in best], references)["bleu"]


def alike(pairs: list[tuple[list[int], list[int]]]) -> float:
    """Of the tokens of two outputs that follow the same tokens, how many are the same."""
    same = [sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*pair, strict=True))) for pair in pairs]
    return sum(same) / sum(min(count + 1, len(pair[1])) for count, pair in zip(same, pairs, strict=True))


def _decoding(row: Row) -> tuple:
    """What outputs depend on, but for the sources."""
    return row.config, row.streams, row.mode, *row.options.items()
