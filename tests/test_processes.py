"""Translators among processes, threads and signals: nothing hangs, aborts, or is lost.

Each program runs in a process of its own, which is the one way out of a hang.
"""

import copy
import os
import pickle
import re
import subprocess
import sys
import textwrap

import pytest
from test_decoding import make_model

from janus_fast import Translator, Vocabulary, engine, save

if engine.missing():
    pytest.skip(engine.missing(), allow_module_level=True)


def run(program: str, *arguments: str, status: int = 0, seconds: int = 120) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("OMP_NUM_THREADS", None)
    environment["OMP_WAIT_POLICY"] = "passive"  # torch's threads spin for long where others want the cores
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, env=environment, timeout=seconds, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


CHILDREN = """
import os, sys, threading
from janus_fast import Translator

backend = sys.argv[1]
TEXT, RIGHT = ["The cell is empty."] * 3, ["Die Zelle ist leer."] * 3

def right(translator, **options):
    return [r.hypotheses[0] for r in translator.translate(TEXT, max_batch_size=1, **options)] == RIGHT

def make():
    return Translator("en-de-small", backend=backend, intra_threads=2, inter_threads=1 + (backend == "engine"))

def child(act):
    if (pid := os.fork()) == 0:
        sys.exit(0 if act() else 1)  # the interpreter's ordinary end, with all destructors
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def grandchild():
    return right(translator) and child(lambda: right(translator)) == 0

acts = [lambda: right(translator), lambda: right(make()), lambda: True, grandchild]
acts.append(lambda: right(translator, mode="nar", iterations=10))
for used in (True,) if backend == "torch" else (False, True):
    translator = make()
    if used:
        assert right(translator)
    print([child(act) for act in acts], flush=True)  # what is held back a child would print, too

if backend == "torch":  # which has locks of its own
    sys.exit()
stop = threading.Event()
def serve():
    while not stop.is_set():
        translator.translate(TEXT * 20)
threads = [threading.Thread(target=serve) for _ in range(4)]  # more than there are workers: some wait for one
for thread in threads:
    thread.start()
print([child(act) for act in acts * 2], flush=True)
stop.set()
for thread in threads:
    thread.join()
print(right(translator))
"""


@pytest.mark.parametrize("backend", ["engine", "torch"])
def test_a_child_of_fork_goes_on_with_its_parents_translator(backend):
    lines = run(CHILDREN, backend).stdout.splitlines()
    idle = ["[0, 0, 0, 0, 0]"]
    assert lines == (idle if backend == "torch" else [*idle, *idle, "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]", "True"])


POOL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from janus_fast import Translator

def work(text):
    return translator.translate([text])[0].hypotheses[0]

translator = Translator("en-de-small", intra_threads=2)
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    print(list(pool.map(work, ["The cell is empty.", "A table"])))
"""


def test_a_pool_of_processes_translates():
    assert run(POOL).stdout == "['Die Zelle ist leer.', 'Eine Tabelle']\n"


REFUSED = """
import os, resource, threading
from janus_fast import Translator

def count():
    return len(os.listdir("/proc/self/task"))

Translator("en-de-small", intra_threads=1).translate(["A table"])  # all that is loaded lazily
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (150 << 20), limits[1]))  # for some stacks of 8 MiB, not for hundreds
before = count()
for intra_threads, inter_threads in ((300, 1), (12, 2), (2, 300)):  # of the latter some start
    try:
        Translator("en-de-small", intra_threads=intra_threads, inter_threads=inter_threads)
    except OSError as error:
        print(error)
    assert count() == before, count()
translator = Translator("en-de-small", intra_threads=2)
print(translator.translate(["A table"])[0].hypotheses[0])
resource.setrlimit(resource.RLIMIT_AS, limits)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory by what /proc says; Linux has it")
def test_threads_that_the_system_refuses_are_an_error():
    *refusals, text = run(REFUSED).stdout.splitlines()
    for line, got in zip(refusals, ("300 and 1", "12 and 2", "2 and 300"), strict=True):
        said = re.fullmatch(
            "Translator: intra_threads and inter_threads must be as many as the system can start, "
            rf"got {got}: it started (\d+) beside the caller's \(.+\)",
            line,
        )
        assert said and 0 < int(said[1]) < 300, line
    assert text == "Eine Tabelle"


