"""Command-line arguments that topics share."""

import argparse
from pathlib import Path

from benchmarks.machine import RESULTS


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return value


def file_name(text: str) -> str:
    if text in ("", ".", "..") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"must be the beginning of a file's name, got {text!r}")
    return text


def minutes(text: str) -> float:
    if not (value := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more minutes, got {text}")
    return value


def add_usual(parser: argparse.ArgumentParser, threads: int = 2, json: str = "the one record") -> None:
    """Those of topics that time contenders in turn, for one record or a table."""
    parser.add_argument("--threads", type=positive, default=threads, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="turns of each (default: 5)")
    parser.add_argument("--json", metavar="FILE", help=f"write {json}; - prints it alone")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the table of all goes")
