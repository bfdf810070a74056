"""The CUDA kernels in the stand-alone emulator: random schedules, AddressSanitizer, ThreadSanitizer; and planted bugs,
so that we know that these checks can fail.
"""

import os
import subprocess
from functools import cache

import emulated
import pytest
from torch import Tensor

from janus_fast import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(emulated.compiler() is None, reason="needs a C++ compiler; CXX names one"),
]

RANDOM_SEEDS = [str(seed) for seed in range(1, 9)]
CHECKS = {  # variant of the runner, seeds, what its report says
    "in order": ("plain", ["0"], "is wrong"),
    "random orders": ("plain", RANDOM_SEEDS, "is wrong"),
    "address": ("address", ["0"], "AddressSanitizer"),
    "thread": ("thread", ["0"], "ThreadSanitizer: data race"),
}
SAMPLES = {name: dict(operation.samples()) for name, operation in ops.OPERATIONS.items()}


def update_mask(record):
    for label in ("half", "short_canvases", "not_a_number", "room", "settling_with_masks", "very_many_canvases"):
        emulated.update_mask(record, *SAMPLES["update_mask"][label])


def predict_lengths(record):
    for label in ("topk_odd_sizes", "window_clamped", "empty_source", "topk_no_sources"):
        emulated.predict_lengths(record, *SAMPLES["predict_lengths"][label])


def bfloat16(arguments) -> list:
    return [a.bfloat16() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]


def attention(record):
    for label, tiles in (("intervals", (0, 0)), ("causal", (2, 32)), ("strided", (4, 64)), ("sees_nothing", (1, 32))):
        emulated.attention(record, *bfloat16(SAMPLES["attention"][label]), *tiles)


def beam_step(record):
    for label in ("odd_sizes", "first_step", "ends_everywhere", "never_ends", "few_choices"):
        emulated.beam_step(record, *(a.clone() if isinstance(a, Tensor) else a for a in SAMPLES["beam_step"][label]))


def decoder_step(record):
    for label in ("odd_sizes", "query_rows", "norms_before", "sees_nothing"):
        emulated.decoder_step(record, *bfloat16(SAMPLES["decoder_step"][label]), 3, 64)


CALLS = {
    "update_mask": update_mask,
    "predict_lengths": predict_lengths,
    "attention": attention,
    "beam_step": beam_step,
    "decoder_step": decoder_step,
}


@cache
def calls_of(name: str):
    """A file of calls of one launcher and their right results."""
    record = emulated.Recorder()
    CALLS[name](record)
    return record.save(name, emulated.BUILD / f"{name}.calls")


