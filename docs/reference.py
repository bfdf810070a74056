"""Makes the documentation that follows from the code; ``make docs`` calls it.

``python docs/reference.py FOLDER`` makes the API reference, of the docstrings, as HTML; what pdoc warns of, such as a
public name that is not there, is an error. ``python docs/reference.py options`` puts the tables of options into
options.md, of their declarations and of the docstrings of calls.
"""

import dataclasses
import inspect
import re
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

MODULES = (
    "janus_fast", "janus_fast.ops", "janus_fast.decoding", "janus_fast.evaluate", "janus_fast.objectives",
    "janus_fast.compat.ctranslate2",
)  # fmt: skip
CONVERTERS = tuple(
    f"janus_fast.convert.{name}"
    for name in ("ctranslate2", "fairseq", "huggingface", "marian", "marian_native", "opennmt", "to_ctranslate2")
)
CALLS = ("translate", "translate_batch", "generate", "translate_iterable", "translate_file", "score", "score_batch")
OPTIONS = Path(__file__).parent / "options.md"
MARK = "<!-- made by: python docs/reference.py options -->"


def make(folder: Path) -> None:
    import pdoc

    for name in MODULES:  # pdoc looks into modules, which import many of their names when somebody asks for them
        module = import_module(name)
        vars(module).update({public: getattr(module, public) for public in getattr(module, "__all__", ())})
    pdoc.render.configure(docformat="google", show_source=False, footer_text="janus_fast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        only_faces = r"!janus_fast\.(ops|objectives)\..*"
        pdoc.pdoc(*MODULES, *CONVERTERS, only_faces, output_directory=folder)


def options() -> str:
    """A table of the options of calls, by their docstrings, and one of each class of options, by its declarations: in
    Markdown, as it stands in options.md."""
    from janus_fast.config import JanusConfig
    from janus_fast.decoding.modes import MODES
    from janus_fast.training.options import TrainingOptions
    from janus_fast.translator import Translator

    calls = "\n".join(row for name in CALLS for row in _call_rows(getattr(Translator, name)))
    calls = f"## Calls of a `Translator`\n\n| call | option | default | |\n|---|---|---|---|\n{calls}"
    classes = {f'`mode="{name}"`, {mode.title}': mode.options for name, mode in MODES.items()}
    classes |= {"Models: `JanusConfig`": JanusConfig, "Training: `TrainingOptions`": TrainingOptions}
    sections = (f"## {title}\n\n| option | default | |\n|---|---|---|\n{_rows(c)}" for title, c in classes.items())
    return "\n\n".join([MARK, calls, *sections]) + "\n"


def _call_rows(call: Callable) -> list[str]:
    """What the docstring says of each argument that has a default, and of ``options`` that are handed on."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(call), re.M | re.S)[1]
    given = inspect.signature(call).parameters.values()
    options = {own.name: own for own in given if own.default is not own.empty or own.kind is own.VAR_KEYWORD}
    rows = []
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*\n(?:     .*\n)*)", section + "\n", re.M):
        if own := [options.pop(name) for name in names.split(", ") if name in options]:
            shown = ", ".join("others" if o.kind is o.VAR_KEYWORD else f"`{o.name}`" for o in own)
            defaults = ", ".join(f"`{o.default!r}`" for o in own if o.default is not o.empty)
            text = _cell(" ".join(text.split()).removesuffix("."))
            rows.append(f"| `{call.__name__}` | {shown} | {defaults} | {text} |")
    if options:
        raise ValueError(f"{call.__name__}: its docstring must say what its options are, got nothing of {[*options]}")
    return rows


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def _rows(options: type) -> str:
    from janus_fast.inputs import described

    rows = []
    for field in dataclasses.fields(options):
        text = _cell(described(field))
        if "cuda" not in (field.metadata.get("on") or ["cuda"]):
            text += " (not on backend `cuda`)"
        if objectives := field.metadata.get("objectives"):
            text += f" (objective {' or '.join(objectives)})"
        if field.metadata.get("monolingual"):
            text += " (monolingual text)"
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        rows.append(f"| `{field.name}` | {default} | {text} |")
    return "\n".join(rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["options"]:
        OPTIONS.write_text(OPTIONS.read_text().partition(MARK)[0] + options())
    else:
        make(Path(sys.argv[1]))
