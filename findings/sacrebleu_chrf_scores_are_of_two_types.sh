#!/bin/bash
# sacrebleu 2.6.0: corpus chrF is a Python float, or a numpy.float32 as soon as it is asked for with confidence intervals.
#
# One would guess one type. With n_bootstrap the n-gram counts are float32 arrays, so that scores are numpy.float32; where
# a resample shares no n-gram of any order, its score is the constant 0.0, a Python float. statistics.mean, by which
# sacreBLEU averages the resamples, refuses a list that holds both, so intervals of poor or very short translations end in
# a TypeError instead of a number. Take float() of each score if you average them yourself.
#
# Seen: float without resamples, numpy.float32 with 100; statistics.mean of one of each: TypeError.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sacrebleu==2.6.0
"$work/venv/bin/python" - <<'PYTHON'
import statistics
from sacrebleu.metrics import BLEU, CHRF

lines = [f"the {word} stands on the table" for word in ("cup", "plate", "glass", "bottle")]
references = [[f"a {word} is on the table" for word in ("cup", "plate", "glass", "bottle")]]
types = {}
for metric in (BLEU(), CHRF()):
    for resamples in (1, 100):
        score = metric.corpus_score(lines, references, n_bootstrap=resamples)
        chosen = score._mean if resamples > 1 and metric.__class__ is CHRF else score.score
        types[type(metric).__name__, resamples] = type(chosen).__name__
print(types)
assert types["CHRF", 1] == types["BLEU", 1] == types["BLEU", 100] == "float" and types["CHRF", 100] == "float32"
try:
    statistics.mean([0.0, score._mean])
except TypeError as error:
    print("statistics.mean:", error)
else:
    raise AssertionError("statistics.mean takes both types now")
PYTHON
