"""BART, mBART, M2M100, Pegasus and FSMT in Hugging Face's format give the outputs and scores that transformers gives.

``record.py`` in ``tests/data/huggingface`` says what the files there are. Scores agree within 1e-5, in float32.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_decoding import translator_of
from test_marian import change, change_tensors

from janus_fast import Translator, cli
from janus_fast.convert import huggingface

DATA = Path(__file__).parent / "data" / "huggingface"
NAMES = ("bart", "mbart", "nllb", "pegasus", "fsmt")


def expected(name):
    return json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def directory(tmp_path):
    """A copy of a model, to be changed."""
    return Path(shutil.copytree(DATA / "bart", tmp_path / "bart"))


@pytest.mark.parametrize("backend", ["engine", "torch"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_outputs_and_scores(name, backend):
    translator, cases = translator_of(huggingface.load(DATA / name)[0], backend), expected(name)
    forced = translator.config.forced_bos_token_id
    prefixes = None if forced is None else [[forced]] * len(cases["sources"])
    for search, beam in (("greedy", 1), ("beam", 4)):
        results = translator.generate(
            cases["sources"], prefixes, beam_size=beam, min_decoding_length=0, max_decoding_length=20
        )
        for number, output, score in cases[search]:
            if name == "bart" and beam > 1:
                continue
            assert results[number].hypotheses[0] == output
            if name != "bart":
                assert results[number].scores[0] == pytest.approx(score, abs=1e-5)
        assert len({str(output) for _, output, _ in cases[search]}) > 5


@pytest.mark.parametrize("name", NAMES[:-1])
def test_text_has_the_same_ids(name):
    model, (source, target) = huggingface.load(DATA / name)
    cases = expected(name)["texts"]
    assert source is target and len(source) == model.config.source_vocab_size
    for _, ids in cases:  # what the tokenizer puts around the words
        config = model.config
        assert config.source_ids(ids[len(config.source_prefix_ids) : len(ids) - len(config.source_suffix_ids)]) == ids
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: pip install tokenizers")
    for text, ids in cases:
        assert model.config.source_ids(source.ids(source.encode(text))) == ids
    assert source.decode(source.encode("ba ke")) == "ba ke"
    translated = Translator(model, vocabularies=(source, target)).translate(["ba ke"], beam_size=1)[0]
    assert isinstance(translated.hypotheses[0], str) and "</s>" not in translated.hypotheses[0]


def test_what_a_model_says_of_its_tokens():
    bart, mbart, nllb, pegasus, fsmt = (huggingface.load(DATA / name)[0].config for name in NAMES)
    assert (bart.forced_bos_token_id, bart.suppress_tokens) == (0, (7, 9))
    assert (mbart.suppress_tokens, nllb.suppress_tokens, mbart.forced_bos_token_id) == ((), (1,), None)
    assert bart.source_ids([5]) == [0, 5, 2] and fsmt.source_ids([5]) == [5, 2] and pegasus.source_ids([5]) == [5, 1]
    _, (tokens, _) = huggingface.load(DATA / "nllb")
    assert tokens.tokens_of(nllb.source_ids([5])) == ["eng_Latn", "a", "</s>"]
    assert huggingface.load(DATA / "mbart")[1][0].tokens_of(mbart.source_ids([]))[-1] == "en_XX"
    assert [c.normalize_before for c in (bart, mbart, nllb, pegasus, fsmt)] == [False, True, True, True, False]
    assert [c.layernorm_embedding for c in (bart, mbart, nllb, pegasus, fsmt)] == [True, True, False, False, False]
    assert [c.positions for c in (bart, nllb, pegasus)] == ["learned", "sinusoidal", "learned"]
    assert {c.alignment_heads for c in (bart, mbart, nllb, pegasus, fsmt)} == {1}
    assert (fsmt.source_vocab_size, fsmt.target_vocab_size) == (30, 26)


def test_the_command(tmp_path, capsys):
    out, plain = tmp_path / "nllb", tmp_path / "fsmt"
    languages = ["--source-language", "deu_Latn", "--target-language", "eng_Latn"]
    assert cli.main(["convert", str(DATA / "nllb"), "--out", str(out), *languages]) == 0
    translator = Translator(out)
    tokens = translator.target_vocabulary.tokens_of
    assert tokens(translator.config.source_ids([])) == ["deu_Latn", "</s>"]
    assert tokens([translator.config.forced_bos_token_id]) == ["eng_Latn"]
    results = translator.translate_batch([["ba", "▁", "ke"], []], beam_size=2, max_decoding_length=5)
    assert results[0].hypotheses[0][0] == "eng_Latn" and results[1].hypotheses == [[]]
    assert (out / "vocabulary.tokenizer.json").read_bytes() == (DATA / "nllb" / "tokenizer.json").read_bytes()
    assert "which language it writes" not in capsys.readouterr().out
    assert cli.main(["convert", str(DATA / "nllb"), "--out", str(tmp_path / "any")]) == 0
    assert "any: which language it writes, each target prefix must say" in capsys.readouterr().out
    assert cli.main(["convert", str(DATA / "fsmt"), "--out", str(plain)]) == 0
    said = capsys.readouterr().out
    assert "without a vocabulary it takes ids alone" in said and "language" not in said
    rule, none = (
        "must be a token of the vocabulary that names a language, such as en_XX, got",
        "with a model that reads",
    )
    for flag, name, model, message in (
        ("--source-language", "xx_XX", "nllb", f"--source-language {rule} 'xx_XX'"),
        ("--source-language", "ba", "nllb", f"--source-language {rule} 'ba'"),
        ("--target-language", "▁", "nllb", f"--target-language {rule} '▁'"),  # a token, of no language
        ("--source-language", "▁ba", "pegasus", f"--source-language must be left out {none} none, got ▁ba"),
        ("--source-language", "de", "fsmt", f"--source-language {rule} 'de'"),
    ):
        new = str(tmp_path / "new")
        assert cli.main(["convert", str(DATA / model), "--out", new, flag, name]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


# What is refused


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "t5"}, '"model_type": "bart" or "fsmt" or "m2m_100" or "mbart" or "pegasus", got .t5'),
    ({"scale_embedding": None}, "must hold every setting of the model, got no 'scale_embedding'"),
    ({"encoder_layers": 2}, "encoder_layers must be what the configuration says, 2, got 1"),
    ({"activation_function": "tanh"}, "activation must be one of"),
    ({"decoder_attention_heads": 4}, "encoder and decoder must have the same attention_heads"),
    ({"max_position_embeddings": 5}, None),
    ({"max_position_embeddings": 10**9}, "max_position_embeddings must be at most 131072, got 1000000000"),
    ({"vocab_size": 10**9}, "source_vocab_size must be what the configuration says, 1000000000, got 43"),
    ({"vocab_size": []}, r"config.json: vocab_size must be an integer of at least 1, got \[\]"),
    ({"d_model": "x"}, "config.json: d_model must be an integer of at least 1, got 'x'"),
    ({"activation_function": {}}, "config.json: activation_function must be a name, got {}"),
    ({"scale_embedding": -1}, "config.json: scale_embedding must be true or false, got -1"),
    ({"bos_token_id": []}, r"config.json: bos_token_id must be an integer of at least 0, got \[\]"),
    ({"pad_token_id": -1}, "config.json: pad_token_id must be an integer of at least 0, got -1"),
    ({"bos_token_id": 10**9}, "bos_token_id must be an integer in .*got 1000000000"),
])  # fmt: skip
def test_settings(directory, changes, message):
    change(directory / "config.json", changes)
    if message is None:  # the table says
        assert huggingface.load(directory)[0].config.max_source_positions == 28
    else:
        with pytest.raises(ValueError, match=message):
            huggingface.load(directory)


@pytest.mark.parametrize(("changes", "message"), [
    ({"bad_words_ids": 3}, "bad_words_ids must be lists of token ids, got 3"),
    ({"suppress_tokens": "x"}, "suppress_tokens must be a list of token ids, got 'x'"),
    ({"suppress_tokens": [[1]]}, r"suppress_tokens must be a list of token ids, got \[\[1\]\]"),
    ({"forced_bos_token_id": "x"}, "forced_bos_token_id must be an integer of at least 0, got 'x'"),
])  # fmt: skip
def test_settings_of_generation(directory, changes, message):
    change(directory / "generation_config.json", changes)
    with pytest.raises(ValueError, match=f"generation_config.json: {message}"):
        huggingface.load(directory)


def test_settings_that_are_null(directory):
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(values | {"d_model": None}), encoding="utf-8")
    with pytest.raises(ValueError, match="d_model must be an integer of at least 1, got None"):
        huggingface.load(directory)


@pytest.mark.parametrize("name", ["nllb", "pegasus", "fsmt"])
def test_sizes_are_compared_before_anything_of_that_size_is_made(name, tmp_path):
    directory = Path(shutil.copytree(DATA / name, tmp_path / name))
    for setting in ("src_vocab_size" if name == "fsmt" else "vocab_size", "d_model", "encoder_layers"):
        shutil.copy(DATA / name / "config.json", directory)
        change(directory / "config.json", {setting: 10**9})
        with pytest.raises(ValueError, match="must be what the configuration says, 1000000000, got"):
            huggingface.load(directory)


def test_layers_are_counted(directory):
    """A name with a great number makes no others, even where the settings say so, too."""
    names = [f"model.{side}.layers.999999999.fc2.bias" for side in ("encoder", "decoder")]
    change_tensors(directory, {name: torch.zeros(16) for name in names})
    change(directory / "config.json", {"encoder_layers": 10**9, "decoder_layers": 10**9})
    with pytest.raises(ValueError, match="encoder_layers must be what the configuration says, 1000000000, got 2"):
        huggingface.load(directory)


@pytest.mark.parametrize(("name", "value"), [
    ("shared.weight", torch.zeros(43)), ("encoder.embed_positions.weight", torch.zeros(16)),
    ("decoder.embed_positions.weight", torch.tensor(1.0)),
])  # fmt: skip
def test_tables_that_are_no_matrices(directory, name, value):
    change_tensors(directory, {f"model.{name}": value})
    with pytest.raises(ValueError, match=r"must be a matrix, got shape \["):
        huggingface.load(directory)


def test_files_that_do_not_fit(directory):
    change_tensors(directory, {"model.encoder.layernorm_embedding.weight": None})
    with pytest.raises(ValueError, match="both sides or neither must have a norm of embeddings, got one"):
        huggingface.load(directory)
    shutil.copy(DATA / "bart" / "model.safetensors", directory)
    for changes, message in (
        ({"model": {}}, "must describe a tokenizer, got"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": []}, "must hold '<unk>' among the model's"),
        ({"post_processor": "x"}, "must say what it adds to a text, got"),
        ({"post_processor": {"type": "RobertaProcessing"}}, "must say what it adds to a text, got"),
    ):
        change(directory / "tokenizer.json", changes)
        with pytest.raises(ValueError, match=message):
            huggingface.load(directory)
        shutil.copy(DATA / "bart" / "tokenizer.json", directory)
    change(directory / "generation_config.json", {"decoder_start_token_id": None})
    change(directory / "config.json", {"decoder_start_token_id": None})
    with pytest.raises(ValueError, match="decoder_start_token_id must be in config.json or generation_config.json"):
        huggingface.load(directory)
    (directory / "tokenizer.json").unlink()
    change(directory / "config.json", {"decoder_start_token_id": 2})
    assert huggingface.load(directory)[1] is None
