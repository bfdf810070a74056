"""What each decoding mode can be told: an option is one field here, checked when its class is made.

From a field follow the flag of the command line, its line in docs/options.md, its place in the engine's record of that
name, and which backends take it (``on``): one that does not say it does refuses a value other than the default. Another
value is another recorded program on a GPU, unless the field says that the host alone reads it (``recorded``).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..inputs import (
    MOST_INTEGER,
    OptionError,
    documented,
    function_or_none,
    id_list,
    id_lists,
    integers,
    numbers,
    one_of,
    switch,
)
from .declared import (
    EVERYWHERE,
    FEWEST_ROWS,
    MOST,
    MOST_SAMPLES,
    ON_HOST,
    DecodingOptions,
    definition_only,
    everywhere,
    on_host,
    remove_repeats,
    use_vmap,
)

if TYPE_CHECKING:
    from ..config import JanusConfig


def untaken(backend: str, options: "Options", config: "JanusConfig") -> str | None:
    """Why ``backend`` cannot take these options, of a model of this ``config``, or None when it can."""
    if backend not in options.on:
        return f"it has no {options.algorithm}"
    for field in dataclasses.fields(options):
        if backend not in field.metadata["on"] and getattr(options, field.name) != field.default:
            return field.metadata.get("why") or f"it has no {field.name}"
    if backend == "torch" and config.recurrent and getattr(options, "sampling_topk", 1) != 1:
        return "it searches with decoder_autoreg 'ssru' by the definition, which draws nothing"
    return None


def recorded(options: "Options", config: "JanusConfig") -> tuple:
    """What a program recorded with these options depends on."""
    names = [field.name for field in dataclasses.fields(options) if field.metadata["recorded"]]
    return options.longest(config), *(getattr(options, name) for name in names)


@dataclass
class LeftToRightOptions(DecodingOptions):
    """What every way of decoding from left to right can be told."""

    length_penalty: float = everywhere(
        1.0, numbers(least=-10, most=10), "scores are divided by length ** X, X in [-10, 10]",
        doc="a score is the sum of log-probabilities, ``eos`` counts in both, a prefix in the length alone",
        recorded=False,
    )  # fmt: skip
    max_decoding_length: int = everywhere(
        256, integers(1, MOST_INTEGER), "longest translation, in tokens", doc="``eos`` not counted",
        recorded=False,  # but for ``longest``
    )  # fmt: skip
    min_decoding_length: int = everywhere(
        1, integers(0, MOST_INTEGER), "shortest translation, in tokens", recorded=False
    )
    use_vmap: bool = use_vmap()

    # unless a mode has these options
    disable_unk, renormalize_logits, suppress_sequences, end_token, no_repeat_ngram_size = False, False, (), None, 0

    def __post_init__(self):
        super().__post_init__()
        if self.min_decoding_length > self.max_decoding_length:
            most = f"be at most max_decoding_length = {self.max_decoding_length}"
            raise OptionError("min_decoding_length", most, self.min_decoding_length)

    def longest(self, config: "JanusConfig") -> int:
        """The most tokens an output may have: what is asked for, and what the position table (with ``bos``) holds."""
        table = config.max_target_positions - 1
        if self.min_decoding_length > table:
            most = f"be at most the model's longest output = {table}"
            raise OptionError("min_decoding_length", most, self.min_decoding_length)
        return min(self.max_decoding_length, table)

    def ends(self, config: "JanusConfig") -> tuple[int, ...]:
        return self.end_token or super().ends(config)


@dataclass
class NoRepeatNgramOptions(LeftToRightOptions):
    """What a mode can be told besides in which every word is chosen by all words before it: the n-grams are known."""

    no_repeat_ngram_size: int = on_host(
        0, integers(0, MOST_INTEGER), "no N tokens in a row appear twice", doc="0: any may",
        why="no_repeat_ngram_size looks for repeated n-grams on the host",
    )  # fmt: skip


@documented
@dataclass
class AutoregressiveOptions(NoRepeatNgramOptions):
    """Options of autoregressive decoding; names are CTranslate2's, or Hugging Face's where that has the option alone.

    So are meanings, but for defaults that suit a caller who knows neither: ``renormalize_logits`` and ``forced_eos``
    are other in CTranslate2 (4.8), ``early_stopping`` is in ``generate``. As in CTranslate2, a prefix is free of charge
    but counts in the length, and hypotheses that end in the same step are all finished. A value out of range, or two
    that do not fit each other, are a ValueError.
    """

    algorithm, on = "beam_search", EVERYWHERE
    beam_size: int = everywhere(5, integers(1, MOST), "hypotheses kept at each step, at most 512; 1 is greedy")
    num_hypotheses: int = everywhere(
        1, integers(1, MOST_SAMPLES), "translations of each sentence, best first",
        doc="at most ``beam_size``, or of sampling, where they are independent, 4,096", recorded=False,
    )  # fmt: skip
    sampling_topk: int = on_host(
        1, integers(0, MOST_INTEGER),
        "with beam_size 1: draw each token from the N likeliest, 0: from all (default: 1, no drawing)",
        why="sampling draws its random numbers on the host",
    )  # fmt: skip
    sampling_topp: float = on_host(
        1.0, numbers(above=0, most=1), "with sampling_topk: draw from the likeliest tokens of total probability P",
        doc="in (0, 1]", metavar="P",
    )  # fmt: skip
    sampling_temperature: float = on_host(
        1.0, numbers(above=0), "with sampling_topk: logits are divided by T before drawing", metavar="T"
    )
    seed: int = everywhere(  # of what is refused where it cannot be
        0, integers(0, 2**64 - 1), "seed of the drawing", recorded=False
    )

    early_stopping: bool | str = definition_only(
        True, one_of(True, False, "first", "never"), "when enough is found: at ``beam_size * patience`` hypotheses",
        flag=False,
        doc="``False`` goes on while the best unfinished one, divided by its own length, is better than the worst of "
        '``beam_size``, ``"never"`` while that may become so, as in Hugging Face; ``"first"`` ends as soon as the best '
        "candidate and ``num_hypotheses`` have ended, if neither length nor coverage is weighed, as CTranslate2",
    )  # fmt: skip
    patience: float = definition_only(
        1.0, numbers(above=0, most=MOST), "a search ends at X times as many hypotheses", doc="Kasai et al. 2022"
    )
    coverage_penalty: float = definition_only(
        0.0, numbers(), "X * the sum of log(min(attention a source token got, 1)) is added to scores",
        doc="Wu et al. 2016; attention as in ``return_attention``",
    )  # fmt: skip
    repetition_penalty: float = definition_only(
        1.0, numbers(above=0), "scores of tokens that were said are divided by X, negative ones multiplied"
    )
    disable_unk: bool = definition_only(False, switch, "the unknown token is never said")
    suppress_sequences: tuple = definition_only((), id_lists, "sequences of tokens that are never said", flag=False)
    end_token: tuple | None = definition_only(None, id_list, "what ends an output (None or none: ``eos``)", flag=False)
    return_end_token: bool = definition_only(False, switch, "outputs hold the token that ended them", flag=False)
    forced_eos: bool = definition_only(
        True, switch, "the longest outputs end with the first ``end_token``, which counts; else without", flag=False
    )
    renormalize_logits: bool = definition_only(
        False, switch, "probabilities of forbidden tokens are given to the others", flag=False,
        doc="``repetition_penalty`` then is of scores before the softmax, otherwise of log-probabilities",
    )  # fmt: skip
    prefix_bias_beta: float = definition_only(
        0.0, numbers(least=0, most=1 - 1e-6), "a prefix is not forced, but its next token gets X of the probability",
        doc="in [0, 1), as long as an output has begun with it; 0 forces it", flag=False,
    )  # fmt: skip
    prefix_alone: str = definition_only(
        "any", one_of("any", "last", "best"), "what an output is that ends where its prefix does", flag=False,
        doc='``"any"``, one like others; unless it is the best candidate there, ``"last"`` ranks it behind all others, '
        '``"best"`` gives it up, and its place in the beam',
    )  # fmt: skip
    return_attention: bool = definition_only(
        False, switch, "results hold how much each token looked at each token of the source", flag=False,
        doc="by the last layer's attention",
    )  # fmt: skip
    alignment_heads: int = definition_only(
        0, integers(0, MOST_INTEGER), "of how many heads this is the mean, 0: of all", flag=False
    )
    return_logits_vocab: bool = definition_only(
        False, switch, "results hold the scores of the whole vocabulary at every step", flag=False,
        doc="with ``beam_size`` 1: log-probabilities, or with ``renormalize_logits`` scores before the softmax, after "
        "penalties; of what may not follow minus infinity",
    )  # fmt: skip
    callback: Callable | None = definition_only(
        None, function_or_none, "called for each token", flag=False,
        doc="with ``beam_size`` 1: by number of the source, number of the sample, step, token, log-probability and "
        "whether it is the last; what is true ends the output",
    )  # fmt: skip

    def __post_init__(self):
        super().__post_init__()
        if self.beam_size != 1 and (self.return_logits_vocab or self.callback):
            name = "callback" if self.callback else "return_logits_vocab"
            raise OptionError("beam_size", f"be 1 with {name}", self.beam_size)
        if self.early_stopping is not True and self.early_stopping != "first" and self.patience != 1:
            raise OptionError("patience", "be 1 unless early_stopping is true", self.patience)
        if self.sampling_topk == 1 and (self.sampling_topp, self.sampling_temperature) != (1, 1):
            words = "not be 1 when sampling_topp or sampling_temperature is not 1"
            raise OptionError("sampling_topk", words, "1; 0 samples from all tokens")
        if self.sampling_topk != 1 and self.beam_size != 1:
            raise OptionError("beam_size", "be 1 when sampling_topk is not 1", self.beam_size)
        if self.sampling_topk == 1 and self.num_hypotheses > max(self.wanted, self.beam_size):
            most = "beam_size" if self.patience <= 1 else "beam_size * patience"
            rule = f"be at most {most} = {max(self.wanted, self.beam_size)}"
            raise OptionError("num_hypotheses", rule, self.num_hypotheses)

    @property
    def by_definition(self) -> bool:
        """Whether torch computes these by the definition alone, which has no cache."""
        own = [field for field in dataclasses.fields(self) if field.metadata.get("by_definition")]
        asked = {field.name for field in own if getattr(self, field.name) != field.default} - {"forced_eos"}
        if self.early_stopping == "first" and self.length_penalty:
            asked.discard("early_stopping")  # as true
        if not self.no_repeat_ngram_size:
            asked.discard("renormalize_logits")
        return bool(asked)

    @property
    def wanted(self) -> int:
        """Hypotheses of a source at which a search ends."""
        return max(1, int(self.beam_size * self.patience + 0.5))

    def record(self, config: "JanusConfig") -> dict:
        record = super().record(config)
        del record["seed"], record["callback"]  # the engine gets the numbers that it draws by, and a function
        return record | {"early_stopping": str(self.early_stopping).lower(), "end_token": self.ends(config)}

    def steps(self, config: "JanusConfig") -> int:
        """The most tokens that are chosen for an output, its end included."""
        return self.longest(config) + self.forced_eos

    def without_effect(self):
        draws = self.sampling_topk != 1
        idle = dict.fromkeys(("patience", "early_stopping"), "sampling, which does not search") if draws else {}
        if not (self.return_attention or self.coverage_penalty):
            idle["alignment_heads"] = "neither return_attention nor coverage_penalty"
        return idle

    def resolved(self, config: "JanusConfig"):
        for name in ("end_token", "suppress_sequences"):
            sequences = [getattr(self, name) or ()] if name == "end_token" else self.suppress_sequences
            for token in itertools.chain(*sequences):
                if token >= config.target_vocab_size:
                    raise OptionError(name, f"hold ids in [0, {config.target_vocab_size})", token)
        return self

    @property
    def kept(self) -> int:
        """Hypotheses of a source that are in the making at once."""
        return self.beam_size if self.sampling_topk == 1 else self.num_hypotheses

    def uniforms(self, numbers: Iterable[int], steps: int) -> np.ndarray:
        """What sampling draws by, in [0, 1): a row for each sample of the sources of these ``numbers``.

        It depends on the seed, the source's number and the sample's number alone, not on the batch.
        """
        streams = (np.random.default_rng([self.seed, n, k]) for n in numbers for k in range(self.num_hypotheses))
        return np.stack([stream.random(steps) for stream in streams])


@documented
@dataclass
class SpeculativeOptions(NoRepeatNgramOptions):
    """Options of speculative decoding: the output, and its log-probabilities, are those of mode "ar" with ``beam_size``
    1, in fewer passes where drafts are right. On the CPU they are so to the bit: in the engine, and in torch in float32
    and bfloat16 with the native operations. Elsewhere, on GPUs too, torch rounds products of other sizes otherwise, and
    may take another of two words that nearly tie.

    What drafts are decides how fast it is and nothing else. A value out of range, or two that do not fit each other,
    are a ValueError.
    """

    algorithm, on = "speculative", EVERYWHERE
    num_hypotheses = beam_size = sampling_topk = 1
    drafter: str = everywhere(
        "auto", one_of("auto", "model", "source", "none"),
        "what drafts: the model, by masks or by streams ahead, the source or nothing",
        doc='``"model"`` fills masks behind the words so far, in a pass of its own, or has ``streams_ahead`` in every '
        'pass, and needs two streams; ``"source"`` goes on where the last two words of the output stand in the source, '
        'and needs one vocabulary for both; ``"auto"`` is the model if it was trained to draft, or else the source. A '
        "draft that is given comes before any",
    )  # fmt: skip
    draft_length: int = everywhere(
        8, integers(0, MOST), "tokens drafted at once, at most 512; 0 is greedy",
        doc="the model drafts no more than its ``streams_ahead`` where it has those",
    )  # fmt: skip
    draft_threshold: float = everywhere(
        0.3, numbers(least=0, most=1), "a draft ends where it is less likely than this to be right as a whole",
        doc="by its own probabilities; 0 tries all of it", metavar="P",
    )  # fmt: skip
    adaptive_drafts: bool = everywhere(
        True, one_of(True, False), "draft fewer tokens, or none, where drafts do not pay",
        doc="as the engine measures while it decodes, for each size of batch; the other backends always draft",
        recorded=False,
    )  # fmt: skip

    return_history: bool = on_host(
        False, one_of(True, False), "results hold what every pass was fed: the words so far, and a draft", flag=False,
        why="return_history is written by the host",
    )  # fmt: skip

    @property
    def kept(self) -> int:
        """Hypotheses of a source whose rows would be as many as those of a draft."""
        return 1 + self.draft_length // FEWEST_ROWS

    def without_effect(self):
        if self.drafter in ("source", "none"):
            return {"draft_threshold": f"drafter {self.drafter!r}, as words of the model alone are more or less likely"}
        return {}

    def drafts_itself(self, config: "JanusConfig") -> bool:
        """Whether ``drafter="auto"`` is the model: trained to draft, or for nobody knows what."""
        return config.two_stream and (config.trained_modes is None or "speculative" in config.trained_modes)

    def streams(self, config: "JanusConfig") -> int:
        """How many of the model's streams ahead draft a word each; 0: the model drafts by masks, or not at all."""
        return min(self.draft_length, config.streams_ahead) if self.drafter == "model" else 0

    def drafts_by(self, config: "JanusConfig") -> str:
        """What drafts, once that is resolved, in words."""
        ahead = self.streams(config)
        return f"{self.drafter} (streams ahead: {ahead})" if ahead else self.drafter

    def resolved(self, config: "JanusConfig"):
        drafter = self.drafter
        if drafter == "auto":
            drafts = self.drafts_itself(config)
            drafter = "model" if drafts else "source" if config.share_all_embeddings else "none"
        if drafter == "model" and not config.two_stream:
            raise OptionError(
                "drafter", "be 'source', 'none' or 'auto' with an ordinary Transformer, which fills no masks", "'model'"
            )
        if drafter == "source" and not config.share_all_embeddings:
            raise OptionError("drafter", "be another with a model that has two vocabularies", "'source'")
        return dataclasses.replace(self, drafter=drafter)


