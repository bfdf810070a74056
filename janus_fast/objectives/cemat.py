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
    rounded up or down at random so that the mean is that share, drawn uniformly. CE(encoder) is the mean cross-entropy
    of these words by the encoder's rows, projected by the output matrix, as both sides have one vocabulary. CE(nar) is
    that of ``cmlm``, beside such sources. With a ``dictionary`` some words of a source are other translations, which
    are not masked, and the target words that they are aligned with always are
    (:class:`janus_fast.training.code_switching.CodeSwitching`).

    The original rounds numbers of words up, so that sources of few words would never be read without masks.
    """

    modes = ("nar",)

    masking: str = masking_option("uniform")
    encoder_loss_lambda: float = option(0.3, numbers(least=0, most=1), "weight of the encoder's loss")
    source_mask_ratio: tuple[float, float] = option(
        (0.1, 0.2),
        rule("be two numbers in [0, 1], the lower one first", lambda x: len(x) == 2 and 0 <= x[0] <= x[1] <= 1),
        "least and largest share of a source's words that are masked",
    )
    dictionary: str | None = option(
        None, rule("be the name of a file", lambda x: x is None or isinstance(x, str)),
        "a word and translations of it in each line, between tabs, or spaces if it has none, by which source words are "
        "replaced (default: none)",
        metavar="FILE",
    )  # fmt: skip
    switch_ratio: float = option(
        0.15, numbers(least=0, most=1), "with a dictionary, share of a source's words that are replaced"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.config.share_all_embeddings:
            raise ValueError("objective: share_all_embeddings must be true with objective 'cemat', got False")

    @classmethod
    def without_effect(cls, options):
        """The share of words that are replaced, where no dictionary says by which."""
        return super().without_effect(options) | ({} if options["dictionary"] else {"switch_ratio": "no dictionary"})

    def terms(self):
        return {"nar": 1 - self.encoder_loss_lambda, "encoder": self.encoder_loss_lambda}, {}

    def draw_source(self, source, lengths, generator, replaced=None):
        config = self.config
        ends = {config.bos_token_id, config.eos_token_id, config.pad_token_id, config.mask_token_id}
        ends |= {*config.source_prefix_ids, *config.source_suffix_ids}
        words, masked = ~torch.isin(source, torch.tensor(sorted(ends))), torch.zeros_like(source, dtype=torch.bool)
        left = words if replaced is None else words & ~replaced
        least, most = self.source_mask_ratio
        for own, able, chosen in zip(*(each.split(lengths) for each in (words, left, masked)), strict=True):
            places, (drawn, rest) = able.nonzero().flatten(), torch.rand(2, generator=generator).tolist()
            count = int(int(own.sum()) * (least + (most - least) * drawn) + rest)
            chosen[places[torch.randperm(len(places), generator=generator)[:count]]] = True
        return masked

    def build(self, target, lengths, drawn):
        return [masked_streams(target, lengths, *drawn.unbind(1), self.config.mask_token_id, auxiliary=False)]
