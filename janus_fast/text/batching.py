"""Batches of similar lengths, by token count."""

import numpy as np


def batches_by_tokens(lengths: np.ndarray, max_tokens: int, generator: np.random.Generator | None = None) -> list:
    """Index arrays that cover every sentence once, each of at most ``max_tokens`` (or one sentence).

    Sentences of similar length share a batch. With a ``generator``, sentences of equal length are drawn in random
    order and the batches are shuffled.
    """
    order = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches, start, total = [], 0, 0
    for end, index in enumerate(order):
        if total + lengths[index] > max_tokens and end > start:
            batches.append(order[start:end])
            start, total = end, 0
        total += int(lengths[index])
    if start < len(order):
        batches.append(order[start:])
    if generator is not None:
        generator.shuffle(batches)
    return batches
