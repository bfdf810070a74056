"""Models that CTranslate2 stores give what CTranslate2 computes: tokens are equal, scores within 1e-5, in float32."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from janus_fast import Translator, cli

pytestmark = pytest.mark.peers
ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed here: make test-peers")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).parent / "data" / "ctranslate2"))
import record  # noqa: E402
from ctranslate2.specs import Activation, TransformerSpec  # noqa: E402

OPENNMT, FAIRSEQ, MARIAN = record.OPENNMT, record.FAIRSEQ, record.MARIAN
EOS = {"add_source_eos": True, "decoder_start_token": "</s>"}
# What the layout is made with; the type of weights; special tokens; separate vocabularies; the rest.
MODELS = {
    "opennmt": ({}, None, OPENNMT, False, {}),
    "post-norm": ({"pre_norm": False}, None, OPENNMT, False, {}),
    **{stored: ({}, stored, OPENNMT, False, {})
       for stored in ("float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16")},
    "gelu": ({"activation": Activation.GELU}, None, OPENNMT, True, {}),
    "gelu_new": ({"activation": Activation.GELUTanh}, None, OPENNMT, False, {}),
    "quick_gelu": ({"activation": Activation.GELUSigmoid, "pre_norm": False}, None, OPENNMT, False, {}),
    "silu": ({"activation": Activation.SWISH}, None, OPENNMT, True, {}),
    "norms of embeddings": ({"layernorm_embedding": True}, None, FAIRSEQ, False, EOS),
    "and post-norm": ({"layernorm_embedding": True, "pre_norm": False}, None, FAIRSEQ, True, {"scale": False}),
    "untied": ({}, None, OPENNMT, False, {"untied": True, "scale": 4.0}),
    "without bias": ({}, None, OPENNMT, False, {"without_bias": True}),
    "sines": ({}, None, OPENNMT, False, {"without_positions": True}),
    "marian": ({"pre_norm": False}, None, MARIAN, False, {**EOS, "zero": True}),
    "marian, separate": ({"pre_norm": False}, "int8", MARIAN, True, {"decoder_start_token": "</s>", "zero": True}),
    "fairseq": ({"pre_norm": False}, None, FAIRSEQ, True, {**EOS, "layer_norm_epsilon": 1e-3}),
    "begin and end": ({}, None, OPENNMT, False, {"add_source_eos": True, "add_source_bos": True}),
}  # fmt: skip
LONGEST = record.POSITIONS - 1


def make(directory: Path, name: str, attempt: int) -> list[str]:
    """Writes a random model, which ends the sooner the later the attempt; returns the tokens of its sources."""
    made_with, stored, specials, separate, rest = MODELS[name]
    spec = TransformerSpec.from_config((2, 2), 4, **made_with)
    source = specials + [f"w{i}" for i in range(40)]
    target = specials + [f"v{i}" for i in range(45)] if separate else source
    rest = {**rest, "eos": target.index("</s>")}
    record.fill(spec, np.random.default_rng(attempt), [len(source), len(target)], not separate, rest)
    spec.decoder.projection.bias[rest["eos"]] += attempt / 2
    if rest.get("without_bias"):
        spec.decoder.projection.bias = "__optional"
    if rest.get("without_positions"):
        spec.encoder.position_encodings.encodings = spec.decoder.position_encodings.encodings = "__optional"
    spec.decoder.start_from_zero_embedding = rest.get("zero", False)
    for key in ("add_source_bos", "add_source_eos", "decoder_start_token", "layer_norm_epsilon"):
        if key in rest:
            setattr(spec.config, key, rest[key])
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    spec.validate()
    spec.optimize(stored)
    directory.mkdir()
    spec.save(str(directory))
    return source[len(specials) :]


def check(theirs, ours, sources: list[list[str]], longest: int, brought: list[str]) -> int:
    """Compares the searches of two translators; returns how many outputs ended by themselves."""
    ended = 0
    for beam in (1, 4):
        options = {"beam_size": beam, "max_decoding_length": longest, "min_decoding_length": 0}
        expected = theirs.translate_batch([source + brought for source in sources], return_scores=True, **options)
        results = ours.translate_batch(sources, **options)
        for one, other in zip(results, expected, strict=True):
            ends = len(other.hypotheses[0]) < longest
            ended += ends
            if ends or beam == 1:
                assert one.hypotheses[0] == other.hypotheses[0]
            if ends:
                assert one.scores[0] == pytest.approx(other.scores[0], abs=1e-5)
    return ended


@pytest.mark.parametrize("name", MODELS)
def test_the_same_outputs_and_scores(tmp_path, name):
    draw, ended = random.Random(1), 0
    for attempt in range(12):
        words = make(tmp_path / f"ct2-{attempt}", name, attempt)
        assert cli.main(["convert", str(tmp_path / f"ct2-{attempt}"), "--out", str(tmp_path / f"{attempt}")]) == 0
        theirs = ctranslate2.Translator(str(tmp_path / f"ct2-{attempt}"), compute_type="float32")
        ours = Translator(tmp_path / f"{attempt}", compute_type="float32")
        sources = [draw.choices(words, k=draw.randint(1, 12)) for _ in range(20)]
        brought = ["</s>"] if ours.config.source_suffix_ids else []  # by their callers
        ended += check(theirs, ours, sources, LONGEST, brought)
        if ended > 30:
            return
    raise AssertionError(f"only {ended} outputs end")


@pytest.mark.parametrize("beam", [1, 4])
def test_shortlists_are_those_of_ctranslate2(tmp_path, beam):
    """Sentence by sentence, as CTranslate2 takes the words of all sentences of a batch."""
    from janus_fast.compat import ctranslate2 as compat

    draw, shortened, options = random.Random(2), 0, {"beam_size": beam, "max_decoding_length": LONGEST}
    for attempt in (4, 6):
        words = make(tmp_path / f"ct2-{attempt}", "opennmt", attempt)
        rules = {"": words[:3], **{word: draw.sample(words, 4) for word in words[:-5]}}
        rules |= {f"{one} {two}": draw.sample(words, 2) for one, two in zip(words, words[1:], strict=False)}
        lines = [f"{phrase}\t{' '.join(own)}\n" for phrase, own in rules.items()]
        (tmp_path / f"ct2-{attempt}" / "vmap.txt").write_text("".join(lines))
        assert cli.main(["convert", str(tmp_path / f"ct2-{attempt}"), "--out", str(tmp_path / f"{attempt}")]) == 0
        theirs = ctranslate2.Translator(str(tmp_path / f"ct2-{attempt}"), compute_type="float32")
        ours = compat.Translator(str(tmp_path / f"{attempt}"), compute_type="float32")
        begins = [draw.randrange(len(words) - 6) for _ in range(20)]
        sources = [words[at : at + draw.randint(1, 5)] for at in begins]  # which hold phrases
        results = ours.translate_batch(sources, use_vmap=True, return_scores=True, **options)
        free = ours.translate_batch(sources, **options)
        for source, result, other in zip(sources, results, free, strict=True):
            (expected,) = theirs.translate_batch([source], use_vmap=True, return_scores=True, **options)
            assert result.hypotheses == expected.hypotheses
            assert result.scores[0] == pytest.approx(expected.scores[0], abs=1e-5)
            shortened += result.hypotheses != other.hypotheses
    assert shortened > 20


# What we write

OURS = {
    "pre-norm": {"normalize_before": True},
    "gelu, embeddings' norms": {"activation": "gelu", "layernorm_embedding": True, "scale_embedding": False},
    "sines, separate": {
        "positions": "sinusoidal", "position_offset": 2, "share_all_embeddings": False, "source_vocab_size": 37,
        "activation": "quick_gelu",
    },
    "untied": {"share_all_embeddings": False, "share_decoder_embeddings": False, "layer_norm_eps": 1e-3},
    "as trained here": {"suppress_tokens": None, "normalize_before": True},
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
def test_ctranslate2_computes_what_we_do(tmp_path, name, stored):
    import torch

    from janus_fast import JanusConfig, JanusModel, Vocabulary
    from janus_fast.checkpoint import save

    torch.manual_seed(3)
    settings = {
        "source_vocab_size": 44, "target_vocab_size": 44, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_source_positions": 32, "max_target_positions": 24,
        "two_stream": False, "mask_token_id": 3, "decoder_start_token_id": 2, "suppress_tokens": (),
        "output_bias": True,
    }  # fmt: skip
    model = JanusModel(JanusConfig(**{**settings, **OURS[name]})).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key and key.endswith("weight"):
                parameter.uniform_(0.7, 1.3).mul_(torch.where(torch.rand_like(parameter) < 0.5, -1.0, 1.0))
            elif parameter.dim() == 2:
                parameter.normal_(0, 0.3)
        model.output_bias.normal_(0, 0.3)
        model.output_bias[2] += 4
    sides = [
        Vocabulary(["<s>", "<pad>", "</s>", "<unk>", *(f"{letter}{i}" for i in range(size - 4))])
        for letter, size in (("w", model.config.source_vocab_size), ("v", 44))
    ]
    if model.config.share_all_embeddings:
        sides[1] = sides[0]
    save(model, tmp_path / "ours", sides, quantization=stored)
    command = ["convert", str(tmp_path / "ours"), "--to", "ctranslate2", "--out", str(tmp_path / "ct2")]
    assert cli.main([*command, "--quantization", stored]) == 0
    theirs = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="float32")
    ours, draw, words = Translator(tmp_path / "ours", compute_type="float32"), random.Random(5), sides[0].tokens[4:]
    sources = [draw.choices(words, k=draw.randint(1, 12)) for _ in range(40)]
    if name != "as trained here":
        assert check(theirs, ours, sources, LONGEST - 1, []) > 10
        return
    options = {"beam_size": 1, "max_decoding_length": LONGEST - 1, "min_decoding_length": 0}
    expected = theirs.translate_batch(sources, **options)
    results = ours.translate_batch(sources, **options)
    assert [r.hypotheses[0] for r in results] == [r.hypotheses[0] for r in expected]
    assert not any({"<s>", "<pad>"} & {*r.hypotheses[0]} for r in results)


# What CTranslate2's own converter makes of models of Hugging Face


def as_before(original: Path, copy: Path, name: str) -> Path:
    """A copy with settings that transformers 5.23 leaves out, and CTranslate2 4.8.5 asks for."""
    shutil.copytree(original, copy)
    values = json.loads((copy / "config.json").read_text())
    values |= {"normalize_before": name in ("mbart", "pegasus"), "normalize_embedding": name in ("bart", "mbart")}
    if name != "marian":
        (copy / "config.json").write_text(json.dumps(values))
    return copy


@pytest.mark.parametrize("stored", [None, "int8"])
@pytest.mark.parametrize("name", ["bart", "nllb", "pegasus", "marian"])
def test_models_that_were_converted_before(tmp_path, name, stored):
    pytest.importorskip("transformers", reason="transformers is not installed here: make test-peers")
    from ctranslate2.converters import TransformersConverter

    data = Path(__file__).parent / "data"
    original = data / "marian" / "shared" if name == "marian" else data / "huggingface" / name
    converter = TransformersConverter(str(as_before(original, tmp_path / "hf", name)))
    converter.convert(str(tmp_path / "ct2"), quantization=stored)
    assert cli.main(["convert", str(tmp_path / "ct2"), "--out", str(tmp_path / "ours")]) == 0
    theirs = ctranslate2.Translator(str(tmp_path / "ct2"), compute_type="float32")
    ours, draw = Translator(tmp_path / "ours", compute_type="float32"), random.Random(2)
    words = [token for token in ours.source_vocabulary.tokens if token[:1] not in "<>"]
    begin = {"bart": ["<s>"], "nllb": ["eng_Latn"]}.get(name, [])  # as their tokenizers do
    end = ["</s>"] if not ours.config.source_suffix_ids else []
    sources = [[*begin, *draw.choices(words, k=draw.randint(1, 8)), *end] for _ in range(30)]
    assert check(theirs, ours, sources, 19, ["</s>"] if not end else []) > 5


def test_models_whose_callers_begin_targets(tmp_path, capsys):
    """By the interface of CTranslate2 as there, and as text: mBART-25, which is given the language that it writes."""
    pytest.importorskip("transformers", reason="transformers is not installed here: make test-peers")
    from ctranslate2.converters import TransformersConverter

    from janus_fast.compat import ctranslate2 as face

    original, ct2, out = Path(__file__).parent / "data" / "huggingface" / "mbart", tmp_path / "ct2", tmp_path / "ours"
    TransformersConverter(str(as_before(original, tmp_path / "hf", "mbart"))).convert(str(ct2), quantization="float32")
    command, languages = ["convert", str(ct2), "--out"], ["--source-language", "en_XX", "--target-language", "de_DE"]
    rule = "must be a token of the vocabulary that names a language, such as en_XX"
    for options, message in (
        ([], "decoder_start_token must be a token, got null: each call's target_prefix begins with one of its own"),
        (["--target-language", "xx_XX"], f"--target-language {rule}, got 'xx_XX'"),
        (["--target-language", "</s>"], f"--target-language {rule}, got '</s>'"),
        (["--source-language", "xx_XX", *languages[2:]], f"--source-language {rule}, got 'xx_XX'"),
        (["--source-language", "<unk>", *languages[2:]], f"--source-language {rule}, got '<unk>'"),
    ):
        assert cli.main([*command, str(out), *options]) == 2 and message in capsys.readouterr().err
    assert cli.main([*command, str(out), *languages[2:]]) == 0 and "or --source-language" in capsys.readouterr().out
    assert cli.main([*command, str(tmp_path / "text"), *languages]) == 0 and "brin" not in capsys.readouterr().out

    theirs, ours = ctranslate2.Translator(str(ct2)), face.Translator(str(out), compute_type="float32")
    own, draw = Translator(tmp_path / "text", compute_type="float32"), random.Random(2)
    words = [token for token in own.source_vocabulary.tokens[4:-30] if token[:1] not in "<>"]
    sources = [draw.choices(words, k=draw.randint(1, 8)) for _ in range(40)]
    ended = [[*source, "</s>", "en_XX"] for source in sources]
    outputs = set()
    for beam in (1, 3):
        for prefix in (["de_DE"], ["de_DE", words[3]]):
            call = ended, [prefix] * len(ended)
            options = {"beam_size": beam, "num_hypotheses": beam, "max_decoding_length": 12, "return_scores": True}
            expected, results = theirs.translate_batch(*call, **options), ours.translate_batch(*call, **options)
            for one, other in zip(results, expected, strict=True):
                assert one.hypotheses == other.hypotheses
                assert one.scores == pytest.approx(other.scores, abs=1e-5)
                outputs.update(map(tuple, one.hypotheses))
        plain = {"beam_size": beam, "num_hypotheses": beam, "max_decoding_length": 12, "forced_eos": False}
        texts = own.translate_batch(sources, renormalize_logits=True, **plain)
        assert [result.hypotheses[0] for result in texts] == [
            result.hypotheses[0] for result in ours.translate_batch(ended, [["de_DE"]] * 40, **options)
        ]
    assert len(outputs) > 40
    targets = [["de_DE", *draw.choices(words, k=3)] for _ in ended]
    for one, other in zip(ours.score_batch(ended, targets), theirs.score_batch(ended, targets), strict=True):
        assert one.tokens == other.tokens and one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    with pytest.raises(ValueError, match="target_prefix 1 must begin with 'de_DE', or be empty, got 'ro_RO'"):
        ours.translate_batch(ended[:2], [[], ["ro_RO"]])
