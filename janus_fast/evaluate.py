"""What a translator reaches, and how fast: BLEU, chrF, sentences and tokens a second."""

import statistics
import time


def scores(hypotheses: list[str], references: list[str]) -> dict:
    """Corpus BLEU and chrF of detokenised text, with the signatures under which sacreBLEU made them."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            "evaluate: references must be as many as the translations, at least one, "
            f"got {len(references)} for {len(hypotheses)}"
        )
    from sacrebleu.metrics import BLEU, CHRF

    result, signatures = {}, {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result[name] = round(metric.corpus_score(hypotheses, [references]).score, 2)
        signatures[name] = str(metric.get_signature())
    return {**result, "signatures": signatures}
