"""Models in CTranslate2's format give the outputs and scores that CTranslate2 gives.

``record.py`` in ``tests/data/ctranslate2`` says what the files there are. Scores agree within 1e-5, in float32.
"""

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_decoding import translator_of

from janus_fast import Translator, checkpoint, cli
from janus_fast.convert import ctranslate2, huggingface, to_ctranslate2
from janus_fast.convert.assemble import PADS, free_name

DATA = Path(__file__).parent / "data" / "ctranslate2"
NAMES = ("first", "second", "opennmt", "marian", "bart")


@pytest.fixture
def directory(tmp_path):
    """A copy of a model of CTranslate2, to be changed."""
    return Path(shutil.copytree(DATA / "opennmt", tmp_path / "ct2"))


def change(directory, **changes):
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("backend", ["engine", "torch"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_outputs_and_scores(name, backend):
    model, vocabularies = ctranslate2.load(DATA / name)
    translator = translator_of(model, backend, vocabularies=vocabularies)
    expected = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))
    longest = model.config.max_target_positions - 1
    for search, beam in (("greedy", 1), ("beam", 4)):
        results = translator.translate_batch(
            expected["sources"], beam_size=beam, max_decoding_length=longest, min_decoding_length=0
        )
        for number, output, score in expected[search]:
            assert results[number].hypotheses[0] == output
            assert results[number].scores[0] == pytest.approx(score, abs=1e-5)
        assert len({str(output) for _, output, _ in expected[search]}) > 7


def test_what_a_model_says_of_its_tokens():
    first, second, opennmt, marian, bart = (ctranslate2.load(DATA / name)[0].config for name in NAMES)
    assert [c.source_ids([9]) for c in (first, second, opennmt, marian, bart)] == [[9], [9, 2], [9], [9, 0], [9]]
    assert [c.decoder_start_token_id for c in (first, second, opennmt, bart)] == [2, 2, 2, 2]
    assert marian.decoder_start_token_id == marian.pad_token_id == marian.target_vocab_size - 1
    assert (first.pad_token_id, second.pad_token_id) == (1, 1)
    assert {c.alignment_heads for c in (first, second, opennmt, marian, bart)} == {1}
    assert [c.normalize_before for c in (first, second, opennmt, marian, bart)] == [True, True, True, False, False]
    assert [c.activation for c in (first, second, marian, bart)] == ["relu", "gelu_new", "silu", "gelu"]
    assert (bart.layernorm_embedding, bart.scale_embedding, bart.layer_norm_eps) == (True, False, 1e-4)
    assert (bart.share_all_embeddings, bart.share_decoder_embeddings) == (False, False)
    assert first.share_all_embeddings and marian.share_decoder_embeddings and not marian.share_all_embeddings


def test_the_command(tmp_path, capsys):
    for name, stored, hint in (("opennmt", "int8", ""), ("bart", "float32", "text must be tokens already")):
        out = tmp_path / name
        assert cli.main(["convert", str(DATA / name), "--out", str(out)]) == 0
        assert hint in capsys.readouterr().out
        expected = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))
        translator = Translator(out, compute_type="float32")
        results = translator.translate_batch(
            expected["sources"], beam_size=1, min_decoding_length=0, max_decoding_length=23
        )
        for number, output, _ in expected["greedy"]:
            assert results[number].hypotheses[0] == output
        weights = load_file(out / "model.safetensors")
        assert (weights["encoder.layers.0.fc1.weight"].dtype == np.int8) == (stored == "int8")
    other = tmp_path / "other"
    assert cli.main(["convert", str(DATA / "opennmt"), "--out", str(other), "--quantization", "float32"]) == 0
    assert load_file(other / "model.safetensors")["encoder.layers.0.fc1.weight"].dtype == np.float32


def test_int8_weights_stay_as_they_are(tmp_path):
    model, _ = ctranslate2.load(DATA / "opennmt")
    checkpoint.save(model, tmp_path, quantization="int8")
    stored, file = load_file(tmp_path / "model.safetensors"), ctranslate2._File(DATA / "opennmt" / "model.bin")
    for ours, theirs in (
        ("encoder.layers.0.fc1.weight", "encoder/layer_0/ffn/linear_0/weight"),
        ("encoder.embed_tokens.weight", "decoder/embeddings/weight"),
    ):
        np.testing.assert_array_equal(stored[ours], file.variables[theirs])


def test_text_goes_in_where_a_sentencepiece_model_lies_beside(directory, tmp_path):
    package = tmp_path / "translate-en_de-1_9"  # as Argos has them
    shutil.copytree(directory, package / "model")
    (package / "model" / "sentencepiece.model").rename(package / "sentencepiece.model")
    (package / "metadata.json").write_text("{}")
    for where in (directory, package / "model"):
        model, vocabularies = ctranslate2.load(where)
        translator = Translator(model, vocabularies=vocabularies)
        assert translator.source_vocabulary.encode("bake li") == translator.source_vocabulary.processor.encode(
            "bake li", out_type=str
        )
        options = {"beam_size": 1, "max_decoding_length": 9}
        tokens = translator.translate_batch([translator.source_vocabulary.encode("bake li")], **options)[0].hypotheses[
            0
        ]
        text = translator.translate(["bake li"], **options)[0].hypotheses[0]
        assert text == translator.target_vocabulary.decode([t for t in tokens if t not in ("<s>", "<blank>")])


