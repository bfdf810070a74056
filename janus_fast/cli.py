"""The command line ``janus-fast``: one module for each command, most of them in ``janus_fast.commands``.

A command's module is imported when the command is called, so that ``janus-fast --help`` answers at once.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module

import janus_fast
from janus_fast.commands._progress import write
from janus_fast.inputs import OptionError, among, flag, meant
from janus_fast.installation import HOW_TO_INSTALL, absence

COMMANDS = {  # name: (module with add_arguments and run, one line about it)
    "demo": ("janus_fast.demo", "see a trained model translate, in both modes"),
    "translate": ("janus_fast.commands.translate", "translate text, left to right or in parallel"),
    "evaluate": ("janus_fast.commands.evaluate", "measure BLEU, chrF, ROUGE and speed of a model"),
    "train": ("janus_fast.commands.train", "train a model on parallel or monolingual text"),
    "convert": (
        "janus_fast.commands.convert",
        "turn a model of CTranslate2, fairseq, Hugging Face, Marian or OpenNMT-py, or one of ours, into a model "
        "directory of ours, CTranslate2 or Hugging Face",
    ),
    "shortlist": (
        "janus_fast.commands.shortlist",
        "find the words that a source can become, and write them to vmap.txt in the model's directory",
    ),
    "corpus": ("janus_fast_corpus", "build real text from Debian packages: parallel, with summaries, or monolingual"),
    "info": ("janus_fast.commands.info", "show versions, processor, kernels and shipped models"),
}
# What a user can mend: wrong values, files that are missing or broken, what a machine lacks, a run that diverges.
MISTAKES = (ValueError, OSError, NotImplementedError, FloatingPointError)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def _get_value(self, action: argparse.Action, text: str) -> object:
        """By our rule, which says what a value must be; argparse names a function of ours."""
        kind = self._registry_get("type", action.type, action.type)
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(action, str(error)) from None
        except ValueError:
            what = "a number" if kind is float else "an integer"
            raise argparse.ArgumentError(action, f"must be {what}, got {text!r}") from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """By the rule of all choices, which says what is meant; argparse does from Python 3.14 on, if asked."""
        if action.choices is not None and value not in action.choices:
            rule, got = among(value, action.choices)
            raise argparse.ArgumentError(action, f"must {rule}, got {got}")


def parser(command: str | None) -> argparse.ArgumentParser:
    """The parser that knows every command by name, and the options of ``command``."""
    top = Parser(prog="janus-fast", description=janus_fast.__doc__)
    top.add_argument("--version", action="version", version=f"janus-fast {janus_fast.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        described = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            chosen = import_module(module)
            chosen.add_arguments(described)
            described.set_defaults(run=chosen.run)
    return top


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of a command; options may stand before, between and behind its files."""
    top = parser(next((word for word in argv if not word.startswith("-")), None))
    arguments, rest = top.parse_known_args(argv)
    if rest and hasattr(arguments, "files") and not any(word.startswith("-") and word != "-" for word in rest):
        arguments.files, rest = [*arguments.files, *rest], []  # argparse takes files in one place alone
    if rest:
        wrong = next((word.partition("=")[0] for word in rest if word.startswith("--")), "")
        message = f"unrecognized arguments: {' '.join(rest)}{meant(wrong, map(flag, vars(arguments)))}"
        top.exit(2, f"janus-fast: error: {message} (see janus-fast {arguments.command} --help)\n")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 done, 1 a fault of ours, 2 a mistake, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = argparse.Namespace()
    debug = os.environ.get("JANUS_FAST_DEBUG", "0") not in ("", "0")
    try:
        _prepare_streams()
        if janus_fast.__file__ is None:  # Python took a checkout's folder of that name for the package
            folder = list(janus_fast.__path__)[0]
            raise ValueError(f"Python must be started elsewhere: there the folder {folder} hides the package")
        arguments = parse(argv)
        if sys.stdout is None:
            if vars(arguments).get("output", vars(arguments).get("out")) in (None, "-"):
                raise ValueError("standard output must be open, got a closed one")
            sys.stdout = open(os.devnull, "w")
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has gone: what it wanted it has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as interrupt:
        return _complain(": ".join(["interrupted", *map(str, interrupt.args)]), 130)
    except SystemExit as leaving:
        if not isinstance(leaving.code, str):
            raise
        return _complain(f"error: {leaving.code}", 2)
    except MISTAKES as error:
        if debug:
            raise
        return _complain(f"error: {one_line(error, vars(arguments))}", 2)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name in HOW_TO_INSTALL:
            return _complain(f"error: it needs {absence(error.name)}", 2)
        message = f"{type(error).__name__}: {one_line(error)}"
        return _complain(f"a fault of janus-fast itself: {message} (JANUS_FAST_DEBUG=1 shows where)", 1)


def _prepare_streams() -> None:
    """What is written is UTF-8, whatever the locale; no file gets the number of a standard stream that is closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # of names of files that are not


def _complain(message: str, status: int) -> int:
    write(f"janus-fast: {message}")
    return status


def _warn(message: Warning | str, *_) -> None:
    """A warning as one line, without the place in the code that it came from."""
    write(f"janus-fast: warning: {one_line(message)}")


def one_line(error: Exception | str, names: Iterable[str] = ()) -> str:
    """Its message, with the options ``names`` as flags where an argument of ours is wrong."""
    if isinstance(error, OptionError):
        error = error.in_flags(names)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
