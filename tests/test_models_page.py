"""The commands of docs/models.md, on tiny models under the names that the page has."""

import re
import shlex
import shutil
from pathlib import Path

import golden
import pytest
from test_convert import DICTIONARIES

from janus_fast import Translator, cli

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
DATA = Path(__file__).parent / "data"


@pytest.mark.filterwarnings("ignore:convert. .*these are left out")
def test_the_commands_of_the_page(tmp_path, monkeypatch):
    for name, source in (
        ("argos/model", DATA / "ctranslate2" / "opennmt"), ("opus-mt-en-de", DATA / "marian" / "shared"),
        ("nllb", DATA / "huggingface" / "nllb"), ("bart-large-cnn", DATA / "huggingface" / "bart"),
    ):  # fmt: skip
        shutil.copytree(source, tmp_path / name)
    for name, source in (
        ("model_step_0.pt", DATA / "opennmt" / "plain.pt"), ("checkpoint_best.pt", golden.CHECKPOINT),
        ("dict.en.txt", DICTIONARIES[0]), ("dict.de.txt", DICTIONARIES[1]),
    ):  # fmt: skip
        shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^janus-fast (.*)$", re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.S)[1], re.M)
    for command in commands:
        assert cli.main(shlex.split(command, comments=True)) == 0, command
    assert len(commands) == 7 and (tmp_path / "g" / "model.bin").is_file()
    for name in "abcdef":
        assert Translator(tmp_path / name).generate([[5, 6, 7]], beam_size=1, max_decoding_length=4)[0].hypotheses