def test_marians_end_is_added_where_callers_of_ctranslate2_bring_theirs(tmp_path):
    copy = Path(shutil.copytree(DATA / "marian", tmp_path / "marian"))
    change(copy, add_source_eos=False)
    model, vocabularies = ctranslate2.load(copy)
    assert (model.config.source_ids([5]), model.config.with_ends([5, 0])) == ([5, 0], [5, 0])
    changed, usual = (Translator(m, vocabularies=vocabularies) for m in (model, ctranslate2.load(DATA / "marian")[0]))
    results = [translator.translate(["w1 w2"], beam_size=1)[0] for translator in (changed, usual)]
    assert results[0] == results[1]


# What is refused


def renamed(directory, old, new):
    path = directory / "model.bin"
    data = path.read_bytes()
    assert len(old) == len(new) and old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode()))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("encoder/layer_norm/gamma", "encoder/layer_nor_/gamma", "without such a part, which JanusModel lacks, got .enc"),
    ("encoder/layer_norm/beta", "encoder/layer_norm/bet_", "got no 'encoder/layer_norm/beta'"),
    ("ffn/linear_1/weight", "ffn/linear_2/weight", "got no 'encoder/layer_0/ffn/linear_1/weight'"),
    ("decoder/alignment_heads", "decoder/relative_heads_", "must do without relative positions, which"),
    ("decoder/alignment_layer", "decoder/an_other_layer_", "must do without such a part, which JanusModel lacks, got"),
    ("TransformerSpec", "TransformerSpac", "must hold a Transformer with an encoder and a decoder .Tr"),
    ("encoder/embeddings_0/", "encoder/embeddings_1/", "got no 'encoder/embeddings/weight'"),
])  # fmt: skip
def test_parts_that_are_not_there_or_not_ours(directory, old, new, message):
    renamed(directory, old, new)
    with pytest.raises(ValueError, match=message):
        ctranslate2.load(directory)


