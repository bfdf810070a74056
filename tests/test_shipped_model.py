"""The shipped model on the committed test set: it translates, and native and reference kernels translate alike."""

import pytest

import janus_fast
from janus_fast import Translator, evaluate, models
from janus_fast.data import test_set as committed_test_set
from janus_fast.ops._operation import Operation

# what the model card says, less a point for the rounding of other processors
LEAST_BLEU = {"ar": 31.2, "nar": 24.6}
MODES = {"ar": {"beam_size": 1}, "nar": {"iterations": 4, "length_beam": 3}}


def test_it_is_listed_and_small():
    assert "en-de-small" in models.names()
    folder = models.locate("en-de-small")
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "sentencepiece.model"} <= set(files)
    assert files["model.safetensors"] <= 20e6
    model, (source, target) = janus_fast.load("en-de-small")
    assert source is target and len(source) == model.config.source_vocab_size


@pytest.mark.parametrize("mode", MODES)
def test_native_and_reference_kernels_decode_the_test_set_alike(mode, monkeypatch):
    if "cpp" not in janus_fast.backends("attention"):
        pytest.skip("the native library is not built; `make setup` builds it")
    translator, (sources, references) = Translator("en-de-small", backend="torch"), committed_test_set()
    native = translator.translate(sources, mode=mode, **MODES[mode])
    monkeypatch.setattr(Operation, "choose", lambda *arguments, **options: "reference")
    reference = translator.translate(sources, mode=mode, **MODES[mode])
    pairs = enumerate(zip(native, reference, strict=True))
    assert [n for n, (one, other) in pairs if one.hypotheses != other.hypotheses] == []
    bleu = evaluate.scores([result.hypotheses[0] for result in native], references)["bleu"]
    assert bleu > LEAST_BLEU[mode]
