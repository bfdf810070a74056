"""Builds the CUDA kernels for the CPU (tests/simt) and calls their launchers on ordinary tensors.

``library()`` is loaded into Python; ``Recorder`` writes calls down for the stand-alone runner, which sanitizers want.
What is built lies in build/simt under the hash of its sources and flags.
"""

import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from janus_fast.ops import on_device

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "simt"
FLAGS = ["-std=c++20", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off"]
VARIANTS = {  # of the stand-alone runner
    "plain": ["-O1"],
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-fsanitize=thread"],
}
TYPES = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "float": ctypes.c_float, "bool": ctypes.c_bool}
FORMATS = {ctypes.c_int64: "q", ctypes.c_int32: "i4x", ctypes.c_float: "f4x", ctypes.c_bool: "?7x"}


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


@cache
def signatures() -> dict[str, list]:
    """Of each launcher in csrc/cuda/launchers.h: the types of its arguments."""
    text = re.sub(r"//.*", "", (ROOT / "csrc/cuda/launchers.h").read_text())
    found = {}
    for name, arguments in re.findall(r"int janus_fast_(\w+)\(([^)]*)\);", text):
        words = [argument.replace("const ", "").split() for argument in arguments.split(",")]
        found[name] = [ctypes.c_void_p if w[0].endswith("*") else TYPES[w[0]] for w in words]
    return found


def build(name: str, flags: list[str], files: list[str], overlay: dict[str, str] | None = None) -> Path:
    """``c++`` with these flags on these files of the repository; ``overlay`` replaces the text of some headers."""
    folders = ("kernels", "kernels/cuda", "csrc/cuda", "tests/simt")
    sources = {str(p.relative_to(ROOT)): p.read_text() for f in folders for p in sorted((ROOT / f).glob("*.*"))}
    sources |= overlay or {}
    key = hashlib.sha256(repr((compiler(), flags, files, sorted(sources.items()))).encode()).hexdigest()[:16]
    output = BUILD / f"{name}-{key}"
    if not output.exists():
        for old in BUILD.glob(f"{name}-*"):
            if old.name.startswith(output.name):
                continue  # another process is building it, too
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        include = []
        if overlay:
            include = ["-I", str(BUILD / f"{name}-{key}-overlay")]
            for path, text in overlay.items():
                target = Path(include[1]) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        BUILD.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_suffix(f".{os.getpid()}")
        command = [compiler(), *FLAGS, *flags, *include, "-I", str(ROOT), "-x", "c++", *files, "-o", str(unfinished)]
        subprocess.run(command, cwd=ROOT, check=True)
        unfinished.replace(output)
    return output


@cache
def library() -> ctypes.CDLL:
    """All kernels, for this process."""
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cuda").glob("*.cu"))
    loaded = ctypes.CDLL(str(build("library", ["-O1", "-shared", "-fPIC"], files)))
    for name, types in signatures().items():
        getattr(loaded, f"janus_fast_{name}").argtypes = types
    loaded.janus_fast_cuda_error.restype = ctypes.c_char_p
    loaded.janus_fast_simt_seed.argtypes = [ctypes.c_uint64]
    loaded.janus_fast_simt_launched.argtypes = [ctypes.POINTER(ctypes.c_int64)] * 2
    return loaded


def runner(name: str, variant: str, overlay: dict[str, str] | None = None, label: str = "") -> Path:
    """The stand-alone program that runs the calls of one launcher."""
    flags = [*VARIANTS[variant], f"-DLAUNCHER=janus_fast_{name}"]
    files = ["tests/simt/runner.cpp", "csrc/cuda/runtime.cu", f"csrc/cuda/{name}.cu"]
    return build(f"runner-{name}-{variant}{label}", flags, files, overlay)


def launched() -> tuple[int, int]:
    """Threads of a block and bytes of dynamic shared memory of the last launch."""
    threads, shared = ctypes.c_int64(), ctypes.c_int64()
    library().janus_fast_simt_launched(threads, shared)
    return threads.value, shared.value