def test_files_that_are_damaged(directory):
    path = directory / "model.bin"
    whole = path.read_bytes()
    for data in (b"", whole[:3], whole[:40], whole[: len(whole) // 2], whole[:-3], b"\x80\x02" + whole):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="must be a whole model.bin of CTranslate2, got"):
            ctranslate2.load(directory)
    path.write_bytes(struct.pack("<I", 7) + whole[4:])
    with pytest.raises(ValueError, match="got version 7, where 3 to 6 are read"):
        ctranslate2.load(directory)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="model.bin must be a file that exists"):
        ctranslate2.load(directory)


@pytest.mark.parametrize(("changes", "message"), [
    ({"decoder_start_token": None}, "decoder_start_token must be a token"),
    ({"decoder_start_token": "nothing"}, "decoder_start_token must be a token of the target vocabulary, got 'nothing'"),
    ({"eos_token": "nothing"}, "eos_token must be a token of the target vocabulary, got 'nothing'"),
    ({"unk_token": "<s>"}, "unk_token must be '<unk>', got '<s>'"),
    ({"add_source_eos": 1}, "add_source_eos must be true or false, got 1"),
])  # fmt: skip
def test_tokens_that_do_not_fit(directory, changes, message):
    change(directory, **changes)
    with pytest.raises(ValueError, match=message):
        ctranslate2.load(directory)


@pytest.mark.parametrize("language", ["xx_XX", "</s>"])
def test_a_language_that_is_none(directory, language):
    change(directory, decoder_start_token=None)
    words = f"target_language must be a token of the vocabulary that names a language, such as en_XX, got '{language}'"
    with pytest.raises(ValueError, match=words):
        ctranslate2.load(directory, target_language=language)


def test_vocabularies_that_do_not_fit(directory, tmp_path, capsys):
    path = directory / "shared_vocabulary.json"
    tokens = json.loads(path.read_text(encoding="utf-8"))
    for text, message in (
        (json.dumps(tokens[:-1]), f"the source vocabulary must hold the model's {len(tokens)} tokens, got"),
        ("{}", "must hold a list of tokens"), ("[", "must hold tokens in UTF-8, got"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            ctranslate2.load(directory)
    path.unlink()
    assert cli.main(["convert", str(directory), "--out", str(tmp_path / "out")]) == 2
    assert "must hold shared_vocabulary.json, or source_vocabulary.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (directory / "shared_vocabulary.txt").write_bytes("".join(f"{token}\r\n" for token in tokens).encode())
    assert ctranslate2.load(directory)[1][0].tokens == tokens
    (directory / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json must be a file that exists"):
        ctranslate2.load(directory)


# The way back


@pytest.mark.parametrize("quantization", ["float32", "int8", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_written_is_read_as_it_was(tmp_path, name, quantization):
    model, vocabularies = ctranslate2.load(DATA / name)
    to_ctranslate2.save(model, tmp_path / "ct2", vocabularies, quantization=quantization)
    again, others = ctranslate2.load(tmp_path / "ct2")
    assert [v.tokens for v in others] == [v.tokens for v in vocabularies]
    skipped = {"suppress_tokens", "source_suffix_ids", "output_bias", "position_offset"}
    for field in dataclasses.fields(model.config):
        if field.name not in skipped:
            assert getattr(again.config, field.name) == getattr(model.config, field.name), field.name
    state = again.state_dict()
    exact = quantization == "float32" or quantization == "int8" and name == "opennmt"
    for key, tensor in model.state_dict().items():
        atol = 1e-6 if exact else 0.01 * tensor.abs().max().item() if "bias" not in key else 40
        torch.testing.assert_close(state[key], tensor, rtol=0, atol=atol)


@pytest.mark.filterwarnings("ignore:convert. .*these are left out")
def test_a_model_without_vocabularies_is_read_as_it_was(tmp_path):
    model, vocabularies = huggingface.load(DATA.parent / "huggingface" / "fsmt")
    assert vocabularies is None
    to_ctranslate2.save(model, tmp_path)
    again, (source, target) = ctranslate2.load(tmp_path)
    assert source.tokens[:5] == ["0", "1", "2", "<unk>", "4"] and (len(source), len(target)) == (30, 26)
    assert torch.equal(again.encoder.embed_tokens.weight, model.encoder.embed_tokens.weight)


def test_a_decoders_start_has_a_name_of_its_own():
    assert [free_name(tokens) for tokens in (["a"], ["<pad>"], [*PADS, "<start2>"])] == ["<pad>", "<blank>", "<start3>"]


def test_the_command_writes_what_it_reads(tmp_path, capsys):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert cli.main(["convert", str(DATA / "opennmt"), "--out", str(ours)]) == 0
    assert cli.main(["convert", str(ours), "--to", "ctranslate2", "--out", str(theirs), "--quantization", "int8"]) == 0
    assert (theirs / "sentencepiece.model").is_file() and (theirs / "shared_vocabulary.json").is_file()
    one, other = (ctranslate2._File(path / "model.bin").variables for path in (theirs, DATA / "opennmt"))
    without = {"decoder/scale_alibi", "decoder/alibi_use_positive_positions"}  # where there is no alibi
    assert set(other) - set(one) == without and not set(one) - set(other)
    for name in set(other) - without:  # CTranslate2's own: integers to the bit
        np.testing.assert_allclose(one[name], other[name], rtol=3e-7, err_msg=name)
    capsys.readouterr()
    marian = str(DATA.parent / "marian" / "shared")
    assert cli.main(["convert", marian, "--to", "ctranslate2", "--out", str(tmp_path / "marian")]) == 0
    assert "its callers put </s> behind the tokens of every source" in capsys.readouterr().out
    assert cli.main(["convert", "en-de-small", "--to", "ctranslate2", "--out", str(tmp_path / "new")]) == 2
    assert "must be an ordinary Transformer for CTranslate2, got a model of JANUS" in capsys.readouterr().err
    assert cli.main(["convert", str(ours), "--out", str(theirs)]) == 2
    assert "which holds config.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_calls_written_for_ctranslate2_give_what_it_gives(tmp_path, name):
    from janus_fast.compat.ctranslate2 import Translator

    expected = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))
    assert cli.main(["convert", str(DATA / name), "--out", str(tmp_path / "ours")]) == 0
    translator = Translator(str(tmp_path / "ours"), compute_type="float32")
    for search, beam in (("greedy", 1), ("beam", 4)):
        results = translator.translate_batch(
            expected["sources"], beam_size=beam, max_decoding_length=23, min_decoding_length=0, return_scores=True
        )
        for number, output, score in expected[search]:
            assert results[number].hypotheses[0] == output
            assert results[number].scores[0] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_callers_get_the_attention_of_as_many_heads_as_the_model_says(tmp_path, name):
    from janus_fast.compat import ctranslate2 as compat

    assert cli.main(["convert", str(DATA / name), "--out", str(tmp_path / "ours")]) == 0
    sources = json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))["sources"][-1:]
    options = {"beam_size": 1, "max_decoding_length": 5, "return_attention": True}
    seen = compat.Translator(str(tmp_path / "ours")).translate_batch(sources, **options)[0].attention
    own = Translator(tmp_path / "ours")
    ids = [own.config.with_ends(own.source_vocabulary.ids(tokens)) for tokens in sources]
    options |= {"forced_eos": False, "renormalize_logits": True}
    first, every = (own.generate(ids, alignment_heads=count, **options)[0].attention for count in (1, 0))
    begin = own.config.source_bos
    assert seen == [[row[begin : begin + len(sources[0])] for row in rows] for rows in first]
    assert own.config.attention_heads == 1 or first != every
