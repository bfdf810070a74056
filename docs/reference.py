"""Makes the API reference, of the docstrings, as HTML: ``python docs/reference.py FOLDER``; ``make docs`` calls it.

What pdoc warns of, such as a public name that is not there, is an error. Of the declarations of options it makes
docs/options.md.
"""

import dataclasses
import sys
import warnings
from importlib import import_module
from pathlib import Path

from janus_fast import inputs

MODULES = ("janus_fast", "janus_fast.ops", "janus_fast.decoding", "janus_fast.evaluate", "janus_fast.objectives")
CONVERTERS = ("janus_fast.convert.fairseq", "janus_fast.convert.marian")
OPTIONS = Path(__file__).with_name("options.md")


def options() -> str:
    """The tables of options, as Markdown."""
    from janus_fast import JanusConfig
    from janus_fast.decoding.modes import MODES
    from janus_fast.training.options import TrainingOptions

    parts = {f'Decoding {mode.title}, `mode="{name}"`': mode.options for name, mode in MODES.items()}
    parts |= {"Models, `JanusConfig`": JanusConfig, "Training, `janus-fast train`": TrainingOptions}
    lines = [
        "# Options",
        "",
        "Made by `make docs` from the declarations in the code. Some settings have other values with",
    ]
    lines += ["`--recipe small`, the default of `janus-fast train`, whose `--help` shows both."]
    for title, kind in parts.items():
        decodes = any(field.metadata["on"] for field in dataclasses.fields(kind))
        heads = ["option", "default", "", *(["backends"] if decodes else [])]
        lines += ["", f"## {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for field in dataclasses.fields(kind):
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            cells = [f"`{field.name}`", default, inputs.described(field).replace("``", "`").replace("|", "\\|")]
            cells += [", ".join(field.metadata["on"])] if decodes else []
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


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


if __name__ == "__main__":
    OPTIONS.write_text(options(), encoding="utf-8")
    make(Path(sys.argv[1]))
