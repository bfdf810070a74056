"""Aligned code-switching: source words become other translations, and what the target says for them is masked."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import JanusConfig
from ..inputs import OptionError, check_input
from ..packing import pack
from ..text import Vocabulary
from ..text.lines import lines_of
from .corruption import BEGINS

Place = tuple[int, int]  # of a word: where it begins and ends


class CodeSwitching:
    """Aligned code-switching and masking, of CeMAT (Li et al. 2022), by a dictionary of translations.

    A word of a source is aligned where one of its translations stands in the target, the first in the dictionary that
    does; in monolingual text, where the word itself does. An aligned word may be replaced by another translation, of
    which one is drawn uniformly; where the vocabulary can write no other, it stays. Of the words that can be replaced
    so many are, in an order that is drawn uniformly, that they are a share ``switch_ratio`` of all words, rounded up or
    down at random so that the mean is that share. A word that stands in several places is replaced in all of them, and
    then the target word that it is aligned with is masked wherever it stands. No source gets longer than the model has
    positions.

    Words are what stands between spaces, without marks around it, and the same in small and capital letters. Marks stay
    where they are, without a space if there was none.

    Args:
        options: ``dictionary``, the name of a file, and ``switch_ratio``.
        dictionary: what :func:`read_dictionary` reads of that.
        config: of the model, both sides of which have one vocabulary.
        vocabulary: which that is.
        monolingual: whether both sides of the text are of one language.
    Source: ``replace_para_word`` and ``replace_mono_word`` of the authors' code.
    """

    def __init__(
        self, options, dictionary: Mapping[str, list[str]], config: JanusConfig, vocabulary: Vocabulary,
        monolingual: bool,
    ):  # fmt: skip
        self.file, self.share = options.dictionary, options.switch_ratio
        self.config, self.monolingual = config, monolingual
        special = {config.bos_token_id, config.pad_token_id, config.eos_token_id, config.mask_token_id}
        special |= {config.unk_token_id, *config.source_prefix_ids, *config.source_suffix_ids}
        tokens, pieces = vocabulary.tokens, any(token.startswith(BEGINS) for token in vocabulary.tokens)
        # By token: what it adds to a word, whether it is none of its own, and whether a word begins or ends with it.
        self.texts = [token if pieces else token.removesuffix("@@") for token in tokens]
        self.marks = [
            i in special or token != BEGINS and not any(map(str.isalnum, token)) for i, token in enumerate(tokens)
        ]
        self.begins = [i in special or pieces and token.startswith(BEGINS) for i, token in enumerate(tokens)]
        self.ends = [i in special or not pieces and not token.endswith("@@") for i, token in enumerate(tokens)]
        self.pieces = pieces
        # By word and translation: its tokens, and those that it has beside a mark, without a space between.
        self.translations = {
            word: {other.casefold(): tuple(map(vocabulary.ids, _written(vocabulary, other))) for other in others}
            for word, others in dictionary.items()
        }

    def __call__(
        self, sources: list[np.ndarray], targets: list[np.ndarray], generator: torch.Generator
    ) -> tuple[list[np.ndarray], tuple[Tensor, Tensor]]:
        """Of a batch the sources with words replaced; and which tokens of these, packed, stand in for others, and which
        of the packed targets are to be masked: bool [Ns] and [Nt]. ``generator`` draws."""
        pairs = zip(sources, targets, strict=True)
        every = [self.switched(source.tolist(), target.tolist(), generator) for source, target in pairs]
        switched, *flags = zip(*every, strict=True)
        return [np.array(ids, np.int64) for ids in switched], tuple(pack(each, torch.bool)[0] for each in flags)

    def check(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> None:
        """Refuses a dictionary by which no word of this text can be replaced."""
        for source, target in zip(sources, targets, strict=True):
            ids, told = source.tolist(), target.tolist()
            if self.aligned(ids, self.words(ids), self.words(told)):
                return
        there = "the word itself" if self.monolingual else "one translation of the word"
        rule = f"hold a translation that can replace a word of the text, where the target has {there}"
        raise OptionError("--dictionary", rule, f"{self.file}, by which none can be")

    def switched(
        self, source: list[int], target: list[int], generator: torch.Generator
    ) -> tuple[list[int], list[bool], list[bool]]:
        """The same of one pair."""
        words = self.words(source)
        aligned = self.aligned(source, words, self.words(target))
        count = int(len(words) * self.share + float(torch.rand((), generator=generator)))
        instead, masked, room = {}, [False] * len(target), self.config.max_source_positions - len(source)
        for number in torch.randperm(len(aligned), generator=generator).tolist():
            if count <= 0:
                break
            others, told = aligned[number]
            other = others[int(torch.randint(len(others), (1,), generator=generator))]
            growth = sum(len(tokens) - (end - begin) for (begin, end), tokens in other.items())
            if growth > room:
                continue
            room, count = room - growth, count - len(other)
            instead |= other
            for begin, end in told:
                masked[begin:end] = [True] * (end - begin)
        result, replaced, at = [], [], 0
        for (begin, end), other in sorted(instead.items()):
            result += source[at:begin] + other
            replaced += [False] * (begin - at) + [True] * len(other)
            at = end
        return result + source[at:], replaced + [False] * (len(source) - at), masked

    def aligned(
        self, source: list[int], words: list[tuple[Place, str]], target: list[tuple[Place, str]]
    ) -> list[tuple[list[dict[Place, list[int]]], list[Place]]]:
        """Of the source's ``words`` that can be replaced: what may stand instead, by place, and where the target says
        it."""
        said, places = {}, {}
        for every, found in ((target, said), (words, places)):
            for place, word in every:
                found.setdefault(word, []).append(place)
        result = []
        for word, own in places.items():
            others = self.translations.get(word, {})
            told = next((other for other in ([word] if self.monolingual else others) if other in said), None)
            beside = [self.is_beside_mark(source, place) for place in own]
            others = [
                {place: written[mark] for place, mark in zip(own, beside, strict=True)}
                for other, written in others.items()
                if other not in (word, told)
            ]
            others = [each for each in others if all(self.config.unk_token_id not in ids for ids in each.values())]
            if told is not None and others:
                result.append((others, said[told]))
        return result

    def is_beside_mark(self, ids: list[int], place: Place) -> bool:
        """Whether no space is between a word and what stands before it, or in BPE behind it."""
        begin, end = place
        return not (self.begins[ids[begin]] if self.pieces else self.ends[ids[end - 1]])

    def words(self, ids: list[int]) -> list[tuple[Place, str]]:
        """The words of a sentence, in small letters."""
        parts = [n for n in range(1, len(ids)) if self.ends[ids[n - 1]] or self.begins[ids[n]]]
        found = []
        for begin, end in zip([0, *parts], [*parts, len(ids)], strict=True):
            while begin < end and self.marks[ids[end - 1]]:
                end -= 1
            while begin < end and self.marks[ids[begin]]:
                begin += 1
            if begin < end:
                text = "".join(self.texts[i] for i in ids[begin:end])
                found.append(((begin, end), text.removeprefix(BEGINS).casefold()))
        return found


def _written(vocabulary: Vocabulary, word: str) -> tuple[list[str], list[str]]:
    """The tokens of a word, and those that it has behind a mark, or in BPE before one, without a space between."""
    tokens = vocabulary.encode(word)
    if not any(token.startswith(BEGINS) for token in vocabulary.tokens):
        return tokens, [*tokens[:-1], *(f"{token}@@" for token in tokens[-1:])]
    behind = vocabulary.encode(f"({word}")
    ends = [n for n in range(1, len(behind)) if "".join(behind[:n]) == f"{BEGINS}("]
    return tokens, behind[ends[-1] :] if ends else [vocabulary.tokens[vocabulary.unknown]]


def read_dictionary(path: str | Path) -> dict[str, list[str]]:
    """By word, in small letters, its translations: those of all its lines, each once.

    A line holds a word and one translation of it or more, with tabs between them, or spaces if it has no tab; a word
    holds no space. Lines of white space are passed over. So the dictionaries of MUSE are written.

    Raises:
        OSError: ``path`` is not there, is no file that can be read again, or cannot be read.
        ValueError: a line of one word, a space in a word, or a file without words.
    """
    check_input("--dictionary", path, regular=True)
    found: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines_of(path), 1):
        words = [word.strip() for word in line.split("\t")] if "\t" in line.strip() else line.split()
        words, where = [word for word in words if word], f"line {number:,} of {path}"
        if len(words) == 1:
            raise ValueError(f"--dictionary must hold a word and translations of it in {where}, got {line!r}")
        for word in words:
            if word.split() != [word]:
                raise ValueError(f"--dictionary must hold single words between the tabs of {where}, got {word!r}")
        if words:
            found.setdefault(words[0].casefold(), {}).update(dict.fromkeys(words[1:]))
    if not found:
        raise ValueError(f"--dictionary must hold words, got {path} without any")
    return {word: [*others] for word, others in found.items()}