DAEMONS = """
import sys, threading, time
from janus_fast import Translator

backend, intra_threads, inter_threads = sys.argv[1], *map(int, sys.argv[2:])
translator = Translator("en-de-small", backend=backend, intra_threads=intra_threads, inter_threads=inter_threads)
# Encoding is not part of it: sentencepiece 0.2.3 by itself may abort a program that ends meanwhile.
tokens = [translator.source_vocabulary.encode("The cell is empty.")] * 8

def serve():
    while True:
        translator.translate_batch(tokens, max_batch_size=2)
        begun.set()

begun = threading.Event()
for _ in range(3):
    threading.Thread(target=serve, daemon=True).start()
assert begun.wait(60)
time.sleep(0.2)
"""


@pytest.mark.parametrize("threads", ["engine 1 1", "engine 2 1", "engine 1 2", "torch 2 1"])
def test_a_program_may_end_while_its_daemon_threads_translate(threads):
    assert run(DAEMONS, *threads.split()).stderr == ""


AT_EXIT = """
import atexit, sys, threading
backend, order = sys.argv[1:]

def at_exit():
    ending.set()
    thread.join()
    print(sum(found == ["Die Zelle ist leer."] for found in results) == len(results))
    print(len(results), len(thread_ended))
    try:
        print(translator.translate(["A table"])[0].hypotheses[0])
    except RuntimeError as error:
        print(error)

def serve():  # what runs when Python ends, and more
    begun.set()
    try:
        ending.wait()
        for _ in range(3):
            results.append(translator.translate(["The cell is empty."])[0].hypotheses)
    finally:
        thread_ended.append(True)

if order == "before":
    atexit.register(at_exit)
import janus_fast
if order == "after":
    atexit.register(at_exit)
begun, ending, results, thread_ended = threading.Event(), threading.Event(), [], []
translator = janus_fast.Translator("en-de-small", backend=backend)
thread = threading.Thread(target=serve, daemon=True)
thread.start()
assert begun.wait(60)
"""


@pytest.mark.parametrize("case", ["engine before", "engine after", "torch after"])
def test_handlers_of_the_exit_translate_and_wait_for_who_does(case):
    assert run(AT_EXIT, *case.split()).stdout.splitlines() == ["True", "3 1", "Eine Tabelle"]


def test_handlers_of_the_exit_that_come_behind_torchs_hang_nothing():
    done = run(AT_EXIT, "torch", "before")
    *_, count, error = done.stdout.splitlines()
    assert count == "0 1" and done.stderr == ""
    assert error.startswith("Translator: a handler of atexit must be registered after janus_fast is imported, if it is")


INTERRUPTED = """
import os, signal, sys, threading, time
from janus_fast import Translator

backend, inter_threads, method = sys.argv[1], int(sys.argv[2]), sys.argv[3]
translator = Translator("en-de-small", backend=backend, intra_threads=2, inter_threads=inter_threads)
texts = ["The cell is empty, and the table has more rows than the page has lines."] * 64
tokens = [translator.source_vocabulary.encode(text) for text in texts]
calls = {  # each takes minutes
    "nar": lambda: translator.translate(texts, mode="nar", iterations=512, length_beam=30, adaptive=False),
    "ar": lambda: translator.translate(texts, beam_size=64, min_decoding_length=250),
    "score": lambda: translator.score_batch(tokens * 5000, tokens * 5000, max_batch_size=4096),
}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it

def interrupt():
    global sent
    time.sleep(1)
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

expected = translator.translate(["A table"])
threading.Thread(target=interrupt, daemon=True).start()
try:
    calls[method]()
except KeyboardInterrupt:
    print("interrupted")
print(translator.translate(["A table"]) == expected)
assert time.monotonic() - sent < 20, time.monotonic() - sent  # a shared machine may be slow
"""


