"""The docstrings of the public face: all there, naming what exists, and read by the generator without a warning."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import janus_fast
import reference

ROOT = Path(__file__).parent.parent


def public():
    """(name, object) of every public module, function, class, method and property of ours."""
    for module in map(import_module, (*reference.MODULES, *reference.CONVERTERS)):
        yield module.__name__, module
        own = [n for n, item in vars(module).items() if getattr(item, "__module__", "") == module.__name__]
        names = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
        for name, item in ((name, getattr(module, name)) for name in names):
            if getattr(item, "__module__", "").startswith("janus_fast"):
                yield f"{module.__name__}.{name}", item
                for member, value in vars(item).items() if inspect.isclass(item) else ():
                    value = getattr(value, "__func__", value)
                    if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                        yield f"{module.__name__}.{name}.{member}", value


def test_every_public_name_has_a_docstring():
    documented = {name: inspect.getdoc(item) for name, item in public()}
    written_by_dataclass = re.compile(r"\w+\(\w+: ")
    assert not [name for name, text in documented.items() if not text or written_by_dataclass.match(text)]
    assert len(documented) > 100


def test_what_docstrings_refer_to_is_there():
    for name, item in public():
        for path in re.findall(r"``(janus_fast(?:\.\w+)+)", inspect.getdoc(item) or ""):
            found = janus_fast
            for part in path.split(".")[1:]:
                assert hasattr(found, part), f"{name} refers to {path}"
                found = getattr(found, part)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_pages_lead_to_is_there(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:janus_fast|csrc|kernels|tests|benchmarks|tools|docs|findings)/[\w./]*)`", text):
        file = ROOT / re.sub(r"\b(X|NAME)\b", "*", path)  # which stand for any
        built = file.suffix == ".so"
        assert built or any(file.parent.glob(f"{file.name}*")), path  # a stem stands for its .h and .cpp


def test_the_tables_of_options_are_those_of_the_declarations():
    written = reference.OPTIONS.read_text(encoding="utf-8")
    assert written.endswith("\n" + reference.options()), "python docs/reference.py options writes them anew"


def test_the_reference_is_made_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install '.[docs]'")
    reference.make(tmp_path)
    page = (tmp_path / "janus_fast.html").read_text()
    assert "**<strong>" not in page and ":class:" not in page  # what pdoc does not read
    for name in ("Translator.translate_batch", "attention", "Visibility.janus", "ScoringResult", "load"):
        assert f'id="{name}"' in page
    assert '<a href="#Visibility">' in page and '<a href="janus_fast/decoding.html#AutoregressiveOptions">' in page
