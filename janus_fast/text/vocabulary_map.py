"""Which words a source can become: a lexical shortlist."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from .lines import lines_of
from .vocabulary import Vocabulary


class VocabularyMap:
    """The target tokens that a source can become, by the phrases of source tokens that it holds.

    Files are those of CTranslate2, ``vmap.txt``: a line for each phrase, its tokens, a tab, and the target tokens, with
    spaces between tokens. Those of the line without a phrase can always be said. Of two lines with the same phrase the
    last one counts.

    Args:
        rules: by phrase, a tuple of source ids, the target ids.
        size: of the target vocabulary.
    """

    def __init__(self, rules: Mapping[tuple[int, ...], Iterable[int]], size: int):
        self.rules = {phrase: np.array([*words], np.int64) for phrase, words in rules.items()}
        self.size, self._lengths = size, sorted({len(phrase) for phrase in rules} - {0})

    @classmethod
    def read(cls, path: str | Path, source: Vocabulary, target: Vocabulary) -> "VocabularyMap":
        """What a file says of these vocabularies.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: a line that is none of such a file, or a token of it that the vocabularies do not have.
        """
        rules = {}
        for number, line in enumerate(lines_of(path), 1):
            phrase, tab, words = line.partition("\t")
            if not tab:
                raise ValueError(f"{path}: line {number} must hold a phrase, a tab and target tokens, got {line!r}")
            ids = []
            for side, vocabulary, text in (("source", source, phrase), ("target", target, words)):
                tokens = [token for token in text.split(" ") if token]
                if (wrong := next((token for token in tokens if token not in vocabulary.index), None)) is not None:
                    raise ValueError(f"{path}: line {number} must hold tokens of the {side} vocabulary, got {wrong!r}")
                ids.append(vocabulary.ids(tokens))
            rules[tuple(ids[0])] = ids[1]
        return cls(rules, len(target))

    def write(self, path: str | Path, source: Vocabulary, target: Vocabulary) -> None:
        """Writes what ``read`` reads."""
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for phrase in sorted(phrase for phrase, words in self.rules.items() if len(words)):
                sides = source.tokens_of(phrase), target.tokens_of(self.rules[phrase].tolist())
                file.write("\t".join(map(" ".join, sides)) + "\n")

    def candidates(self, source: list[int], more: Iterable[int] = ()) -> np.ndarray:
        """What a source of these ids can become, and ``more``: ids in ascending order, int64."""
        phrases = [(), *(tuple(source[i : i + n]) for n in self._lengths for i in range(len(source) - n + 1))]
        possible = np.zeros(self.size, bool)
        found = [words for phrase in phrases if (words := self.rules.get(phrase)) is not None]
        possible[np.concatenate([np.array([*more], np.int64), *found])] = True
        return possible.nonzero()[0]