@pytest.mark.parametrize("case", ["engine 1 nar", "engine 1 ar", "engine 2 nar", "engine 2 score", "torch 1 nar"])
def test_an_interruption_waits_for_no_batch(case):
    assert run(INTERRUPTED, *case.split()).stdout.split() == ["interrupted", "True"]


HANDLERS = """
import os, signal, threading, time
from janus_fast import Translator

texts, parent = ["The cell is empty, and the table has more rows than the page has lines."] * 64, os.getpid()

def right(translator):
    results = translator.translate(["A table"] * 2, max_batch_size=1)
    return [r.hypotheses for r in results] == [["Eine Tabelle"]] * 2

def long(translator):
    translator.translate(texts, max_batch_size=32, mode="nar", iterations=512, length_beam=30, adaptive=False)

def waiting(translator):
    threading.Thread(target=long, args=[translator], daemon=True).start()
    time.sleep(0.2)
    right(translator)  # once the worker is free

def reentrant(*_):
    translator.translate(["A table"])

def forking(*_):
    global child
    if (child := os.fork()) > 0:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        raise TimeoutError("of the parent")

translator, pair = Translator("en-de-small", intra_threads=2), Translator("en-de-small", inter_threads=2)
for handler, call, user in (
    (reentrant, long, translator), (forking, long, translator), (forking, long, pair), (forking, waiting, translator),
):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.7)
    try:
        call(user)
    except (RuntimeError, TimeoutError) as error:
        print(error, flush=True)
        if os.getpid() != parent:
            os._exit(not right(user))
    if call is long:
        print(right(user), flush=True)
"""


def test_what_handlers_of_signals_do_hangs_nothing():
    forked = ["Translator: a signal's handler must not fork and return", "0", "of the parent"]
    assert run(HANDLERS).stdout.splitlines() == [
        "Translator: a callback or a signal's handler must not use the Translator whose call it interrupts", "True",
        *forked, "True", *forked, "True", *forked,
    ]  # fmt: skip


SPAWNED = """
import multiprocessing, sys
from janus_fast import Translator

def work(translator, text):
    return translator.translate([text])[0].hypotheses[0], translator.compute_type, translator.intra_threads

if __name__ == "__main__":
    translator = Translator("en-de-small", compute_type="int8", intra_threads=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(work, (translator, "The cell is empty.")))
"""


def test_a_translator_goes_to_a_spawned_process(tmp_path):
    program = tmp_path / "spawned.py"  # which the other process imports
    program.write_text(SPAWNED)
    done = subprocess.run([sys.executable, program], timeout=120, capture_output=True, text=True, cwd=os.getcwd())
    assert done.stdout == "('Die Zelle ist leer.', 'int8', 2)\n", done.stderr


def test_copies_of_a_translator(tmp_path, monkeypatch):
    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(5, 40))])
    model = make_model()
    save(model, tmp_path / "model", (vocabulary, vocabulary))
    save(model, tmp_path / "ids")
    monkeypatch.chdir(tmp_path)
    for name, options in (
        ("model", {"compute_type": "int8", "intra_threads": 1, "inter_threads": 2}),
        ("model", {"intra_threads": 2, "inter_threads": "auto"}),
        ("ids", {"vocabularies": (vocabulary, vocabulary), "backend": "torch"}),
    ):
        monkeypatch.chdir(tmp_path)
        translator = Translator(name, **options)
        expected = translator.translate(["w7 w8"])
        monkeypatch.chdir("/")  # a relative name means what it meant
        for other in (pickle.loads(pickle.dumps(translator)), copy.deepcopy(translator), copy.copy(translator)):
            assert other.translate(["w7 w8"]) == expected
            for what in ("compute_type", "intra_threads", "inter_threads", "backend", "device"):
                assert getattr(other, what) == getattr(translator, what)
    translator = Translator(model)
    assert copy.copy(translator) is translator and copy.deepcopy([translator])[0] is translator
    with pytest.raises(TypeError, match=r"model must be a name or a directory .* got a JanusModel; janus_fast\.save"):
        pickle.dumps(translator)
