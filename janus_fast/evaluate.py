"""What a translator reaches, and how fast: BLEU, chrF, sentences and tokens a second."""

import json
import statistics
import time
from collections.abc import Callable

from . import inputs
from .decoding.modes import MODES, options_of
from .text.lines import as_line


def scores(hypotheses: list[str], references: list[str], *, resamples: int = 0) -> dict:
    """Corpus BLEU and chrF of detokenised text, with the signatures under which sacreBLEU made them.

    With ``resamples``, also ``bleu_ci`` and ``chrf_ci``: half the width of sacreBLEU's 95% confidence interval, by
    bootstrap resampling of the sentences so many times. ValueError unless there are as many of both, one at least.
    """
    hypotheses, references = inputs.texts("hypotheses", hypotheses), inputs.texts("references", references)
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            "evaluate: references must be as many as the translations, at least one, "
            f"got {len(references)} for {len(hypotheses)}"
        )
    from sacrebleu.metrics import BLEU, CHRF

    class Chrf(CHRF):
        # Resamples score float32 or, where nothing is long enough to share n-grams, a Python float; sacreBLEU 2.6.0
        # cannot take the mean of both.
        def _compute_f_score(self, statistics):
            return float(super()._compute_f_score(statistics))

    result, signatures = {}, {}
    for name, metric in (("bleu", BLEU()), ("chrf", Chrf())):
        score = metric.corpus_score(hypotheses, [references], n_bootstrap=max(resamples, 1))
        signatures[name], result[name] = str(metric.get_signature()), round(score.score, 2)
        if resamples:
            shown = json.loads(score.format(signature=signatures[name], is_json=True))
            result[f"{name}_ci"] = shown.get("confidence_var", 0.0)  # not shown where every resample scores 0
    return {**result, "signatures": signatures}


def evaluate(
    translator, sources: list[str], references: list[str], *, mode: str = "ar", max_batch_size: int = 32,
    on_batch: Callable[[int], object] | None = None, resamples: int = 0, **options,
) -> dict:  # fmt: skip
    """Translates ``sources`` once, by the clock, and compares with ``references``.

    ``seconds`` is wall-clock time from text to text, model loading and a warm-up on the first sentences left out.
    ``tokens`` counts the tokens of the best translations, without ``eos``. What is compared are lines, as
    ``translate_file`` writes them.

    Args:
        translator: a ``janus_fast.Translator`` with vocabularies.
        sources, references: text, one sentence each.
        mode, max_batch_size, on_batch, options: as for ``janus_fast.Translator.generate``.
        resamples: as for ``scores``.
    Returns:
        A dictionary that JSON can hold: mode, options (all in force, defaults, too), bleu, chrf, signatures, sentences,
        tokens, seconds, sentences_per_second, tokens_per_second.
    Raises:
        ValueError: no sentences, not as many references, or an option that the Translator refuses.
    """
    sources, references = inputs.texts("sources", sources), inputs.texts("references", references)
    if not sources or len(sources) != len(references):
        raise ValueError(
            "evaluate: references must be as many as the sources, at least one, "
            f"got {len(references)} for {len(sources)}"
        )
    hypotheses, tokens, seconds, fields = [], 0, 0.0, MODES[inputs.choice("mode", mode, MODES)].fields
    own = options_of(mode, {name: value for name, value in options.items() if name in fields}, translator.config)
    in_force = {name: getattr(own, name) for name, field in fields.items() if field.metadata.get("flag", True)}
    for timed in (False, True):
        began = time.perf_counter()
        encoded = [translator.source_vocabulary.encode(text) for text in (sources if timed else sources[:4])]
        results = translator.translate_batch(
            encoded, mode=mode, max_batch_size=max_batch_size, on_batch=on_batch if timed else None, **options
        )
        best = [result.hypotheses[0] for result in results]
        hypotheses = [as_line(translator.target_vocabulary.decode(words)) for words in best]
        seconds, tokens = time.perf_counter() - began, sum(map(len, best))
    options = {"max_batch_size": max_batch_size, **in_force, **options, **in_force}
    return {
        "mode": mode,
        "options": json.loads(json.dumps(options, default=lambda number: number.item())),  # NumPy's numbers, too
        **scores(hypotheses, references, resamples=resamples),
        "sentences": len(sources),
        "tokens": tokens,
        "seconds": round(seconds, 6),
        "sentences_per_second": round(len(sources) / seconds, 2),
        "tokens_per_second": round(tokens / seconds, 2),
    }


def milliseconds_per_sentence(translator, sources: list[str], *, mode: str = "ar", **options) -> float:
    """The median time of one sentence at batch 1, from text to text, after one sentence of warm-up."""
    times = []
    for text in [sources[0], *sources]:
        began = time.perf_counter()
        translator.translate([text], mode=mode, **options)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])
