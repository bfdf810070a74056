"""How an option of decoding is declared, and what the options of all modes have in common."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..inputs import check_fields, one_of, option, switch

if TYPE_CHECKING:
    from ..config import JanusConfig

MOST = 512  # beam_size, length_beam, iterations: a slip is to end in an error, not in want of memory
MOST_SAMPLES = 4096  # of a source
# Decoded at once: the rows of sources, times the hypotheses kept for each; of a short source as many as FEWEST_ROWS.
MOST_ROWS, FEWEST_ROWS = MOST * 256, 32
EVERYWHERE, ON_HOST = ("engine", "cuda", "torch"), ("engine", "torch")
everywhere, on_host = partial(option, on=EVERYWHERE), partial(option, on=ON_HOST)
definition_only = partial(on_host, by_definition=True)  # in torch: without a cache


def use_vmap():
    return on_host(
        False, switch, "say nothing but what vmap.txt of the model has for the words of a source",
        doc="a lexical shortlist, made by ``janus-fast shortlist``. Other tokens have no probability, but for ``unk``, "
        "``bos``, the ends and those of a prefix. Each source has its own, where CTranslate2 (4.8) takes all of a "
        "batch: so results do not depend on what else is decoded",
        why="use_vmap has other rows of the output layer in every batch",
    )  # fmt: skip


def remove_repeats(declare, doc: str, **more):
    return declare(
        False, one_of(True, False), "remove words that are the one before them, as single passes repeat some",
        doc=doc, **more,
    )  # fmt: skip


@dataclass
class DecodingOptions:
    """What the options of all modes have in common.

    A class of them says what runs, ``algorithm``, and which backends have it, ``on``; :meth:`longest`; and
    :attr:`kept`. Defaults are finite: they are written as JSON.
    """

    fills_masks = False  # whether that is how it decodes, which takes two streams

    def __post_init__(self):
        check_fields(self)

    def longest(self, config: "JanusConfig") -> int:
        """The most tokens of an output, as the memory for it is counted; refuses what does not suit a model."""
        raise NotImplementedError

    @property
    def kept(self) -> int:
        """Outputs of a source that are in the making at once."""
        raise NotImplementedError

    def resolved(self, config: "JanusConfig"):
        """These, with what "auto" and None stand for in a model of this ``config``."""
        return self

    def without_effect(self) -> dict[str, str]:
        """The names of options that change nothing beside the others, and why: who gives one expects another output."""
        return {}

    def ends(self, config: "JanusConfig") -> tuple[int, ...]:
        """The tokens that end an output."""
        return (config.eos_token_id,)

    def record(self, config: "JanusConfig") -> dict:
        """The engine's record of these."""
        fields = [field.name for field in dataclasses.fields(self) if "engine" in field.metadata["on"]]
        return {name: getattr(self, name) for name in fields if name != "use_vmap"}  # the engine gets the words
