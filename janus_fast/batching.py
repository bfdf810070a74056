"""What is decoded at once, and how a stream of text is read ahead for it."""

from collections.abc import Iterable, Iterator
from itertools import islice

from . import inputs
from .decoding.declared import FEWEST_ROWS, MOST_ROWS
from .results import TranslationResult


def batches(
    numbers: Iterable[int], lengths: list[int], max_batch_size: int, batch_type: str, kept: int = 1
) -> Iterator[list[int]]:
    """Longest first, as large as asked for, or as memory allows when ``kept`` hypotheses of each are made at once."""
    batch, size, rows = [], 0, 0
    for number in sorted(numbers, key=lambda n: -lengths[n]):
        cost = 1 if batch_type == "examples" else lengths[number]
        needed = kept * max(lengths[number], FEWEST_ROWS)
        if batch and (size + cost > max_batch_size or rows + needed > MOST_ROWS):
            yield batch
            batch, size, rows = [], 0, 0
        batch.append(number)
        size += cost
        rows += needed
    if batch:
        yield batch


def translated(
    translator, texts: Iterator[str], number: int, ahead: int, max_input_length: int, options: dict
) -> Iterator[TranslationResult]:
    """The translations of ``texts``, the first of which has this ``number``, ``ahead`` of them at a time."""
    error = None
    while error is None:
        chunk, error = _read(translator, texts, number, ahead, max_input_length)
        yield from translator._translate(chunk, first_number=number, **options)
        if error is None and len(chunk) < ahead:
            return
        number += len(chunk)
    raise error


def _read(
    translator, texts: Iterator[str], number: int, count: int, max_input_length: int
) -> tuple[list[list[str]], Exception | None]:
    """The tokens of up to ``count`` sentences that can be translated, and the error that ended them."""
    config, chunk = translator.config, []
    limit, ends = config.max_source_positions, len(config.source_ids([]))
    try:
        for text in islice(texts, count):
            text = inputs.text(f"source {number + len(chunk)}", text)
            tokens = translator.source_vocabulary.encode(text)[: max_input_length or None]
            if len(tokens) + ends > limit:
                raise inputs.TooLong(number + len(chunk), len(tokens) + ends, limit, limit - ends)
            chunk.append(tokens)
    except Exception as error:
        return chunk, error
    return chunk, None
