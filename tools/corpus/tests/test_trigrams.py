"""Sentences drawn from a trigram model."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import janus_fast_corpus
from janus_fast_corpus.trigrams import draw_sentences

GENERATOR = random.Random(0)
WORDS = "open close save print the a new old table row cell file window".split()
TEXT = [" ".join(GENERATOR.choices(WORDS, k=GENERATOR.randint(3, 9))) for _ in range(300)]


def test_sentences_are_new_and_made_of_known_pairs_of_words():
    drawn = list(draw_sentences(TEXT, 200, without=["the table row"], seed=3))
    assert len(set(drawn)) == 200 and not set(drawn) & {*TEXT, "the table row"}
    pairs = {pair for line in TEXT for pair in zip(line.split(), line.split()[1:], strict=False)}
    begins, ends = {line.split()[0] for line in TEXT}, {line.split()[-1] for line in TEXT}
    for sentence in map(str.split, drawn):
        assert 3 <= len(sentence) <= 32 and sentence[0] in begins and sentence[-1] in ends
        assert set(zip(sentence, sentence[1:], strict=False)) <= pairs


def test_a_seed_gives_the_same_sentences():
    assert list(draw_sentences(TEXT, 50, seed=3)) == list(draw_sentences(TEXT, 50, seed=3))
    assert list(draw_sentences(TEXT, 50, seed=3)) != list(draw_sentences(TEXT, 50, seed=4))


@pytest.mark.parametrize("lines", [[], ["only one sentence"]])
def test_text_that_has_no_other_sentences_is_refused(lines):
    with pytest.raises(ValueError, match=f"trigrams: lines must .* got {len(lines)} lines"):
        list(draw_sentences(lines, 1))


def test_command(tmp_path):
    (tmp_path / "train.en").write_text("\n".join(TEXT) + "\n", encoding="utf-8")
    (tmp_path / "valid.en").write_text("the table row\n", encoding="utf-8")
    command = [sys.executable, "-m", "janus_fast_corpus.trigrams", tmp_path / "train.en", "20", "--seed", "3"]
    command += ["--without", tmp_path / "valid.en"]
    folder = Path(janus_fast_corpus.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert printed.splitlines() == list(draw_sentences(TEXT, 20, without=["the table row"], seed=3))
