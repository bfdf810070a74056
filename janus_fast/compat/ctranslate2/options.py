"""The options of CTranslate2's ``translate_batch``, with its defaults, as those of our own search."""

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from ... import inputs
from ...config import JanusConfig
from ...decoding.hypothesis import LAST
from ...results import TranslationResult
from ...text import Vocabulary
from .results import GenerationStepResult

random_numbers = random.Random()  # by which sampling draws


@dataclass(kw_only=True)
class TranslationOptions:
    """Options of ``translate_batch`` and their defaults."""

    beam_size: int = 2
    patience: float = 1
    num_hypotheses: int = 1
    length_penalty: float = 1
    coverage_penalty: float = 0
    repetition_penalty: float = 1
    no_repeat_ngram_size: int = 0
    disable_unk: bool = False
    suppress_sequences: list[list[str]] | None = None
    end_token: str | list[str] | list[int] | None = None
    return_end_token: bool = False
    prefix_bias_beta: float = 0
    max_input_length: int = 1024
    max_decoding_length: int = 256
    min_decoding_length: int = 1
    use_vmap: bool = False
    return_scores: bool = False
    return_logits_vocab: bool = False
    return_attention: bool = False
    return_alternatives: bool = False
    min_alternative_expansion_prob: float = 0
    sampling_topk: int = 1
    sampling_topp: float = 1
    sampling_temperature: float = 1
    replace_unknowns: bool = False
    callback: Callable[[GenerationStepResult], bool] | None = None

    def search(self, config: JanusConfig, vocabulary: Vocabulary, prefixed: bool) -> dict:
        """These as options of our own search."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        given = {name: value for name, value in given.items() if name not in OUTSIDE} | RULES
        given["return_attention"] = self.return_attention or self.replace_unknowns
        if given["return_attention"] or self.coverage_penalty:
            given["alignment_heads"] = config.alignment_heads
        given["suppress_sequences"] = [_known(vocabulary, tokens) for tokens in self.suppress_sequences or ()]
        ends = [self.end_token] if isinstance(self.end_token, str) and self.end_token else self.end_token or []
        given["end_token"] = ends if all(isinstance(end, int) for end in ends) else _known(vocabulary, ends)
        if prefixed:
            # behind a prefix it makes another token of the ends but the best: the first of the vocabulary
            given["prefix_alone"] = "last" if 0 in (given["end_token"] or [config.eos_token_id]) else "best"
        if self.beam_size == 1 and not self.prefix_bias_beta:
            given["patience"] = 1  # a greedy search there, which ends with its one output
        if self.sampling_topk == 1 or self.sampling_temperature == 0:  # the likeliest token
            for name in ("sampling_topk", "sampling_topp", "sampling_temperature"):
                del given[name]
        else:
            given["seed"] = random_numbers.getrandbits(63)
            del given["patience"], given["early_stopping"]  # of searches
        if not self.return_alternatives:
            del given["min_alternative_expansion_prob"]
        return given

    def repeat(self, result: TranslationResult) -> None:
        """Of an output that is as long as it may be by its prefix alone: what the rest of its beam is, the same again,
        with scores that are behind all others."""
        if self.prefix_bias_beta or self.return_alternatives:
            return
        for _ in range(min(self.beam_size, self.num_hypotheses) - len(result.hypotheses)):
            result.hypotheses.append([*result.hypotheses[0]])
            result.scores.append(LAST / self.max_decoding_length**self.length_penalty)
            result.attention += [[[*row] for row in rows] for rows in result.attention[:1]]


NAMES = [field.name for field in dataclasses.fields(TranslationOptions)]
OUTSIDE = (  # of the search
    "callback", "max_input_length", "replace_unknowns", "return_scores",
)  # fmt: skip
RULES = {"renormalize_logits": True, "forced_eos": False, "early_stopping": "first"}  # of its search
OF_FILES = [name for name in NAMES if name not in ("callback", "min_alternative_expansion_prob")]
OF_FILES = [name for name in OF_FILES if not name.startswith("return_")]
OF_TOKENS = (
    "max_decoding_length", "min_decoding_length", "sampling_topk", "sampling_topp", "sampling_temperature",
    "repetition_penalty", "no_repeat_ngram_size", "disable_unk", "suppress_sequences", "end_token", "max_input_length",
    "use_vmap",
)  # fmt: skip


def taking(names: Iterable[str]) -> Callable:
    """Gives a function for its ``options`` the names and defaults of ``TranslationOptions``, in its signature."""
    fields = {field.name: field for field in dataclasses.fields(TranslationOptions)}

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()
        keyword = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
        own += [keyword(name, default=fields[name].default, annotation=fields[name].type) for name in names]
        function.__signature__ = signature.replace(parameters=own)
        return inputs.hinting(function)

    return decorate


def _known(vocabulary: Vocabulary, tokens: list[str]) -> list[int]:
    for token in tokens:
        if token not in vocabulary.index:
            raise ValueError(f"tokens must be in the vocabulary, got {token!r}")
    return vocabulary.ids(tokens)
