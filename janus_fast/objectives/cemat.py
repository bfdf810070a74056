"""CeMAT (Li et al., ACL 2022): words are masked on both sides, and both the decoder and the encoder predict them."""

from dataclasses import dataclass

import torch

from ..inputs import numbers, option, rule
from .masking import Masked, masking_option
from .streams import masked_streams


@dataclass
class Cemat(Masked):
    """L = (1 - g) CE(nar) + g CE(encoder) + 0.1 CE(length), with ``encoder_loss_lambda`` g.

    Of each source a share, drawn uniformly between the two of ``source_mask_ratio``, is masked: so many of its words,
    rounded up or down at random so that the mean is that share, drawn uniformly. CE(encoder) is the mean cross-entropy of these words by the encoder's rows, projected
    by the output matrix, as both sides have one vocabulary. CE(nar) is that of ``cmlm``, beside such sources.

    Of the original the code-switching by dictionaries is left out. It rounds up, so that sources of few words would
    never be read without masks.
    """

    modes = ("nar",)

    masking: str = masking_option("uniform")
    encoder_loss_lambda: float = option(0.3, numbers(least=0, most=1), "weight of the encoder's loss")
    source_mask_ratio: tuple[float, float] = option(
        (0.1, 0.2),
        rule("be two numbers in [0, 1], the lower one first", lambda x: len(x) == 2 and 0 <= x[0] <= x[1] <= 1),
        "least and largest share of a source's words that are masked",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.config.share_all_embeddings:
            raise ValueError("objective: share_all_embeddings must be true with objective 'cemat', got False")

    def terms(self):
        return {"nar": 1 - self.encoder_loss_lambda, "encoder": self.encoder_loss_lambda}, {}

    def draw_source(self, source, lengths, generator):
        config = self.config
        ends = {config.bos_token_id, config.eos_token_id, config.pad_token_id, config.mask_token_id}
        ends |= {*config.source_prefix_ids, *config.source_suffix_ids}
        words, masked = ~torch.isin(source, torch.tensor(sorted(ends))), torch.zeros_like(source, dtype=torch.bool)
        least, most = self.source_mask_ratio
        for own, chosen in zip(words.split(lengths), masked.split(lengths), strict=True):
            places, (drawn, rest) = own.nonzero().flatten(), torch.rand(2, generator=generator).tolist()
            count = int(len(places) * (least + (most - least) * drawn) + rest)
            chosen[places[torch.randperm(len(places), generator=generator)[:count]]] = True
        return masked

    def build(self, target, lengths, drawn):
        return [masked_streams(target, lengths, *drawn.unbind(1), self.config.mask_token_id, auxiliary=False)]
