"""``janus-fast translate`` as a part of pipes: lines in, lines out, whatever streams, locale and text are."""

import fcntl
import io
import json
import os
import resource
import select
import subprocess
import sys

import pytest
from test_decoding import make_model

from janus_fast import Translator, Vocabulary, cli, save
from janus_fast.commands import translate
from janus_fast.files import Job
from janus_fast.text.lines import arriving, as_line, lines_of

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = [f"w{i}" for i in range(5, 40)]
SEPARATORS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
LINES = ["w7 w8", "", "w30 w31 w32 w33", "w5", "w9 w10 w11"]
TEXT = "".join(line + "\n" for line in LINES)
GREEDY = ["--beam-size", "1", "--max-decoding-length", "6"]
BOM = b"\xef\xbb\xbf"
SKIPS = "; --skip-errors passes over such lines"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A model whose vocabulary is a list of words, so that each character of a word counts."""
    directory = tmp_path_factory.mktemp("plain") / "model"
    vocabulary = Vocabulary(SPECIAL + WORDS)
    save(make_model(), directory, (vocabulary, vocabulary))
    return str(directory)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> str:
    """One whose translations hold ends of lines in every word."""
    directory = tmp_path_factory.mktemp("broken") / "model"
    target = Vocabulary(SPECIAL + [f"a{SEPARATORS[i % len(SEPARATORS)]}b{word}" for i, word in enumerate(WORDS)])
    save(make_model(), directory, (Vocabulary(SPECIAL + WORDS), target))
    return str(directory)


@pytest.fixture
def source(tmp_path) -> str:
    (tmp_path / "in").write_text(TEXT, encoding="utf-8")
    return str(tmp_path / "in")


@pytest.fixture
def expected(model) -> str:
    results = Translator(model).translate(LINES, beam_size=1, max_decoding_length=6)
    return "".join(result.hypotheses[0] + "\n" for result in results)


def shell(redirections: str, *arguments, text: bytes = b"", **environment) -> subprocess.CompletedProcess:
    """The command with ``redirections`` such as ``>&-``."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "janus_fast", *map(str, arguments)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, input=text, capture_output=True, timeout=120, env=variables)


def run(capsys, *arguments) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


# one line in, one line out


def test_a_translation_is_one_line_to_every_reader(broken, tmp_path, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(word + "\n" for word in WORDS))
    drawing = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": 9.0, "max_decoding_length": 6}
    flags = [part for name, value in drawing.items() for part in ("--" + name.replace("_", "-"), value)]
    hypotheses = [result.hypotheses[0] for result in Translator(broken).translate(WORDS, **drawing)]
    assert all(separator in "".join(hypotheses) for separator in SEPARATORS)
    flat = []
    for text in hypotheses:
        for separator in ("\r\n", *SEPARATORS):
            text = text.replace(separator, " ")
        flat.append(text)
    assert run(capsys, "translate", broken, source, *flags).splitlines() == flat
    run(capsys, "translate", broken, source, "-o", output, *flags)
    assert output.read_bytes().decode().splitlines() == flat
    assert Translator(broken).translate_file(source, output, **drawing) == len(WORDS)
    assert output.read_bytes().decode().splitlines() == flat
    records = run(capsys, "translate", broken, source, "--json", *flags).splitlines()
    assert [json.loads(record)["hypotheses"][0] for record in records] == hypotheses


def test_as_line():
    assert as_line("a\r\nb") == as_line("a\nb\n") == "a b" and as_line("") == as_line("\n") == ""
    assert all(as_line(f"a{separator}b") == "a b" for separator in SEPARATORS)


# the beginning and the end of lines


def test_a_byte_order_mark_is_no_text(model, tmp_path, expected, monkeypatch, capsys):
    path, other = tmp_path / "in", tmp_path / "other"
    path.write_bytes(BOM + TEXT.replace("\n", "\r\n").encode())
    other.write_bytes(BOM)
    assert lines_of(path) == LINES and lines_of(other) == []
    assert run(capsys, "translate", model, path, other, path, *GREEDY) == 2 * expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="ascii"))
    assert run(capsys, "translate", model, *GREEDY) == expected
    Translator(model).translate_file(path, other, beam_size=1, max_decoding_length=6)
    assert other.read_text(encoding="utf-8") == expected
    path.write_text("w7 \ufeffw8\n\ufeffw9\n", encoding="utf-8")  # elsewhere it is a character
    assert lines_of(path) == ["w7 \ufeffw8", "\ufeffw9"]


