"""Conditional masked language model (Mask-Predict, Ghazvininejad et al. 2019): the NAR distribution alone."""

from dataclasses import dataclass

from .masking import Masked, masking_option
from .streams import masked_streams


@dataclass
class Cmlm(Masked):
    """L = CE(nar) + 0.1 CE(length), with uniform masking unless told otherwise."""

    modes = ("nar",)

    masking: str = masking_option("uniform")

    def terms(self):
        return {"nar": 1.0}, {}

    def build(self, target, lengths, drawn):
        return [masked_streams(target, lengths, *drawn.unbind(1), self.config.mask_token_id, auxiliary=False)]
