#!/bin/bash
# rouge-score 0.1.2: identical Russian texts score 0, and "für Öl" is the same as "f r l".
#
# One would guess that ROUGE of a text with itself is 1. The default tokenizer lowers the text and takes whatever is not
# a-z or 0-9 for a space, in every language: German umlauts split words, so that different words may match by their
# halves, and texts of other scripts have no tokens at all, which scores 0 without a warning. For such text give
# RougeScorer a tokenizer of your own (tokenizer=, with a method tokenize), and say which when you quote a score.
#
# Seen, ROUGE-1 F: Russian with itself 0.0, with a tokenizer by spaces 1.0; "für Öl" and "f r l" 1.0; "über" and "uber" 0.0
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rouge-score==0.1.2
cat > "$work/scores.py" <<'PYTHON'
from rouge_score.rouge_scorer import RougeScorer


class Spaces:
    def tokenize(self, text):
        return text.lower().split()


def rouge(reference, text, **options):
    score = RougeScorer(["rouge1"], **options).score(reference, text)["rouge1"].fmeasure
    print(repr(reference), repr(text), *options, score)
    return score


assert rouge("Добрый день", "Добрый день") == 0
assert rouge("Добрый день", "Добрый день", tokenizer=Spaces()) == 1
assert rouge("für Öl", "f r l") == 1
assert rouge("über", "uber") == 0
PYTHON
"$work/venv/bin/python" "$work/scores.py"
