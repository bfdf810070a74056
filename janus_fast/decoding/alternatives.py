"""Outputs that differ in the token behind a prefix."""

import dataclasses
import math

from ..inputs import OptionError, choice
from ..results import TranslationResult
from .options import AutoregressiveOptions


def alternatives(
    translator, source: list[list[int]], prefixes: list[list[int] | None] | None, least: float, options: dict
) -> list[TranslationResult]:
    """Of every source the best outputs that go on by each of the likeliest tokens behind its prefix, without those
    less likely than ``least`` but the first; as many as ``num_hypotheses``, the output of the likeliest token first.

    A score is the log-probability of that token, and the score of what follows it.

    Source: CTranslate2's ``return_alternatives``.
    """
    for name, neutral in (
        ("mode", "ar"), ("draft", None), ("on_batch", None), ("callback", None), ("coverage_penalty", 0),
        ("prefix_bias_beta", 0),
    ):  # fmt: skip
        if options.get(name, neutral) != neutral:
            raise OptionError(name, f"be {neutral!r} with return_alternatives", repr(options[name]))
    asked = choice("return_scores", options.pop("return_scores"), (True, False))
    options["prefix_alone"] = "any"  # what is forced here is no prefix of the caller's
    prefixes = [list(prefix or ()) for prefix in ([None] * len(source) if prefixes is None else prefixes)]
    if len(prefixes) != len(source):
        raise ValueError(f"target_prefix must have one entry a source = {len(source)}, got {len(prefixes)}")
    count, penalty = options.pop("num_hypotheses", 1), options.get("length_penalty", 1.0)
    most, by_length = options.get("max_decoding_length", 256), {}
    for number, prefix in enumerate(prefixes):
        by_length.setdefault(len(prefix), []).append(number)
    begun: list[tuple[int, list[int], float]] = []  # number of the source, prefix and token, log-probability
    for length, numbers in by_length.items():
        if length >= most:
            begun += [(n, prefixes[n][:most], 0.0) for n in numbers for _ in range(count)]
            continue
        own = {name: value for name, value in options.items() if name != "alignment_heads"}
        first = own | {
            "beam_size": count, "num_hypotheses": count, "max_decoding_length": length + 1, "forced_eos": False,
            "min_decoding_length": length + 1, "length_penalty": 0.0, "patience": 1.0, "early_stopping": True,
            "return_attention": False, "return_logits_vocab": False, "sampling_topk": 1, "sampling_topp": 1.0,
            "sampling_temperature": 1.0,
        }  # fmt: skip
        found = translator.generate([source[n] for n in numbers], [prefixes[n] for n in numbers], **first)
        for n, result in zip(numbers, found, strict=True):
            pairs = zip(result.hypotheses, result.scores, strict=True)
            begun += [
                (n, ids, score) for rank, (ids, score) in enumerate(pairs) if not rank or math.exp(score) >= least
            ]
    if penalty:  # of every search all that it finds, as it divides by the whole length
        search = AutoregressiveOptions(**{name: options[name] for name in ("beam_size", "patience") if name in options})
        options["num_hypotheses"] = max(search.beam_size, search.wanted)
    going = translator.generate([source[n] for n, *_ in begun], [ids for _, ids, _ in begun], **options)
    fields = [field.name for field in dataclasses.fields(TranslationResult)]
    results = [TranslationResult([], []) for _ in source]
    for (n, ids, first), result in zip(begun, going, strict=True):
        lengths = [len(scores) for scores in result.token_scores]
        for place, length in enumerate(lengths):  # the length of what follows
            result.scores[place] *= (max(length, 1) / max(length - len(ids), 1)) ** penalty
        best = max(range(len(lengths)), key=result.scores.__getitem__)
        result.scores[best] += first
        for name in fields:
            getattr(results[n], name).extend(getattr(result, name)[best : best + 1])
    for result in results:
        result.scores = result.scores if asked else []
    return results
