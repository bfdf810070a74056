"""Results for people, of all topics alike: lines while it measures; then JSON, which holds everything, and what is made
of it: a page of Markdown and pictures."""

import json
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import machine
from janus_fast.replacing import replacing


def told(records: Iterable[dict], line: Callable[[dict], str], arguments) -> list[dict]:
    """The records; each is told as it comes, in a line unless JSON is all that is wanted, and what is wrong with it."""
    done = []
    for record in records:
        done.append(record)
        if "wrong" in record:
            print(f"WRONG: {record['wrong']}", file=sys.stderr)
        if arguments.json != "-":
            print(line(record), flush=True, file=sys.stderr if "wrong" in record else sys.stdout)
    return done


def publish(name: str, results: dict, arguments, page: Callable[[dict], str], *, alone: bool, gaps=False, **pictures):
    """Writes a table of all records or, where it was asked for ``alone``, one as JSON. Returns the exit status.

    A table in which something is wrong replaces none, unless ``gaps`` may be in it.
    """
    results = {"machine": machine(arguments.threads), **results}
    wrong = any("wrong" in record for record in results["records"])
    if not alone and (gaps or not wrong):
        write(name, results, arguments.results, page, **pictures)
    elif alone and arguments.json:
        text = json.dumps({**results["records"][0], "machine": results["machine"]}, indent=1) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
        else:
            Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments.json).write_text(text)
    return int(wrong)


def write(name: str, results: dict, directory: Path, page: Callable[[dict], str], **pictures: Callable) -> None:
    """``name``.json, ``name``.md and, where there is matplotlib, a .png for each of ``pictures``, which draw(results,
    file)."""
    with replacing(directory) as folder:
        (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(page(results), encoding="utf-8")
        for picture, draw in pictures.items() if find_spec("matplotlib") else ():
            draw(results, folder / f"{picture}.png")


def markdown(title: str, *parts: str | list[str]) -> str:
    """A page; parts are text, or lines such as those of a table."""
    texts = [part.strip("\n") if isinstance(part, str) else "\n".join(part) for part in parts]
    return "\n\n".join([f"# {title}", *filter(None, texts)]) + "\n"


def table(header: Iterable, rows: Iterable[Iterable], align: str) -> list[str]:
    """Lines of Markdown. ``align`` has a letter a column: l for words, r for numbers; the last stands for the rest."""
    header = list(header)
    columns = align + align[-1] * (len(header) - len(align))
    line = "".join("|---:" if letter == "r" else "|---" for letter in columns) + "|"
    cells = [[*row, *[""] * (len(header) - len(row))] for row in map(list, rows)]
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (header, *cells))
    return [first, line, *others]


def place(machine: dict, versions: str) -> str:
    """Where and of what a page was measured."""
    return f"{machine['processor']}, {machine['threads']} threads; commit {machine['commit']}; {versions}"


def rounds(records: list[dict]) -> str:
    """How many turns each contender had."""
    return " or ".join(map(str, sorted({len(times) for record in records for times in record["samples"].values()})))
