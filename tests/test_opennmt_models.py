"""Transformers of OpenNMT-py give the outputs and log-probabilities that OpenNMT-py's modules give.

``record.py`` in ``tests/data/opennmt`` says what the files there are.
"""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from test_decoding import translator_of

from janus_fast import Translator, cli
from janus_fast.convert import opennmt

DATA = Path(__file__).parent / "data" / "opennmt"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("backend", ["engine", "torch"])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_outputs_and_scores(name, backend):
    model, vocabularies = opennmt.load(DATA / f"{name}.pt")
    translator = translator_of(model, backend, vocabularies=vocabularies)
    sources = [source for source, _, _ in EXPECTED[name]]
    results = translator.translate_batch(sources, beam_size=1, min_decoding_length=0, max_decoding_length=20)
    for result, (_, output, score) in zip(results, EXPECTED[name], strict=True):
        assert result.hypotheses[0] == output
        assert result.scores[0] == pytest.approx(score, abs=1e-5)
    assert len({str(output) for _, output, _ in EXPECTED[name]}) > 5


def test_what_a_model_says():
    plain, biased = (opennmt.load(DATA / f"{name}.pt")[0].config for name in ("plain", "biased"))
    assert (plain.normalize_before, plain.layer_norm_eps, plain.activation, biased.activation) == (
        True, 1e-6, "relu", "gelu",
    )  # fmt: skip
    assert plain.source_ids([7]) == [7] and plain.decoder_start_token_id == 2 and plain.suppress_tokens == ()
    assert (plain.source_vocab_size, plain.target_vocab_size) == (26, 22)


def test_the_command(tmp_path, capsys):
    assert cli.main(["convert", str(DATA / "plain.pt"), "--out", str(tmp_path / "ours")]) == 0
    assert "text must be tokens already, with spaces between them" in capsys.readouterr().out
    source, output, _ = EXPECTED["plain"][0]
    result = Translator(tmp_path / "ours").translate([" ".join(source)], beam_size=1, min_decoding_length=0)[0]
    assert result.hypotheses[0] == " ".join(output)
    for option in ("--source-dict", "--source-language"):
        new = str(tmp_path / "new")
        assert cli.main(["convert", str(DATA / "plain.pt"), "--out", new, option, "x"]) == 2
        assert f"{option} must be left out with a checkpoint" in capsys.readouterr().err


class Field:
    """Like what torchtext and OpenNMT-py pickled: attributes of a class that is not there when it is read."""


@pytest.fixture
def contents():
    """A checkpoint's contents, to be changed."""
    found = torch.load(DATA / "plain.pt", weights_only=False)
    found["opt"] = argparse.Namespace(**{**vars(found["opt"])})
    return found


def save(contents, path):
    torch.save(contents, path)
    return path


def test_vocabularies_of_earlier_releases(tmp_path, contents, monkeypatch):
    monkeypatch.setattr(Field, "__module__", "onmt")
    monkeypatch.setitem(sys.modules, "onmt", argparse.Namespace(Field=Field))
    tokens = [contents["vocab"][side] for side in ("src", "tgt")]

    def vocab(side):
        field = Field()
        field.itos = tokens[side]
        return field

    def multi(side):
        field, several = Field(), Field()
        field.vocab, several.fields = vocab(side), [("x", field)]
        return several

    for vocabularies in ([("src", vocab(0)), ("tgt", vocab(1))], {"src": multi(0), "tgt": multi(1)}):
        _, found = opennmt.load(save(contents | {"vocab": vocabularies}, tmp_path / "a.pt"))
        assert [v.tokens for v in found] == tokens


@pytest.mark.parametrize(("options", "message"), [
    ({"decoder_type": "rnn"}, "decoder_type must be 'transformer' .JanusModel has no other., got 'rnn'"),
    ({"max_relative_positions": 20}, "max_relative_positions must be 0"),
    ({"copy_attn": True}, "copy_attn must be False"),
    ({"layer_norm": "rms"}, "layer_norm must be 'standard'"),
    ({"pos_ffn_activation_fn": "gated-gelu"}, "pos_ffn_activation_fn must be one of"),
    ({"num_kv": 1}, "num_kv must be 0"),
])  # fmt: skip
def test_options_that_are_refused(tmp_path, contents, options, message):
    vars(contents["opt"]).update(options)
    with pytest.raises(ValueError, match=message):
        opennmt.load(save(contents, tmp_path / "a.pt"))


def test_contents_that_are_refused(tmp_path, contents):
    vocabulary = contents["vocab"]
    for vocab, message in (
        (vocabulary | {"src_feats": [["a"]]}, "must do without features of source tokens"),
        (vocabulary | {"src": "abc"}, "must hold the tokens of 'src' as one list, got str"),
        (vocabulary | {"src": vocabulary["src"][1:]}, "must have '<unk>' in its source vocabulary"),
        (vocabulary | {"tgt": vocabulary["tgt"][:-1]}, "target_vocab_size must be what the configuration says, 21"),
        (vocabulary | {"decoder_start_token": "x"}, "must have 'x' in its target vocabulary"),
    ):
        with pytest.raises(ValueError, match=message):
            opennmt.load(save(contents | {"vocab": vocab}, tmp_path / "a.pt"))
    for vocab in ([1, 2], {"src": {"fields": [1]}, "tgt": {}}, None, 3, torch.zeros(2)):
        with pytest.raises(ValueError, match="must hold the tokens of 'src' as one list, got"):
            opennmt.load(save(contents | {"vocab": vocab}, tmp_path / "a.pt"))
    for options in (None, torch.zeros(2), [1], "x"):
        with pytest.raises(ValueError, match="must be a checkpoint of OpenNMT-py with its options in 'opt'"):
            opennmt.load(save(contents | {"opt": options}, tmp_path / "a.pt"))
    for end in ("make_embedding.emb_luts.0.weight", "make_embedding.pe.pe"):
        for value in (torch.zeros(16), torch.tensor(1.0)):
            changed = contents | {"model": contents["model"] | {f"encoder.embeddings.{end}": value}}
            with pytest.raises(ValueError, match="must be a matrix, got shape"):
                opennmt.load(save(changed, tmp_path / "a.pt"))
    model = dict(contents["model"])
    model["encoder.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match="must hold the parameters of the model alone, got 'encoder.extra'"):
        opennmt.load(save(contents | {"model": model}, tmp_path / "a.pt"))
    assert not opennmt.recognises(save({"model": {}}, tmp_path / "b.pt"))
