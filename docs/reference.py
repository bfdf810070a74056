"""Makes the API reference, of the docstrings, as HTML: ``python docs/reference.py FOLDER``; ``make docs`` calls it.

What pdoc warns of, such as a public name that is not there, is an error.
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path

MODULES = ("janus_fast", "janus_fast.ops", "janus_fast.decoding", "janus_fast.evaluate", "janus_fast.objectives")
CONVERTERS = ("janus_fast.convert.fairseq", "janus_fast.convert.marian")


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
    make(Path(sys.argv[1]))
