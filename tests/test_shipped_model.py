"""The shipped model on the committed test set: it translates, and native and reference kernels translate alike."""

import pytest
import torch

import janus_fast
from janus_fast import Translator, engine, evaluate, models
from janus_fast.data import test_set as committed_test_set
from janus_fast.objectives.masking import span_mask
from janus_fast.ops._operation import Operation

# what the model card says, less a point for the rounding of other processors
LEAST_BLEU = {"ar": 36.0, "nar": 28.7}
EVERY = 10  # each so manieth sentence is decoded by torch, with both kinds of kernels; by the engine all are
MODES = {"ar": {"beam_size": 1}, "nar": {"iterations": 4, "length_beam": 3}}
COMPUTE_TYPES = {"ar": "float32", "nar": "int8"}  # of the whole test set


def test_it_is_listed_and_small():
    assert "en-de-small" in models.names()
    folder = models.locate("en-de-small")
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "sentencepiece.model"} <= set(files)
    assert files["model.safetensors"] <= 20e6 and files["vmap.txt"] <= 1.5e6
    model, (source, target) = janus_fast.load("en-de-small")
    assert source is target and len(source) == model.config.source_vocab_size


@pytest.mark.parametrize("mode", MODES)
def test_it_translates_as_well_with_its_shortlist(mode):
    if engine.missing():
        pytest.skip("the engine is not built; `make demo` builds it")
    texts, references = (side[::EVERY] for side in committed_test_set())
    translator = Translator("en-de-small", backend="engine", compute_type="int8")
    free, short = (translator.translate(texts, mode=mode, use_vmap=use, **MODES[mode]) for use in (False, True))
    outputs = [[result.hypotheses[0] for result in results] for results in (free, short)]
    bleu = [evaluate.scores(own, references)["bleu"] for own in outputs]
    assert outputs[0] != outputs[1] and bleu[1] > bleu[0] - 1


def log_probs(compute_type: str, sources: list, targets: list) -> list[list[float]]:
    translator = Translator("en-de-small", backend="torch", compute_type=compute_type)
    return [result.log_probs for result in translator.score_batch(sources, targets)]


def margin(source: list[str], *targets: list[str]) -> float:
    """How far apart, in float64, the log-probabilities of the first words are in which two translations differ."""
    parting = next(
        n for n, words in enumerate(zip(*(t + ["</s>"] for t in targets), strict=False)) if len({*words}) > 1
    )
    one, other = log_probs("float64", [source] * 2, list(targets))
    return abs(one[parting] - other[parting])


def rounding_error(sources: list, targets: list) -> float:
    """The largest error of a word's log-probability in float32."""
    pairs = zip(log_probs("float32", sources, targets), log_probs("float64", sources, targets), strict=True)
    return max(abs(x - y) for pair in pairs for x, y in zip(*pair, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_it_translates_the_test_set_as_well_as_its_card_says(mode):
    if engine.missing():
        pytest.skip("the engine is not built; `make demo` builds it")
    texts, references = committed_test_set()
    translator = Translator("en-de-small", backend="engine", compute_type=COMPUTE_TYPES[mode])
    results = translator.translate(texts, mode=mode, **MODES[mode])
    assert evaluate.scores([result.hypotheses[0] for result in results], references)["bleu"] > LEAST_BLEU[mode]


@pytest.mark.parametrize("mode", MODES)
def test_native_and_reference_kernels_decode_the_test_set_alike(mode, monkeypatch):
    if "cpp" not in janus_fast.backends("attention"):
        pytest.skip("the native library is not built; `make setup` builds it")
    translator = Translator("en-de-small", backend="torch")
    sources = [translator.source_vocabulary.encode(text) for text in committed_test_set()[0][:: 2 * EVERY]]
    native = translator.translate_batch(sources, mode=mode, **MODES[mode])
    with monkeypatch.context() as patch:
        patch.setattr(Operation, "choose", lambda *arguments, **options: "reference")
        reference = translator.translate_batch(sources, mode=mode, **MODES[mode])
        differing = [
            (source, one.hypotheses[0], other.hypotheses[0])
            for source, one, other in zip(sources, native, reference, strict=True)
            if one.hypotheses != other.hypotheses
        ]
        # Words whose scores float32 cannot tell apart may fall out either way. On most processors none do.
        if mode == "ar" and differing:
            error = rounding_error(sources, [result.hypotheses[0] for result in native])
            differing = [words for words in differing if margin(*words) > 2 * error]
        assert differing == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_torch_s_default_dtype_changes_nothing(dtype):
    modes = {"ar": {"beam_size": 2}, "nar": {"iterations": 3}}

    def decode():
        translator = janus_fast.Translator("en-de-small", backend="torch")
        results = [translator.translate(["The cell is empty."], mode=m, **options)[0] for m, options in modes.items()]
        mask = span_mask(31, 0.7, torch.Generator().manual_seed(0))
        return [(r.hypotheses, r.scores) for r in results], mask.tolist()

    expected = decode()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert decode() == expected
    finally:
        torch.set_default_dtype(before)
