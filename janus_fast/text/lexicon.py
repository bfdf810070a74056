"""Which target words source words become, and how likely, from parallel text as ids."""

from collections.abc import Iterable, Iterator

import numpy as np

from .vocabulary_map import VocabularyMap

Sentences = list[np.ndarray]
SENTENCES = 10_000  # of a part, whose pairs of words are in memory at once


def by_ibm_model_1(
    source: Sentences, target: Sentences, size: int, iterations: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """P(target word | source word) of all pairs that share a sentence: pairs as source * ``size`` + target, ascending,
    and their probabilities.

    They maximise the likelihood of the targets, where each word t comes from every word s of its source with the same
    chance, and s becomes t with probability p(t | s). Expectation maximisation, from p all equal, counts for each pair
    p(t | s) / sum over s' of p(t | s'). Sources should hold one word more, the same in each, for words t that come from
    nothing.

    Source: IBM model 1 (Brown et al. 1993).
    """

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs, target word by target word; and of each of these the number of pairs."""
        for at in range(0, len(source), SENTENCES):
            sentences = [*zip(source[at : at + SENTENCES], target[at : at + SENTENCES], strict=True)]
            pairs = [np.add.outer(t, s * size).ravel() for s, t in sentences]
            yield np.concatenate(pairs), np.repeat([len(s) for s, _ in sentences], [len(t) for _, t in sentences])

    known = np.zeros(0, np.int64)
    for pairs, _ in parts():
        known = np.union1d(known, pairs)
    probability = np.ones(len(known))
    for _ in range(iterations):
        counts = np.zeros(len(known))
        for pairs, lengths in parts():
            places = np.searchsorted(known, pairs)
            own = probability[places]
            own /= np.repeat(np.add.reduceat(own, lengths.cumsum() - lengths), lengths)
            counts += np.bincount(places, own, len(known))
        probability = _shares(known // size, counts)
    return known, probability


def by_links(
    source: Sentences, target: Sentences, size: int, links: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The same by counting ``links`` [N, 2] of each pair of sentences: places in the source, and in the target."""
    pairs = [s[i] * size + t[j] for s, t, (i, j) in zip(source, target, (own.T for own in links), strict=True)]
    known, counts = np.unique(np.concatenate(pairs), return_counts=True)
    return known, _shares(known // size, counts)


def _shares(source: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return counts / np.bincount(source, counts)[source]


def vocabulary_map(
    pairs: np.ndarray, probability: np.ndarray, frequent: np.ndarray, size: int, best: int, threshold: float
) -> VocabularyMap:
    """For every source word its ``best`` likeliest target words, if as likely as ``threshold``, but for those that are
    ``frequent``, which can always be said."""
    source, target = np.divmod(pairs, size)
    order = np.lexsort((target, -probability, source))
    order = order[probability[order] >= threshold]
    source, target = source[order], target[order]
    words, begins = np.unique(source, return_index=True)
    rules = {(): frequent}
    for word, own in zip(words.tolist(), np.split(target, begins[1:]), strict=True):
        rules[word,] = np.setdiff1d(own[:best], frequent)
    return VocabularyMap(rules, size)