@documented
@dataclass
class AutoOptions(SpeculativeOptions):
    """Options of mode "auto": the output of greedy search, in the fastest way known for this model, batch and device.

    They are those of mode "speculative", and so is the way: a model drafts that was trained to, of others the source is
    looked up, which costs next to nothing. The engine measures whether that pays, for each size of batch, and else goes
    on as greedy search does. ``Translator.explain`` says what drafts.
    """

    def drafts_itself(self, config: "JanusConfig") -> bool:
        return config.two_stream and "speculative" in (config.trained_modes or ())


@documented
@dataclass
class SemiAutoregressiveOptions(LeftToRightOptions):
    """Options of decoding left to right in blocks: the words of one are predicted in one pass, and all accepted.

    The first word of a block is the one that mode "ar" would say there; those behind it are what mode "speculative"
    drafts. So with ``block_length`` 1 the output is that of mode "ar" with ``beam_size`` 1, in the engine to the bit;
    longer blocks take fewer passes, and their words do not know each other. A score is the sum of log-probabilities,
    each in the pass that predicted its word. Backend "cuda" has no such mode, and "torch" computes it by the
    definition, without a cache. A value out of range, or two that do not fit each other, are a ValueError.
    """

    algorithm, on, fills_masks = "semi_nar", ON_HOST, True
    block_length: int = on_host(
        4, integers(1, MOST), "words of a block, which one pass predicts; 1 is greedy",
        doc="at most 512; what a model was trained for is at most its ``bridge_length`` (objective ``bang``) or its "
        "``draft_length`` (``janus``)",
    )  # fmt: skip
    remove_repeats: bool = remove_repeats(
        on_host, "from finished outputs, but for a prefix; lengths are counted before"
    )

    @property
    def kept(self) -> int:
        """Hypotheses of a source whose rows would be as many as those of a block and its masks."""
        return 1 + 2 * self.block_length // FEWEST_ROWS

    def longest(self, config: "JanusConfig") -> int:
        if not config.two_stream:
            raise OptionError(
                "mode",
                "be 'ar', 'speculative' or 'auto' with an ordinary Transformer, which fills no masks",
                "'semi_nar'",
            )
        return super().longest(config)


