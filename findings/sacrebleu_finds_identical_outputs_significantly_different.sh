#!/bin/bash
# sacrebleu 2.6.0: the paired tests call a system significantly different from a copy of itself.
#
# One would guess a p-value of 1 for two files with the same lines: there is no difference that chance could explain any
# better. Both tests, --paired-bs and --paired-ar, count only resamples whose statistic is strictly above the difference
# seen, 0; none is, and the p-value is the least there can be, 1 / (samples + 1). On the command line it has the asterisk
# of p < 0.05. So compare outputs before testing them.
#
# Seen: p = 0.000999 for BLEU and for chrF, by bootstrap and by approximate randomization with 1,000 samples.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sacrebleu==2.6.0
"$work/venv/bin/python" - <<'PYTHON'
import random
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

generator, words = random.Random(1), [f"word{n}" for n in range(50)]
references = [" ".join(generator.choices(words, k=12)) for _ in range(100)]
output = [" ".join(w if generator.random() < 0.7 else "other" for w in line.split()) for line in references]
for kind in ("bs", "ar"):
    systems = [("baseline", output), ("copy", list(output))]
    metrics = {"BLEU": BLEU(references=[references]), "chrF": CHRF(references=[references])}
    _, results = PairedTest(systems, metrics, references=None, test_type=kind, n_samples=1000)()
    for name in ("BLEU", "chrF2"):
        baseline, copy = results[name]
        print(kind, name, f"{baseline.score:.2f} {copy.score:.2f} p = {copy.p_value:.6f}")
        assert baseline.score == copy.score and copy.p_value == 1 / 1001
PYTHON
