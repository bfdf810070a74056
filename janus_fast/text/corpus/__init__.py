"""Real parallel text, English to German, French or Spanish, built from Debian packages.

``prepare`` does it from Python, ``add_arguments`` and ``run`` from a command line. Standard library only.

The text comes from packages that ``apt-get`` downloads (nothing is installed, no root is needed): manuals, help pages,
message catalogs, package descriptions. Every sentence pair keeps its source and licence. ``sources`` is the table of
packages and licences, ``packages`` fetches them, ``readers`` understand the formats, ``clean`` and ``split`` decide
what is kept and where, ``write`` puts it on disk.
"""

from .build import prepare
from .command import add_arguments, run
from .packages import CorpusError
from .sources import PAIRS, SOURCES

__all__ = ["PAIRS", "SOURCES", "CorpusError", "add_arguments", "prepare", "run"]