def test_what_is_not_utf8_is_told_with_its_line(model, tmp_path, capsys):
    path = tmp_path / "in"
    path.write_bytes(b"w7 w8\nw9\nw\xe4\nw5\n")
    assert cli.main(["translate", model, str(path), *GREEDY]) == 2
    said = capsys.readouterr()
    assert said.err == f"janus-fast: error: {path} must be UTF-8 text, got byte 0xe4 in line 3{SKIPS}\n"
    assert said.out.count("\n") == 2  # what comes before is translated
    with pytest.raises(ValueError, match="in must be UTF-8 text, got byte 0xe4 in line 3"):
        Vocabulary.train([path], 300)


# names and standard streams


def test_a_dash_is_a_standard_stream(model, source, expected, tmp_path, monkeypatch, capsys):
    def typed():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="ascii"))

    monkeypatch.chdir(tmp_path)
    typed()
    assert run(capsys, "translate", model, "-", "-o", "-", *GREEDY) == expected
    typed()
    assert run(capsys, "translate", model, source, *GREEDY, "-", source) == 3 * expected
    assert not (tmp_path / "-").exists()
    typed()
    shown = run(capsys, "evaluate", model, "--source", "-", "--reference", source, "--json", *GREEDY)
    assert json.loads(shown)["sentences"] == len(LINES)


@pytest.mark.parametrize("at_once", ["1", "2", "auto"])
def test_batches_at_once_change_no_line(model, source, expected, at_once, capsys):
    asked = [*GREEDY, "--batch-size", 1, "--intra-threads", 2, "--inter-threads", at_once]
    assert run(capsys, "translate", model, source, *asked) == expected
    shown = json.loads(run(capsys, "evaluate", model, "--source", source, "--reference", source, "--json", *asked))
    assert (shown["sentences"], shown["threads"]) == (len(LINES), 4 if at_once == "2" else 2)


@pytest.mark.parametrize(
    "redirections, arguments, message",
    [
        ("<&-", ["translate", "MODEL"], "standard input must be open, got a closed one"),
        ("<&-", ["translate", "MODEL", "-o", "OUT"], "standard input must be open, got a closed one"),
        (">&-", ["translate", "MODEL", "IN"], "standard output must be open, got a closed one"),
        (">&-", ["translate", "MODEL", "IN", "-o", "-"], "standard output must be open, got a closed one"),
        (">&-", ["evaluate", "MODEL"], "standard output must be open, got a closed one"),
        (">&-", ["info"], "standard output must be open, got a closed one"),
        (">/dev/full", ["translate", "MODEL", "IN"], "standard output: No space left on device"),
        ("<IN", ["translate", "MODEL", "-o", "IN"], "--output must be another file than the one that is read, got IN"),
        (">>IN", ["translate", "MODEL", "IN"], "--output must be another file than the one that is read, got standard"),
    ],
)
def test_streams_that_are_not_there(redirections, arguments, message, model, source, tmp_path):
    names = {"MODEL": model, "IN": source, "OUT": str(tmp_path / "out")}
    arguments = [names.get(argument, argument) for argument in arguments]
    done = shell(redirections.replace("IN", source), *arguments, text=TEXT.encode())
    error = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b"" and error.count("\n") == 1
    assert error.startswith(f"janus-fast: error: {message.replace('IN', source)}")
    assert not (tmp_path / "out").exists() and (tmp_path / "in").read_text() == TEXT


def test_what_needs_no_standard_stream_runs_without_them(model, source, expected, tmp_path):
    done = shell("<&- >&- 2>&-", "translate", model, source, "-o", tmp_path / "out", *GREEDY)
    assert done.returncode == 0 and (tmp_path / "out").read_text() == expected
    done = shell("2>&-", "translate", "missing", source)
    assert (done.returncode, done.stdout) == (2, b"")  # what goes wrong is not said where translations are expected


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_text_is_utf8_whatever_the_locale_says(environment, tmp_path):
    vocabulary = Vocabulary([*SPECIAL, *(f"wörd–{i}" for i in range(5, 40))])
    save(make_model(), tmp_path / "model", (vocabulary, vocabulary))
    line = "wörd–7 wörd–8"
    (best,) = Translator(tmp_path / "model").translate([line], beam_size=1, max_decoding_length=6)
    assert "ö" in best.hypotheses[0]
    done = shell("", "translate", tmp_path / "model", *GREEDY, text=line.encode(), **environment)
    assert (done.stdout.decode(), done.stderr) == (best.hypotheses[0] + "\n", b"")


