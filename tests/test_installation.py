"""A checkout where nothing is built says so, says how to build it, and does not hide what is installed."""

import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

import janus_fast
from benchmarks import __main__
from janus_fast import cli, engine, installation
from janus_fast.commands import info

PACKAGE = installation.PACKAGE


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_every_verb_of_the_makefile_knows_how_to_make_what_it_needs():
    verbs = re.findall(r"^([a-z-]+):.*## ", (PACKAGE.parent / "Makefile").read_text(), re.M)
    assert {"setup", "test", "test-peers"} <= set(verbs)
    for verb in verbs:
        dry = ["make", "--dry-run", "--always-make", verb]
        run = subprocess.run(dry, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=100)
        assert run.returncode == 0, run.stderr


@pytest.mark.skipif(engine.missing() is not None, reason="the engine is not built; `make setup` builds it")
@pytest.mark.parametrize(
    "module, program",
    [("janus_fast", "janus-fast"), ("janus_fast.cli", "janus-fast"), ("benchmarks", "benchmarks")],
)
def test_python_started_in_an_unbuilt_checkout_does_not_hide_what_is_installed(module, program, tmp_path):
    unbuilt = shutil.ignore_patterns("_*.so", "__pycache__", "en-de-small", "results")
    for name in ("janus_fast", "benchmarks"):
        shutil.copytree(PACKAGE.parent / name, tmp_path / name, ignore=unbuilt)
    command = [sys.executable, "-m", module, "decode" if module == "benchmarks" else "info"]
    installed = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}  # as site-packages, behind the current directory
    run = subprocess.run(command, cwd=tmp_path, env=installed, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (1 if module == "benchmarks" else 2, "")
    assert run.stderr.startswith(
        f"{program}: error: janus_fast: {tmp_path.resolve() / 'janus_fast'}, where nothing is built, "
        f"hides the installed {PACKAGE}: start Python in another directory, or build this one: pip install -e ., or "
    )
    assert run.stderr.count("\n") == 1


def test_what_is_not_built_is_said_with_the_way_to_build_it(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "PACKAGE", tmp_path)
    monkeypatch.setattr(installation, "refuse_to_hide_another", lambda: None)  # nothing else is installed
    assert engine.missing().endswith("the native engine is not built; in a checkout, build it with: pip install -e .")
    assert installation.slow().startswith("in torch the operations run through their plain definitions, several times")
    assert installation.slow().endswith(f"in a checkout, build it with: {installation.BUILD_OPERATIONS}")
    shown = info._shown({**dict.fromkeys(info.PACKAGES), **info.information()})
    assert f"operations     {installation.slow()}\n" in shown and "engine         decoding runs in torch: the" in shown


def test_benchmarks_warn_before_they_start(monkeypatch, capsys):
    monkeypatch.setattr(installation, "operations_missing", lambda: "nothing is built")
    with pytest.raises(SystemExit):
        __main__.main(["memory", "--help"])
    assert capsys.readouterr().err == f"benchmarks: warning: {installation.slow()}\n"


def test_the_command_corpus_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "janus_fast_corpus", None)
    monkeypatch.delenv("JANUS_FAST_DEBUG", raising=False)
    assert cli.main(["corpus", "--out", "new"]) == 2
    assert capsys.readouterr().err == (
        "janus-fast: error: it needs janus_fast_corpus, which is not installed: "
        "in a checkout of janus_fast, pip install ./tools/corpus\n"
    )


@pytest.mark.parametrize("name, package", [("ray", "ray"), ("huggingface", "transformers")])
def test_what_a_module_needs_and_how_to_install_it(name, package, monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, f"janus_fast.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module(f"janus_fast.{name}")
    how = installation.HOW_TO_INSTALL[package]
    assert str(error.value) == f"janus_fast.{name} needs {package}, which is not installed: {how}"
    assert error.value.name == package


def test_what_is_built_is_not_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "PACKAGE", tmp_path)
    (tmp_path / "_C.so").touch()
    (tmp_path / "_engine.cpython-312-x86_64-linux-gnu.so").touch()
    assert installation.slow() is installation.engine_missing() is None


def test_a_build_starts_with_no_files_of_an_earlier_one(tmp_path):
    """Its native libraries, and modules that have gone since, would be packed into a wheel."""
    for folder in ("lib/janus_fast", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("_C.so", "_engine.cpython-312-x86_64-linux-gnu.so", "gone.py"):
        (tmp_path / "lib" / "janus_fast" / name).touch()
    (tmp_path / "bin" / "ninja").write_text("#!/bin/sh\n")  # nothing is compiled
    (tmp_path / "bin" / "ninja").chmod(0o755)
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path, "build"]
    command += ["--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temporary"]
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(command, cwd=PACKAGE.parent, env={**os.environ, "PATH": path}, check=True, timeout=100)
    assert not [*(tmp_path / "lib" / "janus_fast").glob("_*.so"), *(tmp_path / "lib").rglob("gone.py")]
    assert not [*(tmp_path / "lib").rglob("*corpus*")]  # a package of its own
    assert (tmp_path / "lib" / "janus_fast" / "engine.py").exists()


def test_a_folder_that_python_takes_for_the_package_is_named(tmp_path, monkeypatch, capsys):
    """As where Python starts beside a checkout, with an editable install, whose finder comes behind Python's own."""
    monkeypatch.setattr(janus_fast, "__file__", None)
    monkeypatch.setattr(janus_fast, "__path__", [str(tmp_path)])
    assert cli.main(["info"]) == 2
    assert f"Python must be started elsewhere: there the folder {tmp_path} hides" in capsys.readouterr().err
