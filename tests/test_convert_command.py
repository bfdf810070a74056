"""``janus-fast convert``: what it takes and leaves alone; and what a model directory says about its training."""

import dataclasses
import warnings

import golden
import pytest
from test_convert import DICTIONARIES
from test_decoding import translator_of

import janus_fast
from janus_fast import JanusConfig, Translator, checkpoint, cli, models
from janus_fast.convert import fairseq

# The command


def test_a_model_is_written_over_none(tmp_path, capsys):
    model, half = tmp_path / "model", tmp_path / "half"
    assert cli.main(["convert", str(golden.CHECKPOINT), "--out", str(model)]) == 0
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"mine")
    words = tmp_path / "words"
    words.mkdir()
    (words / "vocabulary.json").write_text("[]")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out, held in ((model, "config.json"), (half, "model.safetensors"), (words, "vocabulary.json")):
        assert cli.main(["convert", str(model), "--out", str(out), "--quantization", "int8"]) == 2
        message = f"error: --out must be a directory without a model, got {out}, which holds {held}\n"
        assert capsys.readouterr().err.endswith(message)
    assert cli.main(["convert", str(model), "--out", str(half / "model.safetensors")]) == 2
    assert f"--out must be a directory, got {half}/model.safetensors: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_shipped_models_have_names(tmp_path, capsys):
    out, new = tmp_path / "small", tmp_path / "new"
    assert cli.main(["convert", "en-de-small", "--out", str(out), "--quantization", "int8"]) == 0
    assert checkpoint.load(out)[0].config == checkpoint.read_config(models.locate("en-de-small"))
    for given, message in (
        ("en-de-smal", "got 'en-de-smal'; did you mean 'en-de-small'?"),
        ("nothing.pt", "convert: nothing.pt must be a file that exists"),
    ):
        assert cli.main(["convert", given, "--out", str(new)]) == 2
        assert message in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize("name", ["vmap.txt", "model.bin"])
def test_a_part_that_is_a_folder_is_told(tmp_path, capsys, name):
    model, out = tmp_path / "model", tmp_path / "out"
    (model / name).mkdir(parents=True)
    assert cli.main(["convert", str(model), "--out", str(out)]) == 2
    assert (
        capsys.readouterr().err == f"janus-fast: error: convert: {name} must be a file, got the folder {model}/{name}\n"
    )
    assert not out.exists()
    if name == "model.bin":
        with pytest.raises(FileNotFoundError, match=f"; for a model of CTranslate2 {model}/{name} must be a file, and"):
            Translator(model)


CONVERT = "janus-fast convert {} --out NEW makes a model directory of it"


@pytest.mark.parametrize(("file", "content", "hint"), [
    ("config.json", '{"model_type": "marian"}', "it is a Marian model in Hugging Face's format: " + CONVERT),
    ("config.json", '{"model_type": "m2m_100"}', "it is a M2M100 (NLLB) model in Hugging Face's format: " + CONVERT),
    ("config.json", '{"model_type": "t5"}', "of the family 't5', which nothing here converts; families that are conv"),
    ("config.json", '{"d_model": 8}', 'must hold "model_type": "janus", got None'),
    ("model.bin", "", "it is a model of CTranslate2: " + CONVERT),
    ("model/model.bin", "", "it is a model of CTranslate2: " + CONVERT.format("{}/model")),
    ("checkpoint_best.pt", "", "--target-dict FILE) or OpenNMT-py: janus-fast convert {}/checkpoint_best.pt --out"),
    ("nothing", "", "must be a model directory with config.json, which is not there"),
])  # fmt: skip
def test_what_a_directory_is_and_how_to_convert_it(tmp_path, capsys, file, content, hint):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    for read in (Translator, janus_fast.load):
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            read(tmp_path)
        assert hint.format(tmp_path) in str(raised.value)
    if "convert {}" not in hint:  # the command itself
        assert cli.main(["convert", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize(("name", "hint"), [
    ("Helsinki-NLP/opus-mt-en-de", "hf download Helsinki-NLP/opus-mt-en-de --local-dir DIR, then janus-fast convert"),
    ("model.argosmodel", "it is an archive, such as Argos' packages: unpack it"),
    ("model.safetensors", "it is a part of a model, whose directory is"),
    ("a.pt", "it is a checkpoint of fairseq (with --source-dict FILE --target-dict FILE) or OpenNMT-py:"),
    ("en-de-smal", "did you mean 'en-de-small'?"),
])  # fmt: skip
def test_what_a_file_or_a_name_is(tmp_path, name, hint):
    file = tmp_path / name
    if "." in name:
        file.write_text("")
    with pytest.raises(FileNotFoundError) as raised:
        Translator(file if "." in name else name)
    assert hint in str(raised.value)


# What a model was trained for


@pytest.mark.parametrize("backend", ["engine", "torch"])
def test_a_mode_that_a_model_was_not_trained_for(tmp_path, backend):
    model, vocabularies = fairseq.load(golden.CHECKPOINT, *DICTIONARIES)

    def said(trained, **call) -> list[str]:
        model.config = dataclasses.replace(model.config, trained_modes=trained)
        checkpoint.save(model, tmp_path, vocabularies)
        translator = translator_of(tmp_path, backend)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                translator.translate(["w000 w001"], **call)
            translator.score_batch([["w000"]], [["w001"]])
        told = [warning for warning in caught if warning.category is UserWarning]
        assert all(warning.filename == __file__ for warning in told)  # at the caller's line
        return [str(warning.message) for warning in told]

    message = "Translator: mode {!r} is not what this model was trained for, which is {}; expect bad output"
    assert said(None, mode="nar") == said(["ar", "nar"], mode="nar") == said(["ar"]) == []
    assert said(["ar"], mode="nar") == [message.format("nar", "ar")]
    assert said([]) == [message.format("ar", "none")]
    assert said(["nar"]) == [message.format("ar", "nar")]  # once, of the translation and of the scores


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    model, vocabularies = fairseq.load(golden.CHECKPOINT, *DICTIONARIES)
    model.config = dataclasses.replace(model.config, trained_modes=["nar"])
    checkpoint.save(model, tmp_path, vocabularies)
    (tmp_path / "text").write_text("w000 w001\nw002\n")
    assert cli.main(["translate", str(tmp_path), str(tmp_path / "text"), "--max-decoding-length", "4"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "janus-fast: warning: Translator: mode 'ar' is not what this model was trained for, which is"
    )


@pytest.mark.parametrize("modes", ["ar", ["ar", "aux"], {"ar": 1}])
def test_modes_that_are_refused(modes):
    with pytest.raises(ValueError, match="trained_modes must be some of .'ar', 'nar', .* or None, got"):
        JanusConfig(8, 8, trained_modes=modes)
