"""Decodes ragged random requests for a long time; the memory that the process holds must not grow.

Requests vary in mode, options, number and length of sentences, and compute type. First comes the largest of each kind,
so that every buffer has its size. Of the rest, the last tenth may hold no more than the first, but for ``MARGIN``.
"""

import argparse
import json
import statistics
import sys
import time
from random import Random

from benchmarks.decode.gate import PAIR, SHIPPED
from benchmarks.machine import machine, resident
from janus_fast import Translator, backend
from janus_fast.data import test_set

# What the allocator keeps back for fragments goes up and down by some MiB. A leak of 1 KiB a request passes it within
# 4,096 requests, which are a few minutes.
MARGIN = 4 * 2**20
MOST = 32  # sentences in a request


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)g")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--backend", choices=backend.BACKENDS, default="engine", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    record = soak(arguments.minutes, arguments.threads, arguments.backend, Random(arguments.seed))
    growth = f"{record['growth_bytes'] / 2**20:+.1f} MiB"
    if arguments.json:
        print(json.dumps({**record, "machine": machine(arguments.threads)}, indent=1))
    else:
        held = f"{record['first_bytes'] / 2**20:.1f} MiB at first, {record['last_bytes'] / 2**20:.1f} MiB at last"
        print(f"{record['requests']:,} requests, {record['sentences']:,} sentences: {held} ({growth})")
    if record["growth_bytes"] > MARGIN:
        print(f"WRONG: soak: memory must grow by at most {MARGIN / 2**20:g} MiB, got {growth}", file=sys.stderr)
        return 1
    return 0


def soak(minutes: float, threads: int, backend_name: str, random: Random) -> dict:
    """Requests for so many minutes, and the memory held in the first and in the last tenth of them."""
    sources, references = test_set(PAIR)
    types = [name for name in ("float32", "bfloat16", "int8") if name in backend.COMPUTE_TYPES[backend_name]]
    translators = [Translator(SHIPPED, "cpu", name, threads, backend=backend_name) for name in types]
    longest = sorted(range(len(sources)), key=lambda i: -len(sources[i]))[:MOST]
    for translator in translators:
        for kind in KINDS:
            kind(translator, [sources[i] for i in longest], [references[i] for i in longest], None)
    held, sentences, deadline = [], 0, time.monotonic() + 60 * minutes
    while time.monotonic() < deadline or len(held) < 10:
        chosen = random.sample(range(len(sources)), random.randint(1, MOST))
        sentences += len(chosen)
        kind, translator = random.choice(KINDS), random.choice(translators)
        kind(translator, [sources[i] for i in chosen], [references[i] for i in chosen], random)
        held.append(resident())
    tenth = len(held) // 10
    first, last = statistics.median(held[:tenth]), statistics.median(held[-tenth:])
    return {
        "minutes": minutes, "compute_types": types, "requests": len(held), "sentences": sentences,
        "first_bytes": first, "last_bytes": last, "growth_bytes": last - first,
    }  # fmt: skip


# Each with options at random, or the largest that it ever takes.


def _search(translator: Translator, sources: list[str], references: list[str], random: Random | None) -> None:
    beam_size = random.randint(1, 5) if random else 5
    longest = random.randint(1, 60) if random else 60
    translator.translate(sources, mode="ar", beam_size=beam_size, max_decoding_length=longest, max_batch_size=MOST)


def _sample(translator: Translator, sources: list[str], references: list[str], random: Random | None) -> None:
    hypotheses, seed = (random.randint(1, 3), random.randrange(2**31)) if random else (3, 0)
    translator.translate(
        sources, mode="ar", beam_size=1, sampling_topk=10, num_hypotheses=hypotheses, max_decoding_length=60, seed=seed
    )


def _refine(translator: Translator, sources: list[str], references: list[str], random: Random | None) -> None:
    iterations, length_beam = (random.randint(1, 10), random.randint(1, 5)) if random else (10, 5)
    translator.translate(sources, mode="nar", iterations=iterations, length_beam=length_beam, max_batch_size=MOST)


def _score(translator: Translator, sources: list[str], references: list[str], random: Random | None) -> None:
    pairs = zip(sources, references, strict=True)
    encoded = [
        (translator.source_vocabulary.encode(source), translator.target_vocabulary.encode(reference))
        for source, reference in pairs
    ]
    translator.score_batch(*map(list, zip(*encoded, strict=True)))


KINDS = (_search, _sample, _refine, _score)
