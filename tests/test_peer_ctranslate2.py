"""Models that CTranslate2 stores give what CTranslate2 computes: tokens are equal, scores within 1e-5, in float32."""

import random
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
