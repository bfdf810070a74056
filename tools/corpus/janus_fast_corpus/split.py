"""Training, validation and test sets without leaks: near-duplicates stay on one side, and the order is no accident."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LARGEST_HELD_OUT_GROUP = 4
LONGEST_HELD_OUT_SENTENCE = 40  # words
SHORTEST_SENTENCE = 4


@dataclass(frozen=True)
class Pair:
    """A sentence, its translation, and what is known of them."""

    text: str
    translation: str
    source: str
    license: str
    permissive: bool = False
    held_out: bool = False
    sentence_like: bool = True

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def may_be_held_out(self) -> bool:
        """Whether the pair may be validation or test: a sentence of usual length, free to be handed on."""
        return self.permissive and self.is_sentence(LONGEST_HELD_OUT_SENTENCE)

    def is_sentence(self, max_words: int) -> bool:
        return self.sentence_like and SHORTEST_SENTENCE <= self.words <= max_words

    def is_short(self, max_words: int) -> bool:
        return self.is_sentence(max_words) and 3 <= len(self.translation.split()) <= max_words + 2


def stable_hash(text: str) -> int:
    """64 bits that are the same in every run and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def normalized(text: str) -> str:
    """Text without case, digits and punctuation: equal for sentences that must not be on both sides of a split."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w ]|\d|_", " ", text.lower())).strip()


def in_stable_order(pairs: list[Pair]) -> list[Pair]:
    """The pairs shuffled by the hash of their English side."""
    return sorted(pairs, key=lambda pair: stable_hash("order:" + pair.text))


def deduplicated(pairs: list[Pair]) -> list[Pair]:
    """One pair for each English sentence: its most frequent translation (held-out, then permissive sources first)."""
    by_text: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_text[pair.text].append(pair)
    best = []
    for same in by_text.values():
        count = Counter(pair.translation for pair in same)

        def rank(pair: Pair, count: Counter = count) -> tuple:
            return pair.held_out, count[pair.translation], pair.permissive, stable_hash(pair.translation)

        best.append(max(same, key=rank))
    return in_stable_order(best)


def groups_by_keys(keys: Iterable[Iterable[str]]) -> list[list[int]]:
    """Numbers of what has these keys, grouped: what shares a key is in one group, and so on from one to the next."""
    parent: list[int] = []
    first_with: dict[int, int] = {}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, own in enumerate(keys):
        parent.append(index)
        for key in own:
            other = first_with.setdefault(stable_hash(key), index)
            if other != index:
                parent[root(index)] = root(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(parent)):
        groups[root(index)].append(index)
    return list(groups.values())


def near_duplicate_groups(pairs: list[Pair]) -> list[list[int]]:
    """Indices of the pairs, grouped.

    Two pairs are near-duplicates when either side is equal once normalised, or when their English sides have five or
    more words and differ in one word. A group is closed under that relation.
    """

    def keys(pair: Pair) -> Iterator[str]:
        text = normalized(pair.text)
        yield "s:" + text
        yield "d:" + normalized(pair.translation)
        words = text.split()
        if len(words) >= 5:
            for position in range(len(words)):
                yield "w:" + " ".join([*words[:position], "*", *words[position + 1 :]])

    return groups_by_keys(map(keys, pairs))


def split_pairs(pairs: list[Pair], validation_pairs: int, test_pairs: int) -> dict[str, list[Pair]]:
    """``{"train", "valid", "test"}``: groups of near-duplicates, in the order of a hash, fill test, then validation.

    Only small groups whose every pair ``may_be_held_out`` are held out; one pair of the group is kept, the others are
    dropped, so that no near-duplicate of a held-out pair is left anywhere. All other pairs are for training.
    """
    groups = near_duplicate_groups(pairs)
    groups.sort(key=lambda group: stable_hash("split:" + min(normalized(pairs[index].text) for index in group)))
    splits: dict[str, list[Pair]] = {"train": [], "valid": [], "test": []}
    for group in groups:
        members = [pairs[index] for index in group]
        eligible = len(members) <= LARGEST_HELD_OUT_GROUP and all(pair.may_be_held_out for pair in members)
        if eligible and len(splits["test"]) < test_pairs:
            splits["test"].append(members[0])
        elif eligible and len(splits["valid"]) < validation_pairs:
            splits["valid"].append(members[0])
        else:
            splits["train"] += members
    return {name: in_stable_order(members) for name, members in splits.items()}


def tiers_of(
    splits: dict[str, list[Pair]], small_max_words: int, small_max_pairs: int, validation_pairs: int, test_pairs: int
) -> dict[str, dict[str, list[Pair]]]:
    """The three tiers of one split; a pair is on the same side in each of them."""

    def short(pairs: list[Pair], count: int) -> list[Pair]:
        candidates = [pair for pair in pairs if pair.is_short(small_max_words)]
        candidates.sort(key=lambda pair: (not pair.permissive, stable_hash("small:" + pair.text)))
        return in_stable_order(candidates[:count])

    return {
        "full": splits,
        "small": {
            "train": short(splits["train"], small_max_pairs),
            "valid": short(splits["valid"], validation_pairs),
            "test": short(splits["test"], test_pairs),
        },
        "permissive": {**splits, "train": [pair for pair in splits["train"] if pair.permissive]},
    }


def out_of_domain(held_out: list[Pair], train: list[Pair], count: int) -> dict[str, list[Pair]]:
    """``{source: test set}`` of the held-out sources: sentences with no normalised side in the training set."""
    seen = {normalized(side) for pair in train for side in (pair.text, pair.translation)}
    sets: dict[str, list[Pair]] = {name: [] for name in sorted({pair.source for pair in held_out})}
    for pair in held_out:
        unseen = normalized(pair.text) not in seen and normalized(pair.translation) not in seen
        if unseen and pair.is_sentence(LONGEST_HELD_OUT_SENTENCE) and len(sets[pair.source]) < count:
            sets[pair.source].append(pair)
    return sets


def without_sentences(pairs: list[Pair], sentences: set[str]) -> list[Pair]:
    """The pairs of which neither side, normalised, is among the sentences."""
    return [
        pair
        for pair in pairs
        if normalized(pair.text) not in sentences and normalized(pair.translation) not in sentences
    ]


def check_no_leak(splits: dict[str, list[Pair]]) -> None:
    """Raises an AssertionError if a held-out sentence, normalised, is in the training set."""
    trained = {normalized(pair.text) for pair in splits["train"]}
    leaked = [pair.text for name in ("valid", "test") for pair in splits[name] if normalized(pair.text) in trained]
    if leaked:
        raise AssertionError(f"corpus: {len(leaked)} held-out sentences are in the training set, first: {leaked[0]!r}")
