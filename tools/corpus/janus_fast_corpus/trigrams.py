"""Sentences that were never written, in the words and the style of those that were: drawn from a trigram model.

A teacher that translates them makes further training text for sequence-level knowledge distillation (Kim and Rush 2016)
where no more real text is at hand.

    python -m janus_fast_corpus.trigrams train.en 150000 --without valid.en test.en > drawn.en
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator

from janus_fast.text.lines import lines_of

BEGIN, END = "<s>", "</s>"
ENDLESS = 40  # words after which a draw is given up
FEW = 3  # a context with fewer different successors is shortened to one word, every other time


def draw_sentences(
    lines: Iterable[str], count: int, *, without: Iterable[str] = (), seed: int = 1, words: tuple[int, int] = (3, 32)
) -> Iterator[str]:
    """Yields ``count`` different sentences, none of them in ``lines`` or ``without``.

    A word is drawn from those that followed the last two in ``lines``, as often as they did; where those are nearly
    always the same, half of the time from those that followed the last word alone, or else too much would be copied.

    Args:
        lines: the text, one sentence a line, words apart by white space.
        words: the least and most words of a sentence.
        seed: of the draws; the same seed and text give the same sentences.
    Raises:
        ValueError: the text has too few different continuations for so many sentences.
    """
    sentences = [line.split() for line in lines]
    known = {" ".join(sentence) for sentence in sentences} | {line.strip() for line in without}
    after_two, after_one = defaultdict(list), defaultdict(list)
    for sentence in sentences:
        padded = [BEGIN, BEGIN, *sentence, END]
        for first, second, third in zip(padded, padded[1:], padded[2:], strict=False):
            after_two[first, second].append(third)
            if second != BEGIN:
                after_one[second].append(third)
    generator, refused = random.Random(seed), 0
    while count > 0:
        sentence = _draw(after_two, after_one, generator) if sentences else []
        text = " ".join(sentence)
        if not words[0] <= len(sentence) <= words[1] or text in known:
            refused += 1
            if refused > 10_000:
                raise ValueError(f"trigrams: lines must be text enough for more sentences, got {len(sentences)} lines")
            continue
        known.add(text)
        refused, count = 0, count - 1
        yield text


def _draw(after_two: dict, after_one: dict, generator: random.Random) -> list[str]:
    """A sentence, or nothing where it finds no end."""
    first = second = BEGIN
    sentence = []
    while len(sentence) < ENDLESS:
        successors = after_two[first, second]
        if second != BEGIN and len(set(successors)) < FEW and generator.random() < 0.5:
            successors = after_one[second]
        word = generator.choice(successors)
        if word == END:
            return sentence
        sentence.append(word)
        first, second = second, word
    return []


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m janus_fast_corpus.trigrams", description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="FILE", help="text, one sentence a line")
    parser.add_argument("count", type=int, metavar="N", help="sentences to draw")
    parser.add_argument("--without", metavar="FILE", nargs="+", default=[], help="text whose sentences are not drawn")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the draws (default: 1)")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    without = [line for file in arguments.without for line in lines_of(file)]
    for sentence in draw_sentences(lines_of(arguments.file), arguments.count, without=without, seed=arguments.seed):
        print(sentence)


if __name__ == "__main__":
    main()
