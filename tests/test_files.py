"""Text files: many of them, by several processes, on from where a run ended, over lines that cannot be translated."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli_translate import GREEDY, SKIPS, SPECIAL, WORDS
from test_decoding import make_model

from janus_fast import Translator, Vocabulary, cli, files, save, translate_files
from janus_fast.backend import most_at_once
from janus_fast.files import Job, _shares, begun, translating, write

LINES = [" ".join(f"w{5 + (7 * row + 3 * n) % 35}" for n in range(1 + row % 9)) for row in range(300)]
OPTIONS = {"beam_size": 1, "max_decoding_length": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("plain") / "model"
    save(make_model(), directory, (Vocabulary(SPECIAL + WORDS),) * 2)
    return str(directory)


@pytest.fixture(scope="module")
def expected(model) -> list[str]:
    return [result.hypotheses[0] for result in Translator(model).translate(LINES, **OPTIONS)]


def written(path, lines) -> str:
    Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def read(path) -> list[str]:
    return Path(path).read_text(encoding="utf-8").split("\n")[:-1]


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "janus_fast", "translate", *map(str, arguments)]


def test_many_files_by_two_processes_are_those_of_one(model, expected, tmp_path, capfd):
    parts = {"a.txt": (0, 170), "empty": (0, 0), "b.txt": (170, 171), "c": (171, 300)}
    sources = [written(tmp_path / name, LINES[slice(*part)]) for name, part in parts.items()]
    out = tmp_path / "out"
    assert (
        cli.main(
            ["translate", model, *sources, "--output-dir", str(out), "--processes", "2", "--batch-size", "4", *GREEDY]
        )
        == 0
    )
    for name, part in parts.items():
        assert read(out / name) == expected[slice(*part)]
    shown = capfd.readouterr()
    assert shown.out == "" and "janus-fast: 300 lines in " in shown.err and " MB/minute" in shown.err
    again = [tmp_path / f"again{number}" for number in range(4)]
    for threads in ({}, {"intra_threads": 2, "inter_threads": "auto"}):
        report = translate_files(model, sources, again, max_batch_size=4, **threads, **OPTIONS)
        assert [read(path) for path in again] == [expected[slice(*part)] for part in parts.values()]
        assert report.lines == 300 and report.bytes == sum(os.path.getsize(s) for s in sources) and not report.skipped


def test_what_is_streamed_through_processes_is_one_output(model, expected, tmp_path):
    text = "".join(line + "\n" for line in LINES[:40])
    done = subprocess.run(
        command(model, "--processes", 2, *GREEDY), input=text, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.split("\n")[:-1] == expected[:40]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_goes_on_behind_the_whole_lines(model, tmp_path, processes):
    source, whole, out = written(tmp_path / "in", LINES[:50]), tmp_path / "whole", tmp_path / "out"
    sampling = {"beam_size": 1, "sampling_topk": 0, "seed": 5, "max_decoding_length": 6}
    translate_files(model, [source], [whole], **sampling)
    begin = "".join(line + "\n" for line in read(whole)[:17])
    out.write_text(begin + "half a li", encoding="utf-8")
    report = translate_files(model, [source], [out], resume=True, processes=processes, **sampling)
    assert out.read_bytes() == whole.read_bytes() and report.lines == 33
    assert translate_files(model, [source], [out], resume=True, **sampling).lines == 0
    assert out.read_bytes() == whole.read_bytes()
    out.write_text(begin, encoding="utf-8")
    assert Translator(model).translate_file(source, out, resume=True, **sampling) == 33
    assert out.read_bytes() == whole.read_bytes()
    flags = ["--beam-size", "1", "--sampling-topk", "0", "--seed", "5", "--max-decoding-length", "6"]
    assert cli.main(["translate", model, source, "-o", str(out), "--resume", *flags]) == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("foreign", ["a\nb\nc\nd\n", "a\nb\nc\nd", "a\nb\nc\nhalf"])
def test_an_output_of_more_lines_is_refused_and_left_alone(model, tmp_path, capsys, processes, foreign):
    source, out = written(tmp_path / "in", LINES[:3]), tmp_path / "out"
    out.write_text(foreign, encoding="utf-8")
    with pytest.raises(ValueError, match="^resume: .*out must hold no more lines than .*in, which it is the transl"):
        translate_files(model, [source], [out], resume=True, processes=processes, **OPTIONS)
    arguments = ["translate", model, source, "-o", str(out), "--resume", "--processes", str(processes), *GREEDY]
    assert cli.main(arguments) != 0 and "out must hold no more lines than " in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == foreign


def test_half_a_line_stays_until_there_is_one_to_write(model, expected, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\xff\n")
    out.write_text("without an end of its line", encoding="utf-8")
    with pytest.raises(ValueError, match="in must be UTF-8 text"):
        translate_files(model, [source], [out], resume=True, **OPTIONS)
    arguments = ["translate", model, str(source), "-o", str(out), "--resume", *GREEDY]
    assert cli.main(arguments) != 0 and "in must be UTF-8 text" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "without an end of its line"
    written(source, LINES[:3])
    assert cli.main(arguments) == 0 and read(out) == expected[:3]


def test_a_source_that_cannot_be_read_leaves_no_output(model, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="in must be UTF-8 text"):
        translate_files(model, [source], [out], **OPTIONS)
    with pytest.raises(ValueError, match="in must be UTF-8 text"):
        Translator(model).translate_file(source, out, **OPTIONS)
    assert cli.main(["translate", model, str(source), "-o", str(out), *GREEDY]) != 0 and not out.exists()
    source.write_bytes(b"")
    assert translate_files(model, [source], [out], **OPTIONS).lines == 0 and out.read_bytes() == b""
    assert "in must be UTF-8 text" in capsys.readouterr().err


def test_a_first_line_that_is_too_long_is_named(model, tmp_path, capsys):
    good, bad = written(tmp_path / "good", LINES[:3]), written(tmp_path / "bad", ["w8 " * 40, *LINES[:2]])
    rule = "must have at most 32 tokens, bos and eos included, got 42; --max-input-length 30 cuts such lines"
    assert cli.main(["translate", model, bad, *GREEDY]) != 0
    assert f"error: line 1 {rule}{SKIPS}\n" in capsys.readouterr().err
    assert cli.main(["translate", model, good, bad, "--output-dir", str(tmp_path / "out"), *GREEDY]) != 0
    assert f"bad, line 1 {rule}{SKIPS}\n" in capsys.readouterr().err
    assert len(read(tmp_path / "out" / "good")) == 3
    Path(bad).write_bytes(b"w8\n\xff\n")
    assert cli.main(["translate", model, good, bad, "--output-dir", str(tmp_path / "out"), *GREEDY]) != 0
    said = f"{bad} must be UTF-8 text, got byte 0xff in line 2{SKIPS}\n"
    assert said in capsys.readouterr().err and len(read(tmp_path / "out" / "bad")) == 1


def test_lines_that_cannot_be_translated_are_passed_over_on_request(model, expected, tmp_path, monkeypatch, capsys):
    lines = [line.encode() for line in LINES[:20]]
    lines[3], lines[4], lines[11] = b"\xff w7", b" ".join([b"w8"] * 40), b"w9 w39"
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\n".join(lines) + b"\n")
    translate, batches = Translator._translate, []

    def failing(self, tokens, **options):
        batches.append(len(tokens))
        if ["w9", "w39"] in tokens:
            raise FloatingPointError("generate: every candidate must have a finite score, got NaN or infinity")
        return translate(self, tokens, **options)

    monkeypatch.setattr(Translator, "_translate", failing)
    wanted = [*expected[:3], "", "", *expected[5:11], "", *expected[12:20]]
    report = translate_files(model, [source], [out], skip_errors=True, **OPTIONS)
    assert read(out) == wanted and report.lines == 20
    assert [line for _, line, _ in report.skipped] == [4, 5, 12]
    assert "byte 0xff in line 4" in report.skipped[0][2] and "got 42" in report.skipped[1][2]
    with pytest.warns(UserWarning, match="translate_file: line 12 of .*in is passed over: generate: every candidate"):
        assert Translator(model).translate_file(source, out, skip_errors=True, **OPTIONS) == 20
    assert read(out) == wanted
    arguments = ["translate", model, str(source), "-o", str(out), *GREEDY]
    assert cli.main([*arguments, "--skip-errors"]) == 0
    shown = capsys.readouterr().err
    assert read(out) == wanted and shown.count("janus-fast: passed over: ") == 3 and "; 3 passed over" in shown
    assert "line 5 must have at most 32 tokens, bos and eos included, got 42; --max-input-length 30 cuts" in shown
    assert cli.main([*arguments, "--skip-errors", "--json"]) == 0
    records = [json.loads(line) for line in read(out)]
    assert [number for number, record in enumerate(records) if "error" in record] == [3, 4, 11]
    capsys.readouterr()
    assert cli.main(arguments) != 0  # without, it ends there, and what comes before is written
    assert "in line 4" in capsys.readouterr().err and read(out) == expected[:3]


def test_a_process_that_is_killed_is_told_and_the_run_resumes(model, tmp_path):
    """Of two: the command ends with an error, and leaves no process and whole lines."""
    lines = LINES * 40
    source, out = written(tmp_path / "in", lines), tmp_path / "out"
    arguments = command(model, source, "-o", out, "--processes", 2, "--batch-size", 8, *GREEDY)
    run = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        children = wait_for(lambda: os.path.exists(out) and os.path.getsize(out) > 0 and workers_of(run.pid))
        os.kill(children[0], signal.SIGKILL)
        _, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode != 0 and "processes must live until all is translated, but one was killed" in error
    wait_for(lambda: not any(alive(child) for child in children))
    done, _, _ = begun(out)
    assert 0 < done < len(lines)
    subprocess.run([*arguments, "--resume"], timeout=100, check=True, capture_output=True)
    short = list(dict.fromkeys(lines))
    by_line = dict(zip(short, (r.hypotheses[0] for r in Translator(model).translate(short, **OPTIONS)), strict=True))
    assert read(out) == [by_line[line] for line in lines]


def test_a_process_killed_while_lines_are_waited_for_is_told(model):
    """So that it is the next lines, not results, that find no process."""
    made_by = {"model": model, "device": "cpu"}
    with pytest.raises(OSError, match="^processes must live until all is translated, but one was killed"):
        with translating(made_by, {**OPTIONS, "max_batch_size": 4, "read_batch_size": 4}, 2) as translate:

            def lines():
                yield from [*LINES[:2], None]
                for child in (own := multiprocessing.active_children()):
                    os.kill(child.pid, signal.SIGKILL)
                wait_for(lambda: not any(child.is_alive() for child in own))
                time.sleep(0.5)  # until the executor knows
                yield from LINES[2:4]

            found = [pair for _, _, pairs in translate([Job("pipe", lines(), None)], 2) for pair in pairs]
            pytest.fail(f"nothing was told: {found}")


def test_only_processes_of_ones_own_are_ended(model, expected, tmp_path):
    """Not those that another thread started in the meantime."""
    source, other = written(tmp_path / "in", LINES[:4]), multiprocessing.get_context("spawn").Process(target=wait)

    def with_another(*arguments):
        other.start()
        return write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", with_another)
        translate_files(model, [source], [tmp_path / "out"], processes=2, **OPTIONS)
    try:
        assert read(tmp_path / "out") == expected[:4]
        other.join(timeout=0.5)
        assert multiprocessing.active_children() == [other]
    finally:
        other.terminate()
        other.join(timeout=10)


def wait() -> None:
    time.sleep(60)


def test_children_leave_with_their_parent(model, tmp_path):
    source = written(tmp_path / "in", LINES * 40)
    run = subprocess.Popen(command(model, source, "-o", tmp_path / "out", "--processes", 2, *GREEDY))
    try:
        children = wait_for(lambda: os.path.exists(tmp_path / "out") and workers_of(run.pid))
    finally:
        run.kill()
        run.wait(timeout=10)
    wait_for(lambda: not any(alive(child) for child in children))


def workers_of(process: int) -> list[int]:
    """The children that translate; another one counts what they share."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    named = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return named if len(named) == 2 else []


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["in", "--resume"], "--resume must go with --output FILE or --output-dir, got standard output"),
        (["in", "-o", "x", "--output-dir", "out"], "--output-dir must be given without --output, got x"),
        (["--output-dir", "out"], "--output-dir must go with files that have names, got standard input"),
        (
            ["in", "other/in", "--output-dir", "out"],
            "--output-dir must go with files of different names, got in and other/in",
        ),
        (["in", "--output-dir", "."], "--output-dir must each be another file than sources and outputs"),
        (["in", "--processes", "0"], "argument --processes: must be at least 1, got 0"),
        (["in", "-o", "x", "--processes", "2", "--beam-size", "0"], "--beam-size must be an integer of at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(model, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    written("in", LINES[:2]), written("other/in", LINES[:2])
    try:
        assert cli.main(["translate", model, *arguments]) != 0
    except SystemExit:
        pass
    assert message in capsys.readouterr().err
    assert read("in") == LINES[:2] and not os.path.exists("x")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inter_threads": None}, "inter_threads must be an integer of at least 1, got None"),
        ({"inter_threads": 1025}, "inter_threads must be at most 1024, got 1025"),
        ({"inter_threads": "all"}, "inter_threads must be 'auto' or an integer of at least 1, got 'all'"),
        ({"inter_threads": "auto", "intra_threads": 1.5}, "intra_threads must be an integer of at least 0, got 1.5"),
    ],
)
def test_threads_that_cannot_be_are_refused(model, tmp_path, wrong, message):
    source = written(tmp_path / "in", LINES[:1])
    with pytest.raises(ValueError, match=f"^translate_files: {message}$"):
        translate_files(model, [source], [tmp_path / "out"], **wrong)


