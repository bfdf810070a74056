"""Timing side by side: contenders take turns, so that what else the machine does meets them all alike."""

import statistics
from collections.abc import Callable, Mapping

from benchmarks.process import Process


def in_turn(contenders: Mapping[str, Callable[[], list]], enough: Callable[[list], bool]) -> dict[str, list]:
    """Of each its turns, in each of which it returns its samples; until each has ``enough`` of them."""
    turns = {name: [] for name in contenders}
    while unfinished := [name for name, done in turns.items() if not enough(done)]:
        for name in unfinished:
            turns[name].append(contenders[name]())
    return turns


def spread(samples: list[float]) -> tuple[float, float, float]:
    """20th percentile, median and 80th percentile."""
    samples = samples if len(samples) > 1 else samples * 2  # Python before 3.13 wants two
    low, _, _, high = statistics.quantiles(samples, n=5, method="inclusive")
    return low, statistics.median(samples), high


def beside_eager(processes: dict[str, Process], rounds: int, peaks: Callable[[], dict[str, int]]) -> dict:
    """What janus_fast takes beside each of its peers, and how many times as long the better one takes. Memory is
    compared with the first one's, whose allocator is as it comes."""

    def turn(process: Process) -> float:
        process.seconds()  # finds another's data in the caches
        return process.seconds()

    samples = in_turn(
        {name: lambda process=process: turn(process) for name, process in processes.items()},
        lambda turns: len(turns) >= rounds,
    )
    seconds, peaks = {name: statistics.median(times) for name, times in samples.items()}, peaks()
    own, first, *_ = processes
    peers = [name for name in processes if name != own]
    better = min(peers, key=seconds.get)
    return {
        "seconds": seconds[own], "eager_seconds": seconds[better], "better_peer": better,
        "speedup": seconds[better] / seconds[own], "peak_bytes": peaks[own], "eager_peak_bytes": peaks[first],
        "peers": {name: {"seconds": seconds[name], "peak_bytes": peaks[name]} for name in peers}, "samples": samples,
    }  # fmt: skip
