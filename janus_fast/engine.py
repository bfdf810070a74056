"""The native engine: whole decodes in C++ on the CPU, without torch."""

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import numpy as np

from . import inputs
from .config import JanusConfig
from .decoding import Hypothesis
from .decoding.options import Options, untaken
from .installation import asked_isa, engine_missing

COMPUTE_TYPES = ("float32", "bfloat16", "int8", "int8_bfloat16")
MOST_THREADS = 1024  # of a batch, and batches at once


def missing() -> str | None:
    """Why there is no engine here, or None. A library that is there but does not load is an error, not an absence."""
    if reason := engine_missing():
        return reason
    from . import _engine

    return None if hasattr(_engine, "Model") else "the native engine does not decode yet"


def isas() -> tuple[str, ...]:
    """The instruction sets that the engine was built for and this processor runs, best first."""
    from . import _engine

    return tuple(_engine.isas())


def isa() -> str:
    """The one it uses: the best, or what JANUS_FAST_ISA names."""
    return asked_isa() or isas()[0]


def fastest() -> str:
    """The compute type that this processor is fastest in: "int8" where it multiplies int8 numbers (VNNI)."""
    return "int8" if isa().endswith(("_vnni", "_bf16", "_amx")) else "float32"  # AVX-512 BF16 comes with VNNI