@pytest.mark.parametrize(
    ("where", "at_once"),
    [({}, 3), ({"backend": "engine"}, 3), ({"backend": "torch"}, 1), ({"compute_type": "float64"}, 1)],
)
def test_as_many_lines_are_read_as_the_backend_decodes_at_once(model, tmp_path, monkeypatch, where, at_once, capsys):
    source, read_ahead = written(tmp_path / "in", LINES[:3]), []
    chunks = Job.chunks
    monkeypatch.setattr(Job, "chunks", lambda job, size: read_ahead.append(size) or chunks(job, size))
    threads = {"intra_threads": 3, "inter_threads": "auto"}
    translate_files(model, [source], [tmp_path / "out"], max_batch_size=2, **threads, **where, **OPTIONS)
    Translator(model, **threads, **where).translate_file(source, tmp_path / "one", max_batch_size=2, **OPTIONS)
    asked = [word for name, value in where.items() for word in (f"--{name.replace('_', '-')}", value)]
    asked += ["--threads", "3", "--inter-threads", "auto", "--batch-size", "2", *GREEDY]
    assert cli.main(["translate", str(model), str(source), *asked]) == 0
    assert read_ahead == 3 * [4 * at_once * 2]
    assert most_at_once("auto", "cuda", "default", 3, "auto") == 1