def run(program, name: str, seeds: list[str]) -> tuple[int, str]:
    done = subprocess.run([program, calls_of(name), *seeds], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("variant", ["plain", "address"])
def test_the_emulator_itself(variant):
    program = emulated.build(f"self_test-{variant}", emulated.VARIANTS[variant], ["tests/simt/self_test.cpp"])
    leaks = {"ASAN_OPTIONS": "detect_leaks=0"}  # launches that fail leave their threads where they were
    done = subprocess.run([program], capture_output=True, text=True, timeout=300, env={**os.environ, **leaks})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("check", ["random orders", "address", "thread"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_found(name, check):
    variant, seeds, _ = CHECKS[check]
    code, report = run(emulated.runner(name, variant), name, seeds)
    assert code == 0, report


PLANTED = [  # launcher, header, what is there, what the bug makes of it, the checks that must find it
    pytest.param(
        "update_mask", "update_mask.cuh",
        "  __syncthreads();\n  for (int64_t m = thread;", "  for (int64_t m = thread;", ["in order", "thread"],
        id="update_mask-no-barrier-before-predictions",
    ),
    pytest.param(
        "update_mask", "update_mask.cuh",
        "row < end && call.masked_tokens[row]", "row <= end && call.masked_tokens[row]", ["address"],
        id="update_mask-one-row-too-many",
    ),
    pytest.param(
        "update_mask", "update_mask.cuh",
        "    call.masked_tokens[row] = call.tokens[row];\n", "", ["in order"],
        id="update_mask-nothing-behind-the-canvases",
    ),
    pytest.param(
        "update_mask", "collectives.cuh",
        "if (lane() == kWarp - 1) warp_totals", "if (lane() == kWarp - 1 && warp() > 0) warp_totals", ["address"],
        id="update_mask-uninitialised-total",
    ),
    pytest.param(
        "update_mask", "collectives.cuh",
        "  __syncthreads();  // the next call writes warp_totals\n", "", ["thread"],
        id="update_mask-no-barrier-behind-scan",
    ),
    pytest.param(
        "predict_lengths", "predict_lengths.cuh",
        "  __syncthreads();\n\n  if (warp() < kLengthSources", "  if (warp() < kLengthSources",
        ["random orders", "thread"],
        id="predict_lengths-no-barrier-behind-logits",
    ),
    pytest.param(
        "predict_lengths", "predict_lengths.cuh",
        "c = thread; c < call.channels", "c = thread; c <= call.channels", ["address"],
        id="predict_lengths-one-channel-too-many",
    ),
    pytest.param(
        "predict_lengths", "predict_lengths.cuh",
        "int first = warp() * kLengthsAtOnce;", "int first = warp() * kLengthsAtOnce + 1;", ["in order"],
        id="predict_lengths-uninitialised-logit",
    ),
    pytest.param(
        "attention", "attention.cuh", "        wait_copies();\n", "", ["in order"], id="attention-copies-not-awaited",
    ),
    pytest.param(
        "attention", "attention.cuh",
        "        wait_copies();\n        __syncthreads();\n", "        wait_copies();\n", ["random orders", "thread"],
        id="attention-no-barrier-behind-copies",
    ),
    pytest.param(
        "attention", "attention.cuh",
        "        __syncthreads();  // nobody reads the chunk before\n", "", ["random orders", "thread"],
        id="attention-no-barrier-before-copies",
    ),
    pytest.param(
        "attention", "attention.cuh", "row < count &&", "row <= count &&", ["address"], id="attention-one-key-too-many",
    ),
    pytest.param(
        "attention", "attention.cuh", "time < interval.y", "time <= interval.y", ["in order"],
        id="attention-interval-closed",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh",
        "  __syncthreads();  // survivors are there", "  // survivors are there", ["thread"],
        id="beam_step-no-barrier-before-reordering",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh",
        "position < step ? slots[position * beams + origin", "position < step - 1 ? slots[position * beams + origin",
        ["in order"],
        id="beam_step-one-position-too-few",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh",
        "  __syncthreads();  // and nobody reads the times any more\n", "", ["thread"],
        id="beam_step-no-barrier-before-times",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh", "larger(until, time[b] + 1)", "larger(until, time[b])", ["in order"],
        id="beam_step-interval-too-short",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh", "if (rank < kept) ranked", "if (rank + 1 < kept) ranked", ["address"],
        id="beam_step-uninitialised-rank",
    ),
    pytest.param(
        "beam_step", "beam_step.cuh", "&& other < c)", "&& other > c)", ["in order"], id="beam_step-ties-reversed",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh",
        "      grid_barrier();  // they are there\n", "", ["random orders", "thread"],
        id="decoder_step-blocks-do-not-wait-for-keys",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh",
        "      grid_barrier();  // and so is the sum\n", "", ["random orders", "thread"],
        id="decoder_step-blocks-do-not-wait-for-sums",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh",
        "shared.x[i] = from[i];\n  __syncthreads();\n", "shared.x[i] = from[i];\n", ["random orders", "thread"],
        id="decoder_step-no-barrier-behind-rows",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh",
        "  __syncthreads();  // and nobody reads the query any more\n", "", ["random orders", "thread"],
        id="decoder_step-no-barrier-behind-parts",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh", "time >= seen.visible_until", "time > seen.visible_until", ["in order"],
        id="decoder_step-interval-closed",
    ),
    pytest.param(
        "decoder_step", "decoder_step.cuh", "i < rows * channels; i += threads) shared.x[i] = from[i];",
        "i <= rows * channels; i += threads) shared.x[i] = from[i];", ["address"],
        id="decoder_step-one-channel-too-many",
    ),
]  # fmt: skip


@pytest.mark.parametrize("name, header, there, instead, checks", PLANTED)
def test_planted_bug_is_found(name, header, there, instead, checks, request):
    path = f"kernels/cuda/{header}"
    text = (emulated.ROOT / path).read_text()
    assert text.count(there) == 1, "the place to plant the bug in"
    overlay = {path: text.replace(there, instead)}
    for check in checks:
        variant, seeds, wanted = CHECKS[check]
        code, report = run(emulated.runner(name, variant, overlay, f"-{request.node.callspec.id}"), name, seeds)
        assert code != 0 and wanted in report, f"{check} has not found it: {report}"
