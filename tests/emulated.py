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
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from janus_fast.reference.decoder_step import hidden_of
from janus_fast.reference.linear_activation import ACTIVATIONS

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "simt"
FLAGS = ["-std=c++20", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off"]
VARIANTS = {  # of the stand-alone runner
    "plain": ["-O1"],
    "address": ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
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
    fields = re.findall(r"FIELD\((\w+, \w+),", (ROOT / "kernels/beam_step.h").read_text())
    parameters = "".join(f"{field.replace(', ', ' *')}, " for field in fields)
    text = text.replace("JANUS_BEAM_STATE(JANUS_BEAM_PARAMETER) ", parameters)
    found = {}
    for name, arguments in re.findall(r"int janus_fast_(\w+)\(([^)]*)\);", text):
        words = [argument.replace("const ", "").split() for argument in arguments.split(",")]
        found[name] = [ctypes.c_void_p if "*" in "".join(w) else TYPES[w[0]] for w in words]
    return found


def build(
    name: str, flags: list[str], files: list[str], overlay: dict[str, str] | None = None, objects: Sequence[Path] = ()
) -> Path:
    """``c++`` with these flags on these files of the repository, and objects of earlier calls; ``overlay`` replaces the
    text of some headers."""
    folders = ("kernels", "kernels/cuda", "csrc/cuda", "tests/simt")
    sources = {str(p.relative_to(ROOT)): p.read_text() for f in folders for p in sorted((ROOT / f).glob("*.*"))}
    sources |= overlay or {}
    key = hashlib.sha256(
        repr((compiler(), flags, files, *map(str, objects), sorted(sources.items()))).encode()
    ).hexdigest()[:16]
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
        command = [compiler(), *FLAGS, *flags, *include, "-I", str(ROOT), "-x", "c++", *files, "-x", "none", *objects]
        subprocess.run([*command, "-o", unfinished], cwd=ROOT, check=True)
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
    flags = VARIANTS[variant]
    objects = [  # what no overlay changes, compiled once
        build(f"main-{name}-{variant}", [*flags, "-c", f"-DLAUNCHER=janus_fast_{name}"], ["tests/simt/runner.cpp"]),
        build(f"runtime-{variant}", [*flags, "-c"], ["csrc/cuda/runtime.cu"]),
    ]
    return build(f"runner-{name}-{variant}{label}", flags, [f"csrc/cuda/{name}.cu"], overlay, objects)


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


def decoder_step(run, x, caches, places, cross_keys, parameters, *rest):
    """Writes keys and values in place."""
    integers, (activation, before, eps, *tiles) = rest[:12], rest[12:]
    (rows, channels), (layers, keys, _, heads, size) = x.shape, caches.shape
    hidden, output = hidden_of(parameters.shape[1], channels), torch.empty_like(x)
    sequences = [n for own in (integers[:6], integers[6:]) for n in (own[2].numel(), own[1].numel() - 1)]
    run(
        "decoder_step", x, caches, places, cross_keys, parameters, *integers, rows, places.numel(), layers, heads, size,
        hidden, keys, cross_keys.shape[1], *sequences, *cross_keys.stride()[:2], list(ACTIVATIONS).index(activation),
        before, eps, x.dtype == torch.bfloat16, *(tiles or (0, 0)), torch.empty(rows * (3 * channels + hidden)), output,
    )  # fmt: skip
    return output


def beam_step(run, log_probs, ids, eos, *state):
    """Writes the state in place."""
    run("beam_step", log_probs, ids, *ids.shape, state[3].shape[1], eos, *state)