def test_options_that_are_wrong_leave_the_output_as_it_was(model, source, tmp_path, capsys):
    output = tmp_path / "out"
    output.write_text("the work of a week\n")
    for options, message in [
        (["--beam-size", "0"], "--beam-size must be an integer of at least 1, got 0"),
        (["--mode", "nar", "--length-beam", "23"], "--length-beam must be at most the number of target lengths = 22"),
    ]:
        assert cli.main(["translate", model, source, "-o", str(output), *options]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="beam_size must be an integer of at least 1, got 0"):
        Translator(model).translate_file(source, output, beam_size=0)
    assert cli.main(["translate", model, str(tmp_path), "-o", str(output)]) == 2
    assert "FILE must be a file, got the folder" in capsys.readouterr().err
    assert output.read_text() == "the work of a week\n"


# lines as they come


def test_a_line_is_answered_while_the_next_one_is_still_to_come(model, expected):
    command = [sys.executable, "-m", "janus_fast", "translate", model, *GREEDY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            sent = [(b"w7 w8\n",), (b"\n",), (b"w30 w31", b" w32 w33\n")]
            for parts, answer in zip(sent, expected.split("\n")[:3], strict=True):
                for part in parts:
                    child.stdin.write(part)
                    child.stdin.flush()
                assert select.select([child.stdout], [], [], 60)[0]
                assert child.stdout.readline().decode() == answer + "\n"
            rest, _ = child.communicate(b"w5\nw9 w10 w11", timeout=60)  # no line feed behind the last line
            assert rest.decode() == "".join(expected.splitlines(keepends=True)[3:])
        finally:
            child.kill()
    assert child.returncode == 0


def test_what_is_there_is_taken_together():
    ends = os.pipe()
    with open(ends[0], "rb") as reader, open(ends[1], "wb", buffering=0) as writer:
        lines = (line if line is None else line.decode() for line in arriving(reader))
        chunks = (chunk for _, chunk in Job("pipe", lines, None).chunks(4) if chunk is not None)
        writer.write(b"".join(b"%d\n" % number for number in range(10)) + b"1")
        assert [list(next(chunks)) for _ in range(2)] == [["0\n", "1\n", "2\n", "3\n"], ["4\n", "5\n", "6\n", "7\n"]]
        assert list(next(chunks)) == ["8\n", "9\n"]  # the next line is not whole yet
        writer.write(b"0\n11\n")
        assert list(next(chunks)) == ["10\n", "11\n"]
        writer.write(b"end")
        writer.close()
        assert list(next(chunks)) == ["end"] and list(chunks) == []


def test_lines_arrive_by_a_descriptor_of_any_number():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read, write = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with os.fdopen(fcntl.fcntl(read, fcntl.F_DUPFD, 1024), "rb") as stream:  # select takes smaller ones alone
            lines = arriving(stream)
            assert next(lines) is None
            os.write(write, b"One.\nTw")
            assert next(lines) == b"One.\n" and next(lines) is None
            os.write(write, b"o.")
            os.close(write)
            assert next(line for line in lines if line is not None) == b"Two."
    finally:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_samples_do_not_depend_on_when_lines_come(model, monkeypatch, capsys):
    options = ["--beam-size", "1", "--sampling-topk", "0", "--seed", "3", "--max-decoding-length", "6"]
    shown = []
    for pauses in (False, True):
        lines = [part for line in ["w7 w8"] * 5 for part in ([line, None] if pauses else [line])]
        monkeypatch.setattr(translate, "_lines", lambda files, failing, lines=lines: iter(lines))
        shown.append(run(capsys, "translate", model, "-", *options))
    assert shown[0] == shown[1] and len(set(shown[0].splitlines())) > 1
