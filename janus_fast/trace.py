"""One page of HTML that shows how translations came about: no script, no other file, readable on a phone.

The colour of a token is its probability in the pass that predicted it. What there is to show is in the results: all of
mode "nar" and "speculative" with ``return_history=True``, the tokens and their probabilities of the others.
"""

import html
import math
from collections.abc import Iterable

from .results import TranslationResult
from .text.lines import as_line

SHADES = 10  # of certainty, from "may be anything" to "sure"
LOW, MIDDLE, HIGH = (0xF4, 0xA5, 0x82), (0xF7, 0xF7, 0xD0), (0x92, 0xC5, 0xDE)  # told apart by the colour-blind, too


def _shade(part: float) -> str:
    (begin, end), at = ((LOW, MIDDLE), 2 * part) if part < 0.5 else ((MIDDLE, HIGH), 2 * part - 1)
    return "#" + "".join(f"{round(a + (b - a) * at):02x}" for a, b in zip(begin, end, strict=True))


STYLE = """
.janus { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; overflow-wrap: anywhere; }
.janus article { border-top: 1px solid #bbb; padding: .5em 0 1em; }
.janus h2 { font-size: 1.1em; margin: .4em 0; }
.janus p { margin: .3em 0; }
.janus summary { cursor: pointer; padding: .4em 0; }
.janus .pass { margin: .35em 0; padding-left: 4.2em; position: relative; }
.janus .pass > b { position: absolute; left: 0; font-weight: normal; color: #555; }
.janus i { font-style: normal; display: inline-block; text-align: center; line-height: 1.15; padding: 1px 3px;
  margin: 1px 0; border: 1px solid transparent; border-radius: 4px; min-width: .8em; vertical-align: top; }
.janus i.word { margin-left: .3em; }
.janus i small { display: block; font-size: .65em; color: #333; }
.janus i.mask { background: #ddd; color: #777; }
.janus i.new { border-color: #111; }
.janus i.again { border: 1px dashed #b2182b; text-decoration: line-through; }
.janus i.accepted { border: 2px solid #1b7837; }
.janus i.refused { border: 1px dashed #b2182b; background: #eee; text-decoration: line-through; }
.janus .key { font-size: .85em; color: #333; }
""" + "".join(f".janus .c{n} {{ background: {_shade(n / (SHADES - 1))}; }}\n" for n in range(SHADES))

KEYS = {
    "nar": '<i class="new c9">framed</i> predicted in this pass, <i class="again c1">struck out</i> and masked again '
    'as one of the least certain, <i class="mask">░</i> a mask',
    "speculative": '<i class="accepted">framed</i> drafted, and accepted by the model, <i class="refused">struck '
    'out</i> drafted and refused, <i class="new">thin frame</i> added by the pass itself',
    "ar": "",
}


def page(sources: Iterable[str], results: Iterable[TranslationResult], *, title: str, note: str = "") -> str:
    """The whole page: of each source what became of it. ``note`` is a sentence that stands under the title."""
    pairs = list(zip(sources, results, strict=True))
    kinds = dict.fromkeys(_kind(result) for _, result in pairs if any(result.hypotheses))
    articles = [article(result, f"{number}. {as_line(source)}") for number, (source, result) in enumerate(pairs, 1)]
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>\nbody {{ margin: 0 auto; padding: .6em; max-width: 60em; }}",
        f"{STYLE}</style>\n</head>\n<body class=\"janus\">\n<h1>{html.escape(title)}</h1>",
        *([f"<p>{html.escape(note)}</p>"] if note else []),
        *map(_key, kinds), *articles, "</body>\n</html>\n",
    ])  # fmt: skip


def fragment(result: TranslationResult) -> str:
    """One result, for a page of somebody else's, such as a notebook."""
    return f'<style>{STYLE}</style>\n<div class="janus">\n{_key(_kind(result))}\n{article(result)}\n</div>'


