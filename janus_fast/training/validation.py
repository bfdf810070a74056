"""How far a model has come, on sentences it is not trained on: losses, and BLEU of each mode it is trained for."""

from dataclasses import dataclass

import numpy as np
import torch

from .. import evaluate
from ..decoding.modes import validated
from ..text.batching import batches_by_tokens
from .data import ParallelData


@dataclass
class Validation:
    """``validate`` of a ``janus_fast.training.trainer.Trainer``.

    The loss terms are means over the sentences of ``data``, with masks, the corruption of monolingual text and words
    that are replaced drawn from a seed of their own. BLEU is that of ``sources`` against ``references``, decoded in
    each mode with the options that its record, and the objective, have for that.
    """

    data: ParallelData
    sources: list[str]
    references: list[str]
    vocabularies: tuple
    max_tokens: int = 4096

    def __call__(self, model, objective) -> dict:
        return {**self.losses(model, objective), **self.bleu(model, objective)}

    @torch.no_grad()
    def losses(self, model, objective) -> dict[str, float]:
        lengths = np.array([len(target) for target in self.data.targets])
        generator, sums, device = torch.Generator().manual_seed(0), {}, next(model.parameters()).device
        for index in batches_by_tokens(lengths, self.max_tokens):
            batch = self.data.packed(objective, index, generator)
            loss, terms = objective.loss(model, batch.to(device))
            for name, value in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(index)
        return {name: round(value / len(self.data), 4) for name, value in sums.items()}

    def bleu(self, model, objective) -> dict[str, float]:
        from ..translator import Translator

        if not self.sources:
            return {}
        device = next(model.parameters()).device.type
        translator, result = Translator(model, device, vocabularies=self.vocabularies), {}
        for mode in objective.modes:
            if (options := validated(mode, objective.validated)) is None:
                continue
            results = translator.translate(self.sources, mode=mode, **options)
            hypotheses = [translation.hypotheses[0] for translation in results]
            result[f"bleu_{mode}"] = evaluate.scores(hypotheses, self.references)["bleu"]
        return result
