"""What CTranslate2's interface returns is what CTranslate2 returns, option by option."""

import json
from pathlib import Path

import pytest
import torch
from ctranslate2_calls import CALLS, call, differ, sources
from test_decoding import make_model

from janus_fast import Vocabulary, engine, save
from janus_fast.compat import ctranslate2
from janus_fast.convert import marian

if engine.missing():
    pytest.skip(engine.missing(), allow_module_level=True)

DATA = Path(__file__).parent / "data"
MARIAN = DATA / "marian" / "shared"
EXPECTED = json.loads((DATA / "ctranslate2_calls" / "expected.json").read_text(encoding="utf-8"))


def convert(directory: Path, output: Path) -> ctranslate2.Translator:
    model, vocabularies = marian.load(directory)
    save(model, output, vocabularies)
    return ctranslate2.Translator(str(output), compute_type="float32")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return convert(MARIAN, tmp_path_factory.mktemp("search") / "model")


@pytest.mark.parametrize("name", EXPECTED)
def test_what_it_returned_is_returned(translator, name):
    tokens = [[*words, "</s>"] for words in sources(4)]
    for result, expected in zip(call(translator, name, tokens), EXPECTED[name], strict=True):
        assert [" ".join(tokens) for tokens in result.hypotheses] == [text for text, _ in expected]
        pairs = [(own, score) for own, (_, score) in zip(result.scores, expected, strict=True) if score is not None]
        assert [own for own, _ in pairs] == pytest.approx([score for _, score in pairs], abs=1e-4)


def test_a_greedy_search_has_no_patience(translator):
    tokens, options = [[*words, "</s>"] for words in sources(40)], {"beam_size": 1, "max_decoding_length": 9}
    assert translator.translate_batch(tokens, patience=5, **options) == translator.translate_batch(tokens, **options)


# Beside the library itself, where it is installed: make test-peers


