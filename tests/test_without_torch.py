"""Decoding on the CPU where torch is not installed: what works, and what says that it is missing."""

import subprocess
import sys

import pytest

from janus_fast import engine
from janus_fast.installation import absence

if engine.missing():
    pytest.skip(engine.missing(), allow_module_level=True)

BLOCKED = "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
NOT_LOADED = "\nassert not {'torch', 'triton'} & {name.split('.')[0] for name in sys.modules}, sys.modules.keys()"
SOURCES = "The cell is empty.\n\nInsert a row.\n"


def python(program: str, *arguments, status=0, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert run.returncode == status, run.stderr
    return run


CLI = "from janus_fast.cli import main; import sys; status = main(sys.argv[1:])"
COMMANDS = {
    "translate": (["translate", "en-de-small", "--beam-size", "2"], SOURCES),
    "translate nar": (["translate", "en-de-small", "--mode", "nar", "--compute-type", "auto", "--json"], SOURCES),
    "evaluate": (["evaluate", "en-de-small", "--limit", "3", "--beam-size", "1", "--inter-threads", "2"], ""),
    "info": (["info"], ""),
    "demo": (["demo", "--limit", "4", "--passes", "2"], ""),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_need_and_load_no_torch(name):
    arguments, text = COMMANDS[name]
    blocked = python(BLOCKED + CLI + "; sys.exit(status)", *arguments, input=text)
    assert blocked.stdout and not blocked.stderr
    free = python(CLI + NOT_LOADED, *arguments, input=text)
    if name.startswith("translate"):
        assert free.stdout == blocked.stdout and free.stdout.count("\n") == 3


def test_the_library_needs_and_loads_no_torch(tmp_path):
    program = """
import janus_fast
from pathlib import Path
translator = janus_fast.Translator("en-de-small", inter_threads=2)
for options in {}, {"mode": "nar", "return_history": True}, {"beam_size": 1, "sampling_topk": 0, "seed": 1}:
    one = translator.translate(["The cell is empty.", "A row."], max_batch_size=1, num_hypotheses=1, **options)
    assert one[0].hypotheses[0]
tokens = translator.source_vocabulary.encode("The cell is empty.")
assert len(translator.score_batch([tokens], [tokens])[0].log_probs) == len(tokens) + 1
Path(sys.argv[1], "in").write_text("A row.\\n" * 3)
assert translator.translate_file(Path(sys.argv[1], "in"), Path(sys.argv[1], "out")) == 3
assert len(janus_fast.data.test_set()[0]) == 1000 and janus_fast.models.names()
janus_fast.JanusConfig(8, 8), janus_fast.Vocabulary, janus_fast.decoding.AutoregressiveOptions()
"""
    python("import sys\n" + program + NOT_LOADED, tmp_path)
    python(BLOCKED + program, tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--out", "x"], f"it needs {absence('torch')}"),
        (["convert", "en-de-small", "--out", "x"], "it needs torch, which is not installed"),
        (["translate", "en-de-small", "--device", "cuda"], "torch: it needs torch, which is not installed: in"),
        (["translate", "en-de-small", "--compute-type", "float64"], "torch: it needs torch, which is not installed"),
    ],
)
def test_what_needs_torch_says_so(arguments, message, tmp_path):
    error = python(BLOCKED + CLI + "; sys.exit(status)", *arguments, status=2, cwd=tmp_path).stderr
    assert error.startswith("janus-fast: error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "use",
    ["load('en-de-small')", "save", "JanusModel", "Visibility", "joint_loss", "explain", "checkpoint", "training"],
)
def test_what_is_imported_with_torch_says_so(use):
    program = f"""
import janus_fast
try:
    janus_fast.{use}
except ModuleNotFoundError as error:
    print(error)
"""
    said = python(BLOCKED + program).stdout
    assert said == f"janus_fast.{use.partition('(')[0]} needs {absence('torch')}\n"
    assert "pip install 'torch>=2.11'" in said and "pip install --no-build-isolation" in said