def default_threads() -> int:
    """CTranslate2's rule: what OMP_NUM_THREADS says, else as many as there are cores, 4 at most."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number for each level of nesting
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise ValueError(f"Translator: OMP_NUM_THREADS must be a positive integer, got {asked!r}")
        if int(asked) > MOST_THREADS:
            raise ValueError(f"Translator: OMP_NUM_THREADS must be at most {MOST_THREADS}, got {asked}")
        return int(asked)
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_inter_threads(name: str, value) -> int | str:
    """Batches at once, or "auto"; an OptionError for anything else."""
    if not isinstance(value, str):
        return inputs.integer(name, value, 1, MOST_THREADS)
    if value != "auto":
        raise inputs.OptionError(name, "be 'auto' or an integer of at least 1", repr(value))
    return value


def most_at_once(inter_threads: int | str, intra_threads: int) -> int:
    """How many batches an engine decodes at once, at most: with "auto" as many as it has threads."""
    return (intra_threads or default_threads()) if inter_threads == "auto" else inter_threads


class Engine:
    """Decodes with ``inter_threads`` workers of ``intra_threads`` threads each, which share the packed weights.

    With ``inter_threads`` "auto" there is one such worker, a team, and beside it as many of one thread each as the team
    has threads. As many of a call's batches as are a multiple of that are theirs; the team has what is left.

    ``arrays`` are the parameters as ``janus_fast.weights`` has them. The token embeddings stay as they are; they
    must not change. Methods may be called from several threads: a call waits until a worker is free. A child of fork
    has workers of its own, from its first call on.
    """

    def __init__(
        self, config: JanusConfig, arrays: dict[str, np.ndarray], compute_type: str, intra_threads: int,
        inter_threads: int | str,
    ):  # fmt: skip
        from . import _engine

        self.config, self.compute_type, self.isa = config, compute_type, isa()
        self.intra_threads = intra_threads or default_threads()
        held = {
            name: array.astype(np.float32) if array.dtype in (np.float64, np.float16) else array
            for name, array in arrays.items()
        }
        fields = {**dataclasses.asdict(config), "suppressed": config.suppressed}
        model = _engine.Model(fields, held, compute_type, self.isa)
        self.most_at_once, self._here = most_at_once(inter_threads, self.intra_threads), threading.local()
        self._decoder = _engine.Decoder(model, 1 if inter_threads == "auto" else inter_threads, self.intra_threads)
        self._singles, self._profiled = None, {}  # the latter: what a call that was refused had read
        if inter_threads == "auto" and self.intra_threads > 1:
            self._singles = _engine.Decoder(model, self.intra_threads, 1)

    def refusal(self, options: Options, *_) -> str | None:
        """Why a call with these options cannot be decoded, or None when it can."""
        return untaken("engine", options, self.config)

    def decode(
        self, sources: list[list[int]], options: Options, numbers: list[int], prefixes: list[list[int]] | None,
        drafts: list[list[int]] | None = None, words: list[np.ndarray] | None = None,
    ) -> list[list[Hypothesis]]:  # fmt: skip
        """The hypotheses of every source, best first. Sampling draws by the ``numbers`` of the sources; with ``words``
        a source becomes none but its own."""
        if (reason := self.refusal(options)) is not None:
            raise NotImplementedError(f"generate: backend must be able to run this, got 'engine': {reason}")
        options = options.resolved(self.config)
        given = {"prefixes": _packed(prefixes)} if prefixes else {}
        for name, value in (("drafts", drafts), ("words", words)):
            if value:
                given[name] = _packed(value)
        if getattr(options, "sampling_topk", 1) != 1:
            given["uniforms"] = options.uniforms(numbers, options.longest(self.config) + 1)
        if getattr(options, "callback", None):
            given["callback"] = options.callback
        search = getattr(self._own_decoder(), options.algorithm)
        groups = search(*_packed(sources), options.record(self.config), self._check(), **given)
        return [[Hypothesis(*hypothesis) for hypothesis in group] for group in groups]

    def score(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        """Log-probabilities (nats) of each target's tokens and its ``eos``, left to right."""
        return self._own_decoder().score(*_packed(sources), *_packed(targets), check=self._check())

    def profile(self) -> dict[str, tuple[float, float]]:
        """Seconds since the last call, of all threads together, that each stage took: work, and waiting for the other
        threads. The first call begins. A RuntimeError while something is decoded; the next call has all times."""
        for decoder in filter(None, (self._decoder, self._singles)):
            for stage, times in decoder.profile().items():
                before = self._profiled.get(stage, (0.0, 0.0))
                self._profiled[stage] = tuple(map(sum, zip(before, times, strict=True)))
        stages, self._profiled = self._profiled, {}
        return stages

    def map(self, work: Callable, batches: list) -> Iterator:
        """What ``work`` makes of each batch of a call, in order, of as many at once as there are workers.

        Whoever leaves early, by an error or Ctrl-C, ends what is being decoded. The threads hold up no program's end.
        """
        left_over = len(batches) % self.most_at_once if self._singles else 0
        several = batches[: len(batches) - left_over]
        yield from (self._at_once if min(self.most_at_once, len(several)) > 1 else map)(work, several)
        yield from map(work, batches[len(several) :])

    def _at_once(self, work: Callable, batches: list) -> Iterator:
        left, process = threading.Event(), os.getpid()
        busy = [threading.Lock() for _ in batches]  # each held until its batch is done
        done: list[tuple] = [()] * len(batches)  # what came of it, and an error
        rest = iter(range(len(batches)))  # from which each thread takes the next
        for lock in busy:
            lock.acquire()

        def check() -> None:
            if left.is_set():
                raise CancelledError

        def serve() -> None:
            self._here.check, self._here.decoder = check, self._singles or self._decoder
            for number in rest:
                if left.is_set():
                    return
                try:
                    done[number] = work(batches[number]), None
                except BaseException as error:
                    done[number] = None, error
                busy[number].release()

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(self.most_at_once, len(batches)))]
        try:
            try:
                for thread in threads:
                    thread.start()
            except RuntimeError as error:
                rule = "inter_threads must be as many as the system can start"
                raise OSError(f"Translator: {rule}, got {self.most_at_once}: {error}") from None
            for number, lock in enumerate(busy):
                while not lock.acquire(timeout=0.1):
                    if os.getpid() != process:  # the threads are not there
                        raise RuntimeError("Translator: a signal's handler must not fork and return")
                result, error = done[number]
                if error is not None:
                    raise error
                yield result
        finally:
            left.set()
            for thread in threads:
                while thread.is_alive():  # in a child of fork it is not
                    thread.join(0.1)

    def _own_decoder(self):
        """That of :meth:`map` on its threads."""
        return getattr(self._here, "decoder", self._decoder)

    def _check(self) -> Callable | None:
        """What a decode calls ten times a second, for Ctrl-C or :meth:`map` to end it; None where neither can."""
        if threading.get_ident() == threading.main_thread().ident:
            return _let_signals_in
        return getattr(self._here, "check", None)


def _let_signals_in() -> None:
    """Python calls the handlers of signals on its main thread, whenever that runs Python."""


def _packed(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N] int32 one sequence after another, and where each begins [S + 1] int32."""
    offsets = np.zeros(len(sequences) + 1, np.int32)
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    return np.concatenate([[], *sequences], dtype=np.int32, casting="unsafe"), offsets