@torch.no_grad()
def draw(model: torch.nn.Module, seed: int) -> None:
    """Random weights with which outputs are neither loops nor noise."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if weight.dim() == 1:
            norms = "norm" in name and name.endswith("weight")
            weight.uniform_(0.7, 1.3).mul_(torch.randn_like(weight).sign()) if norms else weight.normal_(0, 0.1)
        elif "embed_positions" not in name:
            scale = 2.0 if "q_proj" in name or "k_proj" in name else 1.2 if "fc" in name else 0.8
            weight.normal_(0, 0.2 if "embed" in name or "shared" in name else scale * weight.shape[1] ** -0.5)


def random_marian(folder: Path) -> Path:
    """A model of random weights with the vocabulary of the recorded one."""
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    tokenizer = MarianTokenizer.from_pretrained(MARIAN)
    config = MarianConfig.from_pretrained(MARIAN)
    config.update({"d_model": 48, "encoder_layers": 2, "activation_function": "relu", "scale_embedding": False})
    model = MarianMTModel(config).eval()
    draw(model, 3)
    model.final_logits_bias[0, 0] = 2.0
    with torch.no_grad():
        model.model.shared.weight[-1] = 0.0  # Marian starts from no embedding, which is that of its pad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ordinary(folder: Path):
    """A Transformer of random weights in both libraries, whose tokens are those of the recorded model."""
    import ctranslate2 as theirs

    from benchmarks.peers.ctranslate2 import convert as to_ctranslate2

    names = json.loads((MARIAN / "vocab.json").read_text(encoding="utf-8"))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(n for n in names if n not in ("</s>", "<unk>", "<pad>"))]
    model = make_model(len(tokens), seed=6, two_stream=False, output_bias=True, attention_heads=1)
    draw(model, 4)
    with torch.no_grad():
        model.output_bias[[0, 1, 4]] = -30.0  # what a trained model never says
        model.output_bias[2] = 2.5
    vocabulary = Vocabulary(tokens)
    save(model, folder, (vocabulary, vocabulary))
    to_ctranslate2(folder, folder / "ct2")
    (folder / "ct2" / "shared_vocabulary.json").write_text(json.dumps(tokens), encoding="utf-8")
    config = json.loads((folder / "ct2" / "config.json").read_text())
    config |= {"add_source_bos": True, "add_source_eos": True, "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"unk_token": "<unk>", "decoder_start_token": "<s>"}
    (folder / "ct2" / "config.json").write_text(json.dumps(config))
    own = ctranslate2.Translator(str(folder), compute_type="float32")
    return own, theirs.Translator(str(folder / "ct2"), compute_type="float32"), []


@pytest.fixture(scope="module", params=["recorded", "random", "ordinary"])
def both(request, tmp_path_factory):
    """A translator of ours, one of theirs, and what ends their sources."""
    theirs = pytest.importorskip("ctranslate2", reason="make test-peers runs this beside ctranslate2")
    pytest.importorskip("transformers", reason="make test-peers runs this beside transformers")
    folder = tmp_path_factory.mktemp("both")
    if request.param == "ordinary":
        return ordinary(folder / "own")
    directory = MARIAN if request.param == "recorded" else random_marian(folder / "marian")
    theirs.converters.TransformersConverter(str(directory)).convert(str(folder / "theirs"))
    return (
        convert(directory, folder / "own"),
        theirs.Translator(str(folder / "theirs"), compute_type="float32"),
        ["</s>"],
    )


@pytest.mark.peers
@pytest.mark.parametrize("name", CALLS)
def test_both_libraries_return_the_same(both, name):
    own, theirs, end = both
    if end and "not_marian" in CALLS[name]:
        pytest.skip("of Marian's models CTranslate2 4.8.5 does not scale the prefix")
    tokens = [[*words, *end] for words in sources(100)]
    pairs = list(zip(call(own, name, tokens), call(theirs, name, tokens), strict=True))
    same = [pair for pair in pairs if pair[0].hypotheses == pair[1].hypotheses]
    assert len(same) >= 0.99 * len(pairs), [p for p in pairs if p not in same][:2]
    assert max(differ(*pair) for pair in same) <= 1e-4


@pytest.mark.peers
def test_given_translations_are_scored_alike(both):
    own, theirs, end = both
    tokens, targets = [[*words, *end] for words in sources(20)] + [[]], sources(40)[19:]
    for options in ({}, {"max_input_length": 5}, {"offset": 2}, {"max_batch_size": 3}):
        found = [translator.score_batch(tokens, targets, **options) for translator in (own, theirs)]
        for one, other in zip(*found, strict=True):
            assert one.tokens == other.tokens
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


@pytest.mark.peers
def test_steps_are_told_alike(both):
    own, theirs, end = both
    fields = ("step", "batch_id", "token_id", "hypothesis_id", "token", "is_last")
    for words in sources(6):
        found = [
            list(translator.generate_tokens([*words, *end], ["▁ba"], max_decoding_length=9, return_log_prob=True))
            for translator in (own, theirs)
        ]
        for one, other in zip(*found, strict=True):
            assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


@pytest.mark.peers
def test_signatures_are_theirs():
    """The names and defaults of what both have, read from the library's docstrings."""
    import inspect
    import re

    theirs = pytest.importorskip("ctranslate2", reason="make test-peers runs this beside ctranslate2")
    for name in ("__init__", "translate_batch", "translate_file", "score_batch", "score_file", "generate_tokens"):
        function = getattr(theirs.Translator, name)
        if name == "generate_tokens":
            expected = {n: p.default for n, p in inspect.signature(function).parameters.items()}
            expected = {n: d for n, d in expected.items() if d is not inspect.Parameter.empty}
        else:
            line = function.__doc__.splitlines()[0]
            expected = {n: eval(d) for n, d in re.findall(r"(\w+): [^:=]* = ('[^']*'|[^,)]+)", line)}  # noqa: S307
        own = inspect.signature(getattr(ctranslate2.Translator, name)).parameters
        own = {n: p.default for n, p in own.items() if p.default is not p.empty}
        assert own == expected, name
    members = {n for n in dir(theirs.Translator) if not n.startswith("_")}
    instance = {"device", "device_index", "compute_type", "num_translators", "tensor_parallel"}
    assert members <= {n for n in dir(ctranslate2.Translator)} | instance
    for kind in ("TranslationResult", "ScoringResult", "GenerationStepResult", "ExecutionStats"):
        fields = {n for n in dir(getattr(theirs, kind)) if not n.startswith("_")}
        assert fields == set(getattr(ctranslate2, kind).__dataclass_fields__)
