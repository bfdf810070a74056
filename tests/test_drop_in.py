"""The lines of docs/drop-in.md run, as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from janus_fast import cli, engine

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


def blocks(section: str, language: str) -> list[str]:
    text = next(part for part in SECTIONS if part.startswith(section + "\n"))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(section: str) -> None:
    """Runs the lines of ours, as a shell would take them apart."""
    for line in "".join(blocks(section, "sh")).splitlines():
        name, *arguments = shlex.split(line, comments=True)
        if name == "janus-fast":
            given = [str(file) for word in arguments for file in ([*Path().glob(word)] if "*" in word else [word])]
            assert cli.main(given) == 0


@pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
@pytest.mark.parametrize("code", blocks("CTranslate2", "python"))
def test_the_page_s_code_runs(code, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)  # which one block sets; afterwards it is what it was
    exec(compile(code, "docs/drop-in.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out or sys.modules["ctranslate2"].Translator


def test_the_page_names_every_option():
    from janus_fast.compat.ctranslate2.options import NAMES

    assert [name for name in NAMES if f"`{name}`" not in PAGE] == []


@pytest.mark.peers
def test_hugging_face(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", "5.23", reason="transformers 5.23 is not installed: make test-peers runs it")
    monkeypatch.chdir(tmp_path)
    commands("Hugging Face")
    capsys.readouterr()
    for code in blocks("Hugging Face", "python"):
        exec(compile(code, "docs/drop-in.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == "['Die Zelle ist leer.']\ntorch.Size([1, 4, 100])\n"


@pytest.mark.peers
def test_ray(tmp_path, monkeypatch, capfd):
    ray = pytest.importorskip("ray", "2.60", reason="ray 2.60 is not installed: make test-peers runs it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", object_store_memory=100 * 2**20)
    try:
        ray.data.from_items([{"text": "The cell is empty."}] * 5).write_parquet("articles")
        (code,) = blocks("Ray Data", "python")
        exec(compile(code, "docs/drop-in.md", "exec"), {})  # noqa: S102
        rows = ray.data.read_parquet("articles-de").take_all()
        assert rows == [{"text": "The cell is empty.", "translation": "Die Zelle ist leer."}] * 5
        assert capfd.readouterr().out.endswith("5\n")
    finally:
        ray.shutdown()


def test_many_files(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("news").mkdir()
    for name in "ab":
        Path(f"news/{name}.en").write_text("The cell is empty.\n" * 3, encoding="utf-8")
    commands("Many files, several machines")
    assert capfd.readouterr().err.count("janus-fast: ") == 2
    (code,) = blocks("Many files, several machines", "python")
    Path("program.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], capture_output=True, text=True, timeout=100, check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.startswith("3 lines in ")
    assert {file.name for file in Path("out").iterdir()} == {"a.en", "b.en", "a.de"}
    assert all(file.read_text(encoding="utf-8") == "Die Zelle ist leer.\n" * 3 for file in Path("out").iterdir())
