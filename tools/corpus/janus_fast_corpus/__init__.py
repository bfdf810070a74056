"""Real text, built from Debian packages: English to German, French or Spanish, or in English with summaries.

``prepare`` and ``prepare_task`` do it from Python, ``janus-fast corpus`` from a command line.

The text comes from packages that ``apt-get`` downloads (nothing is installed, no root is needed): manuals, help pages,
message catalogs, package descriptions. Every sentence pair keeps its source and licence. ``sources`` is the table of
packages and licences, ``packages`` fetches them, ``readers`` understand the formats, ``clean`` and ``split`` decide
what is kept and where, ``write`` puts it on disk.
"""

from .build import prepare
from .command import add_arguments, run
from .sources import PAIRS, SOURCES
from .tasks import TASKS, prepare_task

__all__ = ["PAIRS", "SOURCES", "TASKS", "add_arguments", "prepare", "prepare_task", "run"]
