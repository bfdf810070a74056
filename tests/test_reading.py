"""Files that are there and cannot be read: the error says what is so, and of which file."""

import builtins
import io
import os
from pathlib import Path

import pytest
from test_cli_translate import SPECIAL, WORDS
from test_decoding import make_model

from janus_fast import Translator, Vocabulary, checkpoint, cli, files, load, save, weights
from janus_fast.checkpoint import read_tensors
from janus_fast.compat.ctranslate2 import Translator as CTranslate2Translator
from janus_fast.convert.fairseq import read_dictionary
from janus_fast.convert.hub import read_object
from janus_fast.convert.torch_file import open_torch_file

FAILING = "/proc/self/mem"  # a regular file of which the system reads no first byte: EIO
needs_failing = pytest.mark.skipif(not os.path.exists(FAILING), reason="this system has no file that cannot be read")
CODES = "#version: 0.2\nw 5</w>\n"


@pytest.fixture
def model(tmp_path) -> Path:
    vocabulary = Vocabulary(SPECIAL + WORDS, codes=CODES)
    save(make_model(), tmp_path / "model", (vocabulary, vocabulary))
    (tmp_path / "model/vmap.txt").write_text("w5\tw6\n")
    return tmp_path / "model"


def translate_with_map(model: Path) -> None:
    Translator(model).translate(["w5"], beam_size=1, use_vmap=True)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "vocabulary.json", "vocabulary.codes", "sentencepiece.model", "vmap.txt"],
)  # fmt: skip
def test_a_folder_in_place_of_a_file_of_a_model(model, name):
    (model / name).unlink(missing_ok=True)
    (model / name).mkdir()
    for read in (translate_with_map, *[load] * (name != "vmap.txt")):
        with pytest.raises(IsADirectoryError, match=rf"(Is a directory: '|must be a file, got the folder ).*{name}'?$"):
            read(model)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocabulary.json", "vocabulary.codes", "vmap.txt"]
)
def test_a_file_of_a_model_that_may_not_be_read(model, name, monkeypatch):
    opens, safe = io.open, weights.safe_open

    def refusing(file, *arguments, **options):
        if str(file) == str(model / name):
            raise PermissionError(13, "Permission denied", str(file))
        return opens(file, *arguments, **options)

    def safely(file, *arguments, **options):  # it opens by itself, and has one error for all that it cannot open
        if str(file) == str(model / name):
            raise FileNotFoundError(f"No such file or directory: {file}")
        return safe(file, *arguments, **options)

    for module, own, changed in (
        (io, "open", refusing), (builtins, "open", refusing), (weights, "safe_open", safely),
        (checkpoint, "safe_open", safely),
    ):  # fmt: skip
        monkeypatch.setattr(module, own, changed)
    for read in (translate_with_map, *[load] * (name != "vmap.txt")):
        with pytest.raises(PermissionError, match=rf"Permission denied: '.*{name}'$"):
            read(model)


def test_a_folder_that_may_not_be_searched(model, monkeypatch):
    found = os.stat

    def refusing(path, *arguments, **options):
        if str(path).endswith("weights"):
            raise PermissionError(13, "Permission denied", str(path))
        return found(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refusing)
    with pytest.raises(
        PermissionError, match=r"^checkpoint: weights must be a file that can be read, got .*weights: P"
    ):
        read_tensors(model / "weights")


@pytest.mark.parametrize("read", [read_object, read_dictionary, lambda file: open_torch_file(file).__enter__()])
def test_a_folder_in_place_of_a_file_to_convert(tmp_path, read):
    with pytest.raises(
        IsADirectoryError, match=rf"^convert: {tmp_path.name} must be a file, got the folder {tmp_path}$"
    ):
        read(tmp_path)


@pytest.mark.parametrize("name", ["--source", "--target", "--data"])
def test_a_folder_in_place_of_text_to_train_on(tmp_path, name, capsys):
    (tmp_path / "train.en").mkdir()
    (tmp_path / "train.de").write_text("a\n")
    sides = {"--source": tmp_path / "train.de", "--target": tmp_path / "train.de", name: tmp_path / "train.en"}
    given = ["--data", tmp_path] if name == "--data" else [part for side in list(sides.items())[:2] for part in side]
    assert cli.main(["train", "--out", str(tmp_path / "out"), *map(str, given)]) == 2
    what = "the text of --data" if name == "--data" else name
    assert f"error: {what} must be a file, got the folder {tmp_path}/train.en\n" in capsys.readouterr().err


@needs_failing
@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "MODEL", FAILING],
        ["translate", "MODEL", FAILING, "--processes", "2"],
        ["translate", "MODEL", FAILING, "--output-dir", "OUT"],
        ["translate", "MODEL", "TEXT", "--output", FAILING, "--resume"],
        ["evaluate", "MODEL", "--source", "TEXT", "--reference", FAILING],
        ["shortlist", "MODEL", "--source", FAILING, "--target", "TEXT"],
        ["shortlist", "MODEL", "--source", "TEXT", "--target", "TEXT", "--alignments", FAILING],
        ["train", "--out", "OUT", "--source", "TEXT", "--target", FAILING],
        ["train", "--out", "OUT", "--monolingual", "TEXT", "--valid-monolingual", FAILING],
        ["train", "--out", "OUT", "--source", "TEXT", "--target", "TEXT", "--vocabulary", FAILING],
        [
            "train", "--out", "OUT", "--source", "TEXT", "--target", "TEXT", "--objective", "cemat", "--dictionary",
            FAILING,
        ],
    ],
    ids=lambda arguments: "_".join(part.strip("-") for part in arguments if part == part.lower() and part != FAILING),
)  # fmt: skip
def test_a_file_whose_reads_fail_is_named(model, tmp_path, capsys, arguments):
    (tmp_path / "text").write_text("w5 w6\n")
    places = {"MODEL": model, "TEXT": tmp_path / "text", "OUT": tmp_path / "out"}
    assert cli.main([str(places.get(part, part)) for part in arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"janus-fast: error: {FAILING}: Input/output error"


@needs_failing
def test_a_file_whose_reads_fail_is_named_to_callers(model, tmp_path):
    ours, theirs = Translator(model), CTranslate2Translator(str(model))
    for call in (
        lambda: ours.translate_file(FAILING, tmp_path / "out"),
        lambda: files.translate_files(model, [FAILING], [tmp_path / "out"]),
        lambda: theirs.translate_file(FAILING, str(tmp_path / "out")),
        lambda: Vocabulary.train([FAILING], 40),
        lambda: read_object(Path(FAILING)),
        lambda: read_dictionary(FAILING),
    ):
        with pytest.raises(OSError, match=f"Input/output error: '{FAILING}'$"):
            call()