class Emulator:
    """Calls launchers in this process; ``seed`` 0 is in order, others are random orders."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def __call__(self, name: str, *arguments) -> None:
        code = library()
        code.janus_fast_simt_seed(self.seed)
        status = getattr(code, f"janus_fast_{name}")(*(_pointer(a) for a in arguments), None)
        if status:
            raise RuntimeError(f"{name}: {code.janus_fast_cuda_error(status).decode()}")


class Recorder(Emulator):
    """An emulator that also writes down, for the runner, what every call was given and what it left behind."""

    def __init__(self):
        super().__init__()
        self.calls: dict[str, list[bytes]] = {}

    def __call__(self, name: str, *arguments) -> None:
        before = [_bytes(a) for a in arguments]
        super().__call__(name, *arguments)
        parts = self.calls.setdefault(name, [])
        for kind, argument, old in zip(signatures()[name], (*arguments, None), (*before, None), strict=True):
            if kind is not ctypes.c_void_p:
                parts.append(struct.pack(f"<{FORMATS[kind]}", argument))
            elif argument is None:
                parts.append(struct.pack("<q", -1))
            else:
                parts += [struct.pack("<q", len(old)), old, _bytes(argument)]

    def save(self, name: str, path: Path) -> Path:
        path.write_bytes(b"".join(self.calls[name]))
        return path


def _pointer(argument):
    return argument.data_ptr() if isinstance(argument, Tensor) else argument


def _bytes(argument) -> bytes | None:
    """The memory of a tensor, from its first element to its last."""
    if not isinstance(argument, Tensor):
        return None
    last = sum((n - 1) * stride for n, stride in zip(argument.shape, argument.stride(), strict=True))
    size = (last + 1) * argument.element_size() if argument.numel() else 0
    return ctypes.string_at(argument.data_ptr(), size) if size else b""


# ------------------------------------------------------------- the launchers, with the arguments of the operations


def update_mask(run, tokens, scores, rows, predicted_tokens, predicted_scores, offsets, ratio, mask_token,
                row_offsets, adaptive):  # fmt: skip
    count, canvases = tokens.numel(), offsets.numel() - 1
    inputs = [t.contiguous() for t in (tokens, rows, predicted_tokens, scores, predicted_scores)]
    results = [t.new_empty(count) for t in (tokens, scores, rows)]
    results += [torch.empty(canvases, dtype=torch.bool), tokens.new_empty(count)]
    results += [torch.empty(n, dtype=torch.int32) for n in (canvases + 1, 1)]
    sizes = count, rows.numel(), canvases, mask_token, ratio, adaptive
    run("update_mask", *inputs, offsets, row_offsets, *sizes, *results)
    return results


def predict_lengths(run, encoded, offsets, weight, beam, window, min_length, max_length):
    encoded, weight = (t if t.stride(-1) == 1 else t.contiguous() for t in (encoded, weight))
    sources = offsets.numel() - 1
    lengths, log_probs = torch.empty(sources, beam, dtype=torch.int64), torch.empty(sources, beam)
    run(
        "predict_lengths", encoded, offsets, weight, encoded.stride(0), weight.stride(0), encoded.shape[0], sources,
        *weight.shape, beam, window, min_length, max_length, encoded.dtype == torch.bfloat16, lengths, log_probs,
    )  # fmt: skip
    return lengths, log_probs


def attention(run, query, key, value, query_offsets, key_offsets, key_sequences, query_times, visible_from,
              visible_until, scale, warps_per_head=0, chunk=0):  # fmt: skip
    """Returns the reference's results. 0 leaves the choice of tiles to the launcher."""
    output = query.new_empty(query.shape)
    lse = query.new_empty(query.shape[:2], dtype=torch.float32)
    strides = [stride for t in (query, key, value) for stride in t.stride()[:2]]
    run(
        "attention", query, key, value, *strides, query_offsets, key_offsets, key_sequences, query_times, visible_from,
        visible_until, query.shape[0], key.shape[0], query_offsets.numel() - 1, key_offsets.numel() - 1,
        *query.shape[1:], scale, query.dtype == torch.bfloat16, warps_per_head, chunk, output, lse,
    )  # fmt: skip
    return output, lse


