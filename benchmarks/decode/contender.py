"""Timing processes in turn: while one decodes, the others sleep."""

import statistics
import time
from contextlib import ExitStack

from benchmarks.decode.gate import Gate
from benchmarks.peers import DECODERS, Models, Process, Refusal
from benchmarks.turns import spread
from benchmarks.workload import Row

TURN = 0.15  # seconds of decoding in a turn, at least; a decode that takes longer is timed alone
WARM = 1.0  # seconds of a first decode after which a second one would tell no more
PAUSE = 0.02  # seconds between turns, in which threads that wait for more work give up and sleep


class Contender:
    """A decoder at the best of its settings for a row: one team of all threads or, for a batch, workers of one each."""

    def __init__(self, name: str, row: Row, models: Models, gate: Gate, threads: int, stack: ExitStack):
        self.name, self.tried = name, {}
        self.batches = sum(len(call) for call in row.calls) / row.batch
        self.compute_type = DECODERS[name].compute_types[row.compute_type]
        started, refusals = [], []
        for intra, inter in dict.fromkeys([(threads, 1), (1, threads)] if row.batch > 1 else [(threads, 1)]):
            setting = {"intra_threads": intra, "inter_threads": inter}
            try:
                process = models.start(name, row, **setting)
            except Refusal as refusal:
                refusals.append(refusal)
                continue
            one = ExitStack()
            stack.enter_context(one).enter_context(process)
            seconds = gate.first_decode(name, row, process) / self.batches
            if seconds * self.batches < WARM:
                seconds = statistics.median(self._turn(process))
            self.tried[f"{inter} x {intra} threads"] = seconds
            started.append((seconds, setting, process, one))
        if not started:
            raise refusals[0]
        best, *others = sorted(started, key=lambda each: each[0])
        _, self.setting, self.process, _ = best
        for *_, one in others:
            one.close()

    def turn(self) -> list[float]:
        time.sleep(PAUSE)
        return self._turn(self.process)

    def _turn(self, process: Process) -> list[float]:
        """Seconds a batch. The first decode of a turn finds another's data in the caches; it counts if it is long."""
        times = [process.seconds()]
        if times[0] < TURN:
            times.clear()
            while sum(times) < TURN or len(times) < 3:
                times.append(process.seconds())
        return [seconds / self.batches for seconds in times]

    def profile(self) -> dict[str, list[float]]:
        """Seconds a batch, of all threads together, by stage: work, and waiting for the other threads."""
        return {stage: [t / self.batches for t in times] for stage, times in self.process.profile().items()}

    def record(self, samples: list[float]) -> dict:
        low, middle, high = spread(samples)
        return {
            "seconds": middle, "seconds_p20": low, "seconds_p80": high, "runs": len(samples),
            "compute_type": self.compute_type, **self.setting, "tried": self.tried, **self.process.facts,
        }  # fmt: skip