def test_lines_are_numbered_here(model, tmp_path):
    source, out = written(tmp_path / "in", ["a"]), tmp_path / "out"
    out.write_text("kept\n", encoding="utf-8")
    for translate in (
        lambda: translate_files(model, [source], [out], first_number=3),
        lambda: Translator(model).translate_file(source, out, first_number=3),
    ):
        with pytest.raises(ValueError, match="^first_number must be left out, as lines are numbered here, got 3"):
            translate()
        assert out.read_text(encoding="utf-8") == "kept\n"


def test_a_model_that_is_not_there_is_told_by_the_processes_too(tmp_path):
    source = written(tmp_path / "in", ["a"])
    with pytest.raises(FileNotFoundError, match="^model must be a model directory or one of"):
        translate_files("no-such-model", [source], [tmp_path / "out"], processes=2)
    assert not (tmp_path / "out").exists()


def test_processors_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6, 7, 9}, raising=False)
    assert _shares(2) == [[4, 5], [6, 7, 9]]
    assert _shares(7) == [[4], [5], [6], [7], [9], [4], [5]]


def test_chunks_end_where_lines_must_be_waited_for():
    job = Job("pipe", iter(["a", "b", "c", None, None, "d"]), None, begin=1)
    assert list(job.chunks(2)) == [(1, ["b", "c"]), (3, None), (3, None), (3, ["d"])]


@pytest.mark.parametrize("text, left", [(b"\xe9\n", "kept"), (b"w7\n\xe9\n", "w"), (b"", "")])
def test_an_output_is_kept_from_a_source_that_cannot_be_read(model, tmp_path, text, left):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(text)
    output.write_text("kept")
    assert cli.main(["translate", str(model), str(source), "-o", str(output)]) == (2 if text else 0)
    assert output.read_text().startswith(left) and output.read_text().count("\n") == (left == "w")
    output.write_text("kept")
    if text:
        with pytest.raises(ValueError, match="must be UTF-8 text, got byte 0xe9 in line"):
            Translator(model).translate_file(source, output, **OPTIONS)
    else:
        Translator(model).translate_file(source, output, **OPTIONS)
    assert ("kept" in output.read_text()) == (left == "kept")