def register(run) -> torch.library.Library:
    """Makes the operation that CUDA alone has run on the CPU, for as long as the returned object lives."""

    def beam_step(ids, log_probs, divisors, eos, *state):
        steps = dict(zip(on_device.STATE, state, strict=True))["slots"].shape[1]
        sentences, beams = state[1].shape
        run("beam_step", ids, log_probs, divisors, sentences, beams, ids.shape[1], steps - 1, eos, *state)

    library = torch.library.Library("janus_fast", "IMPL")
    library.impl("beam_step", beam_step, "CPU")
    return library


class BeamSearch:
    """The state of a beam search, as the device holds it; what is not written yet is garbage."""

    def __init__(self, run, sentences: int, beams: int, choices: int, longest: int, length_penalty: float, eos: int):
        self.run, self.sizes, self.eos = run, (sentences, beams, choices, longest), eos
        steps = longest + 1
        garbage = lambda *shape: torch.full(shape, 10**6, dtype=torch.int32)  # noqa: E731
        self.divisors = torch.tensor([(t + 1) ** length_penalty for t in range(steps)], dtype=torch.float64)
        self.steps = torch.zeros(sentences, dtype=torch.int32)
        self.totals, self.tokens = torch.zeros(sentences, beams), torch.zeros(sentences, beams, dtype=torch.int64)
        self.slots, self.history_tokens = garbage(sentences, steps, beams), garbage(sentences, steps, beams)
        self.visible_from, self.visible_until = garbage(sentences, steps, beams), garbage(sentences, steps, beams)
        self.times = torch.arange(beams, dtype=torch.int32).repeat(sentences, 1)
        self.visible_from[:, 0], self.visible_until[:, 0] = self.times, self.times + 1
        self.history_scores = torch.empty(sentences, steps, beams)
        self.finished_count = torch.zeros(sentences, dtype=torch.int32)
        self.finished_lengths = garbage(sentences, beams)
        self.finished_tokens = garbage(sentences, beams, steps)
        self.finished_scores = torch.empty(sentences, beams, dtype=torch.float64)
        self.finished_token_scores = torch.empty(sentences, beams, steps)
        self.remaining = torch.tensor([sentences], dtype=torch.int32)

    def step(self, ids: Tensor, log_probs: Tensor) -> None:
        """Tokens that may follow [S * beams, K] and their log-probabilities."""
        self.run(
            "beam_step", ids, log_probs, self.divisors, *self.sizes, self.eos, self.steps, self.totals, self.tokens,
            self.slots, self.times, self.visible_from, self.visible_until, self.history_tokens, self.history_scores,
            self.finished_count, self.finished_lengths, self.finished_tokens, self.finished_scores,
            self.finished_token_scores, self.remaining,
        )  # fmt: skip

    def ancestors(self, sentence: int, beam: int) -> list[int]:
        """The row that wrote each position of a hypothesis' keys and values, and itself, which writes the next one."""
        return [*self.slots[sentence, : int(self.steps[sentence]), beam].tolist(), beam]

    def seen(self, sentence: int, beam: int) -> list[list[int]]:
        """The rows whose keys a hypothesis sees, at each position up to the next one."""
        time, positions = self.times[sentence, beam], int(self.steps[sentence]) + 1
        sees = (self.visible_from[sentence] <= time) & (time < self.visible_until[sentence])
        return [row.nonzero().flatten().tolist() for row in sees[:positions]]

    def history(self, sentence: int, beam: int) -> list[int]:
        """The tokens chosen so far, by way of the rows that its keys and values come from."""
        written = self.ancestors(sentence, beam)[1:]
        return [int(self.history_tokens[sentence, t, slot]) for t, slot in enumerate(written)]

    def finished(self, sentence: int) -> list[tuple[list[int], float, list[float]]]:
        """(tokens, score, scores of tokens and of the end), best first; of equals the one that finished first."""
        found = []
        for i in range(int(self.finished_count[sentence])):
            length = int(self.finished_lengths[sentence, i])
            tokens = self.finished_tokens[sentence, i, :length].tolist()
            scores = self.finished_token_scores[sentence, i, : length + 1].tolist()
            found.append((tokens, self.finished_scores[sentence, i].item(), scores))
        return sorted(found, key=lambda hypothesis: -hypothesis[1])
