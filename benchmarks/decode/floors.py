"""The least time that a decode can take on this machine.

A decode is a sequence of stages: an encoder layer, a decoder layer of one step or pass, the vocabulary. A stage reads
its weights, and multiplies them with its rows; it takes the longer of

    bytes of weights / bandwidth,   2 * multiply-adds / peak

and a decode takes the sum of its stages. Peak is the most operations a second that the processor does in the type at
hand; bandwidth is that of reading, again and again, as many bytes as lie between two uses of the same weight: the
whole model for the encoder, which runs once a decode, and the decoder's part for the decoder, which runs in every step
or pass.

Counted is what no implementation can do without: the products of rows that matter with weights, and of queries with
keys and values. Keys and values of the source are made once; in a refinement pass only masked rows leave the last
layer; of two streams, content goes no further than the keys and values of the last layer. Not counted, so that the
floor lies below what is possible: norms, softmax, activations, quantisation, embeddings, caches, waiting for each
other, and the step that scores the end of an output.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.workload import OUTPUT, Row

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Stage:
    """``weights`` numbers of ``type`` are read, ``products`` multiply-adds done; ``part`` is "encoder" or "decoder"."""

    part: str
    type: str
    weights: int
    products: int


def stages(row: Row, lengths: list[int]) -> list[Stage]:
    """The stages of decoding one batch of sources of ``lengths`` tokens, in order."""
    c, f, layers = row.sizes.channels, row.sizes.hidden, row.sizes.decoder_layers
    layer_type, vocabulary_type = row.compute_type.split("_")[0], row.compute_type.split("_")[-1]
    sources, source_rows = len(lengths), sum(lengths)
    result = []

    def layer(part: str, weights: int, products: int) -> None:
        result.append(Stage(part, layer_type, weights, products))

    def vocabulary(rows: int) -> None:
        weights = row.sizes.vocabulary * c
        result.append(Stage("decoder", vocabulary_type, weights, weights * rows))

    attention, feed_forward = 4 * c * c, 2 * c * f  # queries, keys, values and output; up and down
    # queries with keys and weights with values: 2 c multiply-adds a pair
    for _ in range(row.sizes.layers):
        weights = attention + feed_forward
        layer("encoder", weights, source_rows * weights + 2 * c * sum(length * length for length in lengths))
    for _ in range(layers):  # keys and values of the source
        layer("encoder", 2 * c * c, source_rows * 2 * c * c)

    weights = attention + 2 * c * c + feed_forward
    if row.mode == "nar":
        canvas = range(OUTPUT + 2 - row.length_beam // 2, OUTPUT + 2 - row.length_beam // 2 + row.length_beam)
        rows = sources * sum(canvas)
        for step in range(row.iterations):
            masked = sources * sum(_masked(length - 2, step, row.iterations) for length in canvas)
            for index in range(layers):
                leaving = rows if index < layers - 1 else masked
                products = rows * 2 * c * c + leaving * (weights - 2 * c * c)
                share = leaving / rows  # of the queries
                own = 2 * c * sources * sum(length * length for length in canvas) * share
                cross = 2 * c * source_rows * sum(canvas) * share
                layer("decoder", weights, round(products + own + cross))
            vocabulary(masked)
        return result
    for step in range(OUTPUT):
        beam = row.beam_size if step else 1
        rows = sources * beam
        for index in range(layers):
            # two streams: content and query rows; content rows leave their keys and values in the last layer, no more
            queries = rows * (row.streams if index < layers - 1 else 1)
            products = rows * 2 * c * c + queries * (weights - 2 * c * c)
            own, cross = 2 * c * queries * (step + 1), 2 * c * source_rows * queries // sources
            layer("decoder", weights, products + own + cross)
        vocabulary(rows)
    return result


def _masked(words: int, step: int, iterations: int) -> int:
    """Of so many words, how many the pass ``step`` (from 0) predicts."""
    return int(words * (1 - step / iterations))


def floor(row: Row, bandwidth: Callable[[int], float], peak: Callable[[str], float]) -> dict:
    """The floor of a batch in seconds, and what it comes from: ``bandwidth(bytes)`` and ``peak(type)`` a second."""
    batches = [call[i : i + row.batch] for call in row.calls for i in range(0, len(call), row.batch)]
    runs = [stages(row, list(map(len, batch))) for batch in batches]

    def size(stage: Stage) -> int:
        return stage.weights * BYTES[stage.type]

    encoder = sum(size(stage) for stage in runs[0] if stage.part == "encoder")
    decoder = sum(size(stage) for stage in runs[0] if stage.part == "decoder")
    decoder //= row.iterations if row.mode == "nar" else OUTPUT  # once
    between = {"encoder": encoder + decoder, "decoder": decoder}
    speeds = {part: bandwidth(weights) for part, weights in between.items()}
    peaks = {name: peak(name) for name in sorted({stage.type for stage in runs[0]})}
    reading = [[size(stage) / speeds[stage.part] for stage in run] for run in runs]
    computing = [[2 * stage.products / peaks[stage.type] for stage in run] for run in runs]
    longer = [sum(map(max, *both)) for both in zip(reading, computing, strict=True)]
    return {
        "seconds": sum(longer) / len(runs),
        "seconds_reading": sum(map(sum, reading)) / len(runs),
        "seconds_computing": sum(map(sum, computing)) / len(runs),
        "weight_bytes": between,
        "operations": sum(2 * stage.products for run in runs for stage in run) / len(runs),
        "bytes_per_second": speeds,
        "operations_per_second": peaks,
    }


@functools.cache
def limits(threads: int) -> tuple[Callable[[int], float], Callable[[str], float]]:
    """This machine's ``bandwidth`` and ``peak``, each figure measured when first asked for."""
    from janus_fast import _engine

    @functools.cache
    def bandwidth(size: int) -> float:
        return _engine.read_bandwidth(size, threads)

    @functools.cache
    def peak(name: str) -> float:
        return _engine.peak(name, threads)

    return bandwidth, peak