@documented
@dataclass
class NonAutoregressiveOptions(DecodingOptions):
    """Options of mask-predict decoding. A value out of range, or two that do not fit each other, are a ValueError."""

    algorithm, on, fills_masks = "mask_predict", EVERYWHERE, True
    iterations: int = everywhere(4, integers(1, MOST), "passes of the decoder over the whole translation, at most 512")
    length_beam: int = everywhere(
        3, integers(1, MOST), "lengths tried for each sentence, at most 512",
        doc="refined at once; those that fall together at an end of the range are one candidate",
    )  # fmt: skip
    length_candidates: str = everywhere(
        "window", one_of("window", "topk"), "lengths around the best, or the best lengths",
        doc='in this order ``"window"`` and ``"topk"``',
    )  # fmt: skip
    score: str = everywhere(
        "tokens", one_of("tokens", "canvas"), "how lengths compare: mean over tokens, or the original's",
        doc='``"tokens"``, of the log-probabilities of predicted tokens, where an empty candidate wins only if its '
        'length is the most likely one; or ``"canvas"``, the mean over ``bos`` and ``eos`` (0 each) as well',
        recorded=False,
    )  # fmt: skip
    rerank: bool | None = everywhere(
        None, one_of(True, False, None), "compare lengths by what the model thinks of them left to right "
        "(default: with several lengths and passes, if it was trained left to right)",
        doc='the default is ``None``, and not for ``score="canvas"``; scores and token scores are then those of mode '
        '"ar" with ``length_penalty`` 1; takes one more pass, of up to twice the work',
    )  # fmt: skip
    adaptive: bool = everywhere(
        True, one_of(True, False), "stop when a late pass changes nothing",
        doc="a candidate ends so when at most a third of its tokens are to be predicted again",
    )  # fmt: skip
    order: str = on_host(
        "parallel", one_of("parallel", "easy_first", "left_to_right", "right_to_left"),
        "keep all words of a pass, or one word after another: the most certain one, the first, or the last",
        doc='in this order ``"parallel"``, ``"easy_first"``, ``"left_to_right"`` and ``"right_to_left"``; but for the '
        "first, what is kept stays, and there is a pass for each word, so that ``iterations`` is left out",
        why="order asks the host how many passes there are",
    )  # fmt: skip
    remove_repeats: bool = remove_repeats(
        everywhere, "from what is filled, before candidates are compared; not beside ``rerank``, which is then off",
        recorded=False,
    )  # fmt: skip
    num_hypotheses: int = everywhere(
        1, integers(1, MOST), "translations of each sentence, best first",
        doc="at most ``length_beam``; fewer where there are fewer candidates", recorded=False,
    )  # fmt: skip
    use_vmap: bool = use_vmap()
    return_history: bool = everywhere(
        False, one_of(True, False), "results hold the canvas after every pass", flag=False, recorded=False
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_hypotheses > self.length_beam:
            raise OptionError("num_hypotheses", f"be at most length_beam = {self.length_beam}", self.num_hypotheses)
        if self.rerank and self.score != "tokens":
            raise OptionError("score", "be 'tokens' when rerank is true, which scores otherwise", repr(self.score))
        if self.rerank and self.remove_repeats:
            raise OptionError("remove_repeats", "be left out with rerank, which reads whole canvases", True)

    def without_effect(self):
        why = f"order {self.order!r}, which takes a pass for each word"
        return {} if self.order == "parallel" else dict.fromkeys(("iterations", "adaptive"), why)

    def resolved(self, config: "JanusConfig"):
        if self.rerank is not None:
            return self
        trained = config.trained_modes is None or "ar" in config.trained_modes
        pays = self.length_beam > 1 and self.iterations > 1  # of one pass it nearly doubles the time
        reads = self.score == "tokens" and not self.remove_repeats
        return dataclasses.replace(self, rerank=trained and pays and reads)

    @property
    def kept(self) -> int:
        """Canvases of a source that are in the making at once."""
        return self.length_beam

    def longest(self, config: "JanusConfig") -> int:
        """The longest canvas, ``bos`` and ``eos`` included, that the model has positions and a length class for."""
        if not config.two_stream:
            words = "be 'ar', 'speculative' or 'auto' with an ordinary Transformer, which predicts no lengths"
            raise OptionError("mode", words, "'nar'")
        if self.order != "parallel" and config.predictable_mask:
            raise OptionError("order", "be 'parallel' with a model whose mask is a word", repr(self.order))
        if self.order == "parallel" and config.permuted:
            words = (
                "be easy_first, left_to_right or right_to_left with a model that was trained to fill word after word"
            )
            raise OptionError("order", words, "'parallel'")
        longest = min(config.max_target_positions, config.length_classes - 1)
        if self.length_beam > longest - 1:
            raise OptionError(
                "length_beam", f"be at most the number of target lengths = {longest - 1}", self.length_beam
            )
        return longest


Options = AutoregressiveOptions | NonAutoregressiveOptions | SemiAutoregressiveOptions | SpeculativeOptions
