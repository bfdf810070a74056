"""The command line of the corpus builder."""

import argparse
import sys
import time

from .build import prepare
from .sources import PAIRS, SOURCES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``prepare`` to a parser."""
    parser.add_argument("--out", required=True, help="folder to write the corpus to")
    parser.add_argument("--pair", default="en-de", choices=PAIRS, help="languages (default: %(default)s)")
    parser.add_argument("--cache", help="folder that keeps downloaded packages (default: ~/.cache/janus-fast/packages)")
    parser.add_argument(
        "--permissive-only",
        action="store_true",
        help="only text that may be redistributed with notices: a 30 MB download instead of 450 MB",
    )
    names = ", ".join(source.name for source in SOURCES)
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated sources (default: all), of: {names}")
    parser.add_argument("--max-words", type=int, default=60, help="longest sentence (default: %(default)s words)")
    parser.add_argument(
        "--small-max-words", type=int, default=20, help="longest sentence of tier small (default: %(default)s words)"
    )
    parser.add_argument(
        "--small-max-pairs", type=int, default=60_000, help="training pairs of tier small (default: %(default)s)"
    )
    parser.add_argument(
        "--validation-pairs",
        type=int,
        default=1_000,
        help="validation pairs of tier small, half of the other tiers' (default: %(default)s)",
    )
    parser.add_argument(
        "--test-pairs",
        type=int,
        default=1_000,
        help="test pairs of tier small, half of the other tiers' (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Builds the corpus that the arguments ask for, and tells progress on standard error; returns the exit status."""

    def tell(line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)

    prepare(
        arguments.out,
        arguments.pair,
        arguments.cache,
        arguments.permissive_only,
        only=arguments.only.split(",") if arguments.only else None,
        max_words=arguments.max_words,
        small_max_words=arguments.small_max_words,
        small_max_pairs=arguments.small_max_pairs,
        validation_pairs=arguments.validation_pairs,
        test_pairs=arguments.test_pairs,
        progress=tell,
    )
    return 0
