"""What a translator reaches, and how fast: BLEU, chrF, ROUGE, distinct-n, sentences and tokens a second."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version

from . import inputs
from .decoding.modes import MODES, options_of
from .installation import need
from .text.lines import as_line

METRICS = {  # by name, their figures and what these are called
    "bleu": {"bleu": "BLEU"},
    "chrf": {"chrf": "chrF"},
    "rouge": {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"},
    "distinct": {"distinct1": "distinct-1", "distinct2": "distinct-2"},
}
USUAL = "bleu", "chrf"  # of translations


def scores(hypotheses: list[str], references: list[str], *, metrics: Iterable[str] = USUAL, resamples: int = 0) -> dict:
    """How near detokenised text comes to its references: the figures of each metric, in percent.

    * ``bleu``, ``chrf``: of the whole text, with the signatures under which sacreBLEU made them.
    * ``rouge``: the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), means over the sentences, by the package
      rouge-score with Porter's stemmer. It knows the letters a to z alone, so it is for English.
    * ``distinct``: different n-grams of all hypotheses over all of them, for n = 1 and 2 (Li et al. 2016), of words
      between white space. References do not matter.

    Args:
        metrics: of ``METRICS``.
        resamples: with any, also ``bleu_ci`` and so on, half the width of a 95% confidence interval: sacreBLEU's, by
            bootstrap resampling of the sentences so many times, or 1.96 standard errors of a mean (``rouge``).
    Returns:
        By name the figures of ``METRICS``, and ``signatures`` by metric.
    Raises:
        ValueError: not as many of both, none at all, or an unknown metric.
    """
    hypotheses, references = inputs.texts("hypotheses", hypotheses), inputs.texts("references", references)
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            "evaluate: references must be as many as the translations, at least one, "
            f"got {len(references)} for {len(hypotheses)}"
        )
    result, signatures = {}, {}
    for name in metrics:
        scorer = _SCORERS[inputs.choice("metrics", name, METRICS)]
        figures, signatures[name] = scorer(name, hypotheses, references, resamples)
        result |= {figure: round(value, 2) for figure, value in figures.items()}
    return {**result, "signatures": signatures}


def _sacrebleu(name: str, hypotheses: list[str], references: list[str], resamples: int) -> tuple[dict, str]:
    from sacrebleu.metrics import BLEU, CHRF

    class Chrf(CHRF):
        # Resamples score float32 or, where nothing is long enough to share n-grams, a Python float; sacreBLEU 2.6.0
        # cannot take the mean of both.
        def _compute_f_score(self, statistics):
            return float(super()._compute_f_score(statistics))

    metric = {"bleu": BLEU, "chrf": Chrf}[name]()
    score = metric.corpus_score(hypotheses, [references], n_bootstrap=max(resamples, 1))
    figures, signature = {name: score.score}, str(metric.get_signature())
    if resamples:
        shown = json.loads(score.format(signature=signature, is_json=True))
        figures[f"{name}_ci"] = shown.get("confidence_var", 0.0)  # not shown where every resample scores 0
    return figures, signature


def _rouge(name: str, hypotheses: list[str], references: list[str], resamples: int) -> tuple[dict, str]:
    check_metrics([name])
    from rouge_score.rouge_scorer import RougeScorer

    scorer, figures = RougeScorer([*METRICS[name]], use_stemmer=True), {}
    found = [scorer.score(reference, text) for text, reference in zip(hypotheses, references, strict=True)]
    for figure in METRICS[name]:
        values = [100 * each[figure].fmeasure for each in found]
        figures[figure] = statistics.mean(values)
        if resamples:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            figures[f"{figure}_ci"] = 1.96 * spread / len(values) ** 0.5
    return figures, f"stemmer:porter|version:{version('rouge-score')}"


def _distinct(name: str, hypotheses: list[str], references: list[str], resamples: int) -> tuple[dict, str]:
    figures, lines = {}, [line.split() for line in hypotheses]
    for n, figure in enumerate(METRICS[name], 1):
        ngrams = [tuple(words[i : i + n]) for words in lines for i in range(len(words) - n + 1)]
        figures[figure] = 100 * len(set(ngrams)) / max(1, len(ngrams))
    return figures, "tok:whitespace"


_SCORERS = {"bleu": _sacrebleu, "chrf": _sacrebleu, "rouge": _rouge, "distinct": _distinct}


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises ModuleNotFoundError where a metric needs a package that is not installed."""
    if "rouge" in metrics:
        need("rouge_score", "evaluate: rouge")


def evaluate(
    translator, sources: list[str], references: list[str], *, mode: str = "ar", max_batch_size: int = 32,
    on_batch: Callable[[int], object] | None = None, metrics: Iterable[str] = USUAL, resamples: int = 0, **options,
) -> dict:  # fmt: skip
    """Translates ``sources`` once, by the clock, and compares with ``references``.

    ``seconds`` is wall-clock time from text to text, model loading and a warm-up on the first sentences left out.
    ``tokens`` counts the tokens of the best translations, without ``eos``; ``passes`` are those of the decoder for one
    sentence, a mean: left to right one for each token and ``eos``, else as in ``TranslationResult.iterations``, and one
    for ``rerank``. What is compared are lines, as ``translate_file`` writes them.

    Args:
        translator: a ``janus_fast.Translator`` with vocabularies.
        sources, references: text, one sentence each.
        mode, max_batch_size, on_batch, options: as for ``janus_fast.Translator.generate``.
        metrics, resamples: as for ``scores``.
    Returns:
        A dictionary that JSON can hold: mode, options (all in force, defaults, too), the figures of ``metrics``,
        signatures, sentences, tokens, passes, seconds, sentences_per_second, tokens_per_second.
    Raises:
        ValueError: no sentences, not as many references, or an option that the Translator refuses.
    """
    sources, references = inputs.texts("sources", sources), inputs.texts("references", references)
    if not sources or len(sources) != len(references):
        raise ValueError(
            "evaluate: references must be as many as the sources, at least one, "
            f"got {len(references)} for {len(sources)}"
        )
    check_metrics(metrics := [*metrics])
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
    passes = [sum(result.iterations[:1]) or len(result.hypotheses[0]) + 1 for result in results]
    options = {"max_batch_size": max_batch_size, **in_force, **options, **in_force}
    return {
        "mode": mode,
        "options": json.loads(json.dumps(options, default=lambda number: number.item())),  # NumPy's numbers, too
        **scores(hypotheses, references, metrics=metrics, resamples=resamples),
        "sentences": len(sources),
        "tokens": tokens,
        "passes": round(statistics.mean(passes) + bool(in_force.get("rerank")), 2),
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
