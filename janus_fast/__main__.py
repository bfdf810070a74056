"""``python -m janus_fast``: the command line, as ``janus-fast``."""

import sys

from .cli import main

sys.exit(main())
