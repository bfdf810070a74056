"""MPNet (Song et al., NeurIPS 2020): masked words in a drawn order, with masks for those that are yet to come."""

from dataclasses import dataclass

import torch

from .masking import Masked, masking_option, stream_weight
from .streams import masked_streams


@dataclass
class Mpnet(Masked):
    """L = CE(aux) + CE(nar) + 0.1 CE(length).

    Of a sentence with b masked words, in an order z that is drawn uniformly, CE(aux) is the mean of
    -log p(y[z[t]] | x, visible words, y[z[1]] .. y[z[t-1]], masks at the places z[t] .. z[b]): each step knows how long
    the sentence is, and which places are open. CE(nar) is that of the masks among the content rows, which see the
    visible words and all masks: a pass of mask-predict.

    So it trains mode "nar", by both streams: the first query of a sentence is a mask of mask-predict, too. It does not
    train mode "ar", which knows no masks behind a word, and no length.

    Source: MPNet. The original has relative positions, which this architecture lacks; it masks 15% of the tokens, where
    ``masking`` is CMLM's here, as generation begins with masks alone; one in five of its masks is another token, or the
    right one. CE(nar) is its option ``--return-mlm``, which it leaves out by default: ``nar_weight`` 0.
    """

    modes = ("nar",)

    masking: str = masking_option("uniform")
    nar_weight: float | None = stream_weight("NAR")

    def terms(self):
        return {"aux": 1.0, "nar": 1.0 if self.nar_weight is None else self.nar_weight}, {}

    def draw(self, target, lengths, generator):
        """Which tokens are masked, which of these are predicted, and the rank of each in the order: [N, 3]."""
        masks = super().draw(target, lengths, generator)
        ranks = [torch.randperm(length, generator=generator) for length in lengths]
        return torch.cat([masks, torch.cat([*ranks, target[:0]])[:, None]], 1)

    def build(self, target, lengths, drawn):
        masked, predicted = drawn[:, :2].bool().unbind(1)
        mask_token = self.config.mask_token_id
        return [masked_streams(target, lengths, masked, predicted, mask_token, auxiliary=True, ranks=drawn[:, 2])]
