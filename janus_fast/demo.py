"""A look at a trained model: quality and speed of both modes on sentences it has never seen, and how words fill in."""

import argparse
import os
import sys
import time

from .commands._decoding import add_threads_argument, positive
from .decoding.modes import MODES
from .text.lines import as_line

LABELS = -max(len(f"{mode.title}, {own}") for mode in MODES.values() for own in {**mode.shown, **(mode.permuted or {})})
COLUMNS = (("mode", LABELS), ("BLEU", 6), ("chrF", 6), ("sentences/s", 12), ("ms/sentence at batch 1", 23))
MASK = "░░"
BOLD, DIM, NEW, PLAIN = "\033[1m", "\033[2m", "\033[1;32m", "\033[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", default="en-de-small", help="default: en-de-small")
    parser.add_argument("--pair", default="en-de", help="languages of the test set (default: en-de)")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N sentences alone (default: all)")
    parser.add_argument("--passes", type=positive, default=6, metavar="N", help="shown for each sentence (default: 6)")
    add_threads_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from janus_fast import Translator

    from .commands.info import processor
    from .data import test_set
    from .parameters import count

    sources, references = (side[: arguments.limit] for side in test_set(arguments.pair))
    translator = Translator(arguments.model, intra_threads=arguments.threads)
    parameters = f"{count(translator.config) / 1e6:.1f} million parameters"
    threads = f"threads: {translator.intra_threads}"
    _say(f"{arguments.model}: {parameters}, {processor()}, {threads}, kernels: {translator.isa or 'reference'}")
    fewer = "" if arguments.limit else " (--limit N: the first N)"
    _say(f"{len(sources):,} sentences that the model has never seen, {arguments.pair}{fewer}\n")
    quality_and_speed(translator, sources, references)
    chosen = [n for n, text in enumerate(sources) if 8 <= len(text.split()) <= 12][:5]
    chosen = chosen or range(min(5, len(sources)))
    parallel = MODES["nar"].shown_of(translator.config)
    if parallel:
        _say(f"\nin parallel, pass by pass ({MASK} is a place that is still masked, or masked again):")
    for number in chosen if parallel else ():
        show_passes(translator, sources[number], references[number], arguments.passes)
    _say("\nleft to right by drafts, pass by pass (in [brackets] a draft, in front of | what is accepted of it):")
    show_drafts(translator, sources[chosen[0]])
    return 0


def configurations(config) -> list[tuple[str, str, dict]]:
    """What is measured of a model: label, mode and options."""
    shown = ((name, mode.title, mode.shown_of(config)) for name, mode in MODES.items())
    return [(f"{title}, {label}", name, options) for name, title, own in shown for label, options in own.items()]


def quality_and_speed(translator, sources: list[str], references: list[str]) -> None:
    """One line of the table a configuration, printed as it is measured; on a terminal, a bar shows how far that is."""
    from tqdm import tqdm

    from .evaluate import evaluate, milliseconds_per_sentence

    _row([name for name, _ in COLUMNS], BOLD)
    sample = sources[:: max(1, len(sources) // 25)]
    for label, mode, options in configurations(translator.config):
        total, hidden = len(sources) + len(sample) + 1, not sys.stderr.isatty()
        with tqdm(total=total, desc=label, unit=" sentences", leave=False, disable=hidden) as bar:
            record = evaluate(translator, sources, references, mode=mode, on_batch=bar.update, **options)
            latency = milliseconds_per_sentence(translator, sample, mode=mode, on_batch=bar.update, **options)
        figures = [f"{record[name]:.1f}" for name in ("bleu", "chrf", "sentences_per_second")]
        _row([label, *figures, f"{latency:.1f}"])


def show_passes(translator, source: str, reference: str, passes: int) -> None:
    """The source, its reference, and the best canvas before the first and after each pass, of which an order has one
    a word."""
    options = next(iter(MODES["nar"].shown_of(translator.config).values()))
    options = {name: passes if name == "iterations" else value for name, value in options.items()}
    result = translator.translate([source], mode="nar", return_history=True, **options)[0]
    mask = translator.target_vocabulary.tokens[translator.config.mask_token_id]
    _say(f"\n  {_styled(source, BOLD)}")
    before: list[str] = []
    for number, canvas in enumerate(result.history[0]):
        _say(f"  pass {number}  {canvas_text(canvas, before, mask)}")
        before = canvas
        if sys.stdout.isatty():
            time.sleep(0.2)  # for the eye
    _say(f"  human   {_styled(reference, DIM)}")


def show_drafts(translator, source: str) -> None:
    """What each pass was fed, drafted as much as can be: the words so far and a draft, and what became of that."""
    drafts = {"draft_threshold": 0.0, "adaptive_drafts": False, "return_history": True}
    if translator.config.two_stream:
        drafts["drafter"] = "model"
    encoded = translator.source_vocabulary.encode(source)
    result = translator.translate_batch([encoded], mode="speculative", **drafts)[0]
    output, history, decode = result.hypotheses[0], result.history[0], translator.target_vocabulary.decode
    _say(f"\n  {_styled(source, BOLD)}")
    known = 0
    for number, fed in enumerate(history, 1):
        agreed = next((n for n, pair in enumerate(zip(fed, output, strict=False)) if pair[0] != pair[1]), len(fed))
        agreed = min(agreed, len(output))
        words, right, wrong = (as_line(decode(part)) for part in (fed[:known], fed[known:agreed], fed[agreed:]))
        draft = f" [{_styled(right, NEW)} | {_styled(wrong, DIM)}]" if fed[known:] else ""
        _say(f"  pass {number}  {words}{draft}")
        known = agreed + 1
    _say(f"  output  {as_line(decode(output))}  ({len(history)} passes for {len(output) + 1} tokens)")


def canvas_text(canvas: list[str], before: list[str], mask: str) -> str:
    """Tokens as words: masks as blocks, tokens that were not there before in colour."""
    parts = []
    for place, token in enumerate(canvas):
        if token == mask:
            parts.append(" " + _styled(MASK, DIM))
            continue
        space, text = (" ", token[1:]) if token.startswith("▁") else ("", token)
        changed = before and before[place] != token
        parts.append(space + (_styled(text, NEW) if changed else text))
    return as_line("".join(parts).strip())


def _row(cells: list[str], style: str = "") -> None:
    padded = (
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, (_, width) in zip(cells, COLUMNS, strict=True)
    )
    _say(_styled("".join(padded), style))


def _styled(text: str, style: str) -> str:
    return f"{style}{text}{PLAIN}" if style and sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    from .cli import main

    sys.exit(main(["demo", *sys.argv[1:]]))