def article(result: TranslationResult, title: str = "") -> str:
    kind, parts = _kind(result), [f'<h2 dir="auto">{html.escape(title)}</h2>'] if title else []
    tokens = result.tokens or result.hypotheses
    if kind == "nar" and len(tokens) > 1:
        parts.append(f"<p>Lengths tried: {', '.join(f'{len(own)}' for own in tokens)} tokens, best first.</p>")
    for number, hypothesis in enumerate(result.hypotheses):
        text = as_line(hypothesis) if isinstance(hypothesis, str) else " ".join(map(str, hypothesis))
        about = [f"{len(tokens[number])} tokens" if tokens[number] or result.tokens else ""]
        if result.iterations:
            about.append(f"{result.iterations[number]} passes")
        if result.scores:
            about.append(f"score {result.scores[number]:.3f}")
        summary = f'<b dir="auto">{html.escape(text)}</b> ({", ".join(filter(None, about))})'
        rows = "\n".join(_ROWS[kind](result, number))
        parts.append(f"<details{'' if number else ' open'}>\n<summary>{summary}</summary>\n{rows}\n</details>")
    return "<article>\n" + "\n".join(parts) + "\n</article>"


def _kind(result: TranslationResult) -> str:
    if any(result.predictions):
        return "nar"
    return "speculative" if any(result.history) else "ar"


def _key(kind: str) -> str:
    steps = "".join(f'<i class="c{n}">{"&nbsp;" if n % 3 else f"{n / (SHADES - 1):.0%}"}</i>' for n in range(SHADES))
    return f'<p class="key">Certainty: {steps}{f"; {KEYS[kind]}" if KEYS[kind] else ""}.</p>'


def _tokens_of(result: TranslationResult, number: int) -> list:
    """What there are scores of: tokens or ids; of hypotheses that are text, and of unknown tokens, nothing."""
    own = (result.tokens or result.hypotheses)[number]
    return [] if isinstance(own, str) else own


def _left_to_right(result: TranslationResult, number: int, name: str = "") -> list[str]:
    scores = result.token_scores[number] if result.token_scores else []
    shown = [*_tokens_of(result, number), "end"][: len(scores)]
    return [_row(name, (_token(token, score) for token, score in zip(shown, scores, strict=True)))]


def _in_parallel(result: TranslationResult, number: int) -> list[str]:
    canvases, predictions = result.history[number], result.predictions[number]
    rows, masked = [_row("masks", ['<i class="mask">░</i>'] * len(canvases[0]))] if canvases else [], None
    for place, (said, scores) in enumerate(zip(predictions, result.prediction_scores[number], strict=True)):
        again = [now != token for now, token in zip(canvases[place + 1], said, strict=True)]
        marks = []
        for at, token in enumerate(said):
            new = masked is None or masked[at]
            marks.append(_token(token, scores[at], "again" if again[at] else "new" if new else ""))
        rows.append(_row(f"pass {place + 1}", marks))
        masked = again
    if result.token_scores and len(result.token_scores[number]) > len(_tokens_of(result, number)):
        rows += _left_to_right(result, number, "ranked")
    return rows


def _by_drafts(result: TranslationResult, number: int) -> list[str]:
    output, scores, known, rows = _tokens_of(result, number), result.token_scores[number], 0, []
    left = result.accepted[number]
    for place, fed in enumerate(result.history[number], 1):
        pairs = enumerate(zip(fed, output, strict=False))
        agreed = next((n for n, (one, other) in pairs if one != other), min(len(fed), len(output)))
        marks = [_token(token, scores[n], "accepted" if n >= known else "") for n, token in enumerate(fed[:agreed])]
        left -= max(0, agreed - known)
        if agreed == len(output) and len(fed) > agreed and left:  # the end was drafted, and accepted
            marks.append(_token("end", scores[agreed], "accepted"))
        else:
            marks += [_token(token, None, "refused") for token in fed[agreed:]]
            marks.append(_token([*output, "end"][agreed], scores[agreed], "new"))
        rows.append(_row(f"pass {place}", marks))
        known = agreed + 1
    return rows


_ROWS = {"ar": _left_to_right, "nar": _in_parallel, "speculative": _by_drafts}


def _row(name: str, tokens: Iterable[str]) -> str:
    return f'<div class="pass" dir="auto"><b>{name}</b>{"".join(tokens)}</div>'


def _token(token, log_prob: float | None, mark: str = "") -> str:
    """A token, and under it its probability in per cent."""
    text, begins = as_line(str(token)) or " ", isinstance(token, int)
    if text.startswith("▁"):
        text, begins = text[1:] or "▁", True
    classes, percent = [mark, "word" if begins else ""], ""
    if log_prob is not None:
        certain = min(1.0, math.exp(log_prob)) if log_prob == log_prob else 0.0
        classes.append(f"c{min(SHADES - 1, int(certain * SHADES))}")
        percent = f"<small>{100 * certain:.0f}</small>"
    return f'<i class="{" ".join(filter(None, classes))}">{html.escape(text)}{percent}</i>'
