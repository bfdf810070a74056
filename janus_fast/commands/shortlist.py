"""``janus-fast shortlist``: which words a model may say for those of a source, from parallel text."""

import argparse
from pathlib import Path

import numpy as np

from .. import directory, models
from ..inputs import check_input, check_output, flag, number
from ..replacing import replacing
from ..text import lexicon
from ..text.lines import lines_of
from ._decoding import count, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="name of a shipped model, or a model directory")
    parser.add_argument("--source", required=True, metavar="FILE", help="sentences in the model's source language")
    parser.add_argument("--target", required=True, metavar="FILE", help="their translations, line by line")
    parser.add_argument(
        "--out", metavar="FILE",
        help=f"what to write; a model reads {directory.MAP} of its directory (default: that of MODEL, unless it is "
        "shipped)",
    )  # fmt: skip
    parser.add_argument(
        "--alignments", metavar="FILE",
        help="for each line the tokens that translate each other, as 0-0 1-2 (of the model's tokens, from 0 on), by an "
        "aligner such as fast_align (default: IBM model 1 finds them)",
    )  # fmt: skip
    parser.add_argument(
        "--first", type=count, default=100, metavar="N", help="tokens that can always be said, the most frequent ones "
        "(default: 100)",
    )  # fmt: skip
    parser.add_argument(
        "--best", type=positive, default=100, metavar="N", help="likeliest translations of a token (default: 100)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="none that is less likely (default: 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    threshold = number("--threshold", arguments.threshold, least=0, most=1)
    folder = models.locate(arguments.model)
    config, vocabularies = directory.read_config(folder), directory.read_vocabularies(folder)
    if vocabularies is None:
        raise ValueError(f"MODEL must have a vocabulary, got {folder} without one")
    read = {flag(name): file for name in ("source", "target", "alignments") if (file := getattr(arguments, name))}
    for name, file in read.items():
        check_input(name, file)
    if not arguments.out and models.is_shipped(arguments.model):
        copied = f"`janus-fast convert {arguments.model} --out DIR` makes a directory of it"
        raise ValueError(f"--out must be given with a shipped model, which is not changed, got none; {copied}")
    path = Path(arguments.out or folder / directory.MAP)
    check_output("--out", path, **read)
    lines = [lines_of(file) for file in (arguments.source, arguments.target)]
    if len(lines[0]) != len(lines[1]):
        numbers = f"{len(lines[0]):,} and {len(lines[1]):,}"
        raise ValueError(f"--source and --target must have the same number of lines, got {numbers}")
    if empty := next((name for name, side in zip(("source", "target"), lines, strict=True) if not any(side)), None):
        raise ValueError(f"--{empty} must have a line that is not empty, got {getattr(arguments, empty)}")
    sides = [
        [np.array(vocabulary.ids(vocabulary.encode(line)), np.int64) for line in side]
        for vocabulary, side in zip(vocabularies, lines, strict=True)
    ]
    size = config.target_vocab_size
    said = np.bincount(np.concatenate(sides[1]), minlength=size)
    frequent = np.argsort(-said, kind="stable")[: min(arguments.first, np.count_nonzero(said))]
    if arguments.alignments:
        found = lexicon.by_links(*sides, size, _links(arguments.alignments, *sides))
    else:
        null = config.source_vocab_size
        found = lexicon.by_ibm_model_1([np.append(ids, null) for ids in sides[0]], sides[1], size)
        found = [part[: np.searchsorted(found[0], null * size)] for part in found]
    words = lexicon.vocabulary_map(*found, frequent, size, arguments.best, threshold)
    if vocabularies[0] is vocabularies[1]:  # what is not translated stays as it is
        for token in range(size):
            words.rules[token,] = np.union1d(words.rules.get((token,), []), token).astype(np.int64)
    with replacing(path.parent) as temporary:
        words.write(temporary / path.name, *vocabularies)
    mean = np.mean([len(words.candidates(ids.tolist())) for ids in sides[0][:1000]])
    print(f"{path}: {path.stat().st_size:,} bytes; a sentence may become {mean:,.0f} of {size:,} tokens on average")
    return 0


def _links(file: str, source: lexicon.Sentences, target: lexicon.Sentences) -> list[np.ndarray]:
    lines = lines_of(file)
    if len(lines) != len(source):
        raise ValueError(f"--alignments must have as many lines as --source = {len(source):,}, got {len(lines):,}")
    links = []
    for place, (line, *ids) in enumerate(zip(lines, source, target, strict=True), 1):
        try:
            own = np.array([link.split("-") for link in line.split()] or np.empty((0, 2)), np.int64)
            if own.shape[1:] != (2,) or not ((own >= 0) & (own < [*map(len, ids)])).all():
                raise ValueError
        except ValueError:
            tokens = f"{len(ids[0])} and {len(ids[1])} tokens"
            raise ValueError(
                f"--alignments must hold links such as 0-0 between {tokens} in line {place:,}, got {line!r}"
            ) from None
        links.append(own)
    return links
