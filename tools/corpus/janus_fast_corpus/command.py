"""The command line of the corpus builder."""

import argparse
import sys
import time
from inspect import signature

from janus_fast.inputs import flag

from .build import prepare
from .sources import PAIRS, SOURCES
from .tasks import TASKS, prepare_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``prepare`` to a parser."""
    parser.add_argument("--out", required=True, help="folder to write the corpus to")
    parser.add_argument(
        "--task", default="translation", choices=("translation", *TASKS),
        help="parallel text; texts with a summary, in English: package descriptions and manual pages; or their "
        "sentences alone (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--pair", choices=PAIRS, help="languages (default: en-de)")
    parser.add_argument("--cache", help="folder that keeps downloaded packages (default: ~/.cache/janus-fast/packages)")
    parser.add_argument(
        "--permissive-only", action="store_true", default=None,
        help="only text that may be redistributed with notices: a 30 MB download instead of 450 MB",
    )  # fmt: skip
    names = ", ".join(source.name for source in SOURCES)
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated sources (default: all), of: {names}")
    parser.add_argument(
        "--max-words", type=int, help="longest sentence (default: 60 words), or text with a summary (default: 80)"
    )
    parser.add_argument("--small-max-words", type=int, help="longest sentence of tier small (default: 20 words)")
    parser.add_argument("--small-max-pairs", type=int, help="training pairs of tier small (default: 60000)")
    parser.add_argument(
        "--validation-pairs", type=int,
        help="validation pairs of tier small, half of the other tiers', or of the documents of a tier (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--test-pairs", type=int, help="test pairs, alike (default: 1000)")


def run(arguments: argparse.Namespace) -> int:
    """Builds the corpus that the arguments ask for, and tells progress on standard error; returns the exit status."""

    def tell(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = {name: value for name, value in given.items() if name in signature(prepare).parameters}
    if arguments.only:
        options["only"] = arguments.only.split(",")
    if arguments.task == "translation":
        prepare(**options, progress=tell)
        return 0
    if clash := next((name for name in options if name not in signature(prepare_task).parameters), None):
        raise ValueError(f"{flag(clash)} must be left out with --task {arguments.task}, got {given[clash]}")
    prepare_task(**options, task=arguments.task, progress=tell)
    return 0
