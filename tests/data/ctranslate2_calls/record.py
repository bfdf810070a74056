"""Records what CTranslate2 makes of the calls in tests/ctranslate2_calls.py, with the model of marian/shared.

    python record.py        in an environment with torch, sentencepiece, transformers 5.23 and ctranslate2 4.8.5

``expected.json`` holds for each call and source the hypotheses, tokens divided by spaces, and their scores.
"""

import json
import sys
import tempfile
from pathlib import Path

import ctranslate2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from ctranslate2_calls import CALLS, JUNK, call, sources  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    ctranslate2.converters.TransformersConverter(str(HERE.parent / "marian" / "shared")).convert(folder, force=True)
    translator = ctranslate2.Translator(folder, compute_type="float32")
    tokens = [[*words, "</s>"] for words in sources(4)]
    expected = {
        name: [
            [[" ".join(h), round(s, 5) if s > JUNK else None] for h, s in zip(r.hypotheses, r.scores, strict=True)]
            for r in call(translator, name, tokens)
        ]
        for name, options in CALLS.items()
        if "not_marian" not in options
    }
lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(found, ensure_ascii=False)}" for n, found in expected.items())
(HERE / "expected.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")
