"""Calls of CTranslate2's ``translate_batch`` that together have every option, for a model with the vocabulary of
tests/data/marian/shared; what two libraries make of them, compared."""

import random

import numpy as np

WORDS = "▁ ▁ba ▁der ▁kip ▁shu a b ba der e f fle k kip l li m mo nu o shu ta vo z".split()
BANNED = [["▁", "f"], ["vo", "vo"], ["▁shu", "vo"], ["m"]]
MOST = 20  # tokens of an output
JUNK = -1e8  # CTranslate2's score of an output that is nothing but its prefix, unless that is the best

CALLS = {
    "the defaults": {},
    "greedy": {"beam_size": 1},
    "n-best": {"beam_size": 4, "num_hypotheses": 4},
    "some of the n best": {"beam_size": 4, "num_hypotheses": 2},
    "length_penalty 0.2": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.2},
    "length_penalty 0": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0},
    "length_penalty 0, fewer": {"beam_size": 4, "num_hypotheses": 2, "length_penalty": 0},
    "length_penalty 2": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 2},
    "greedy, length_penalty 0": {"beam_size": 1, "length_penalty": 0},
    "no bigrams, greedy": {"beam_size": 1, "no_repeat_ngram_size": 2},
    "no bigrams": {"beam_size": 4, "num_hypotheses": 4, "no_repeat_ngram_size": 2},
    "no token twice": {"beam_size": 3, "num_hypotheses": 3, "no_repeat_ngram_size": 1},
    "long, greedy": {"beam_size": 1, "min_decoding_length": 9},
    "long": {"beam_size": 4, "num_hypotheses": 4, "min_decoding_length": 9},
    "even empty": {"beam_size": 4, "num_hypotheses": 4, "min_decoding_length": 0},
    "short, greedy": {"beam_size": 1, "max_decoding_length": 3},
    "short": {"beam_size": 4, "num_hypotheses": 4, "max_decoding_length": 3},
    "one token": {"beam_size": 4, "num_hypotheses": 4, "max_decoding_length": 1},
    "patience": {"beam_size": 3, "num_hypotheses": 6, "patience": 2},
    "half of a patience": {"beam_size": 4, "num_hypotheses": 2, "patience": 0.5},
    "patience 1.5": {"beam_size": 3, "num_hypotheses": 5, "patience": 1.5},
    "patience, greedy": {"beam_size": 1, "patience": 3},
    "patience of one beam": {"beam_size": 1, "patience": 3, "target_prefix": 1, "prefix_bias_beta": 0.3},
    # of a batch, CTranslate2 takes the attention of the first token from another sentence, and counts padding
    "coverage": {"beam_size": 4, "num_hypotheses": 4, "coverage_penalty": 0.3, "max_batch_size": 1},
    "coverage, no length": {
        "beam_size": 4, "num_hypotheses": 2, "coverage_penalty": 0.3, "length_penalty": 0, "max_batch_size": 1
    },
    "repetition, greedy": {"beam_size": 1, "repetition_penalty": 1.3},
    "repetition": {"beam_size": 4, "num_hypotheses": 4, "repetition_penalty": 1.3},
    "repetition is welcome": {"repetition_penalty": 0.8},
    "disable_unk": {"beam_size": 4, "num_hypotheses": 4, "disable_unk": True},
    "suppressed tokens": {"beam_size": 4, "num_hypotheses": 4, "suppress_sequences": [["f"], ["▁"]]},
    "suppressed sequences": {"beam_size": 4, "num_hypotheses": 4, "suppress_sequences": BANNED},
    "suppressed sequences, greedy": {"beam_size": 1, "suppress_sequences": BANNED},
    "end_token": {"beam_size": 4, "num_hypotheses": 4, "end_token": "m"},
    "end_token, ids": {"beam_size": 1, "end_token": [30, 0]},
    "return_end_token": {"beam_size": 3, "num_hypotheses": 3, "return_end_token": True, "max_decoding_length": 5},
    "prefix, greedy": {"beam_size": 1, "target_prefix": 1},
    "prefix": {"beam_size": 4, "num_hypotheses": 4, "target_prefix": 1},
    "some prefixes": {"beam_size": 4, "num_hypotheses": 4, "target_prefix": 2},
    "prefix to the end": {"target_prefix": 1, "max_decoding_length": 2},
    "prefix to the end, n-best": {
        "beam_size": 3, "num_hypotheses": 4, "patience": 2, "target_prefix": 1, "max_decoding_length": 2,
        "return_attention": True, "max_batch_size": 1
    },
    "prefix, one more": {"target_prefix": 1, "max_decoding_length": 3},
    "prefix, repetition": {
        "beam_size": 3, "target_prefix": 1, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2
    },
    "biased to a prefix": {"beam_size": 4, "num_hypotheses": 4, "target_prefix": 1, "prefix_bias_beta": 0.5},
    "biased a little": {"beam_size": 4, "target_prefix": 1, "prefix_bias_beta": 0.1},
    "biased, greedy": {"beam_size": 1, "target_prefix": 1, "prefix_bias_beta": 0.9},
    "attention, greedy": {"beam_size": 1, "return_attention": True},
    "attention": {"beam_size": 4, "num_hypotheses": 4, "return_attention": True, "max_batch_size": 1},
    "attention of prefixes": {
        "beam_size": 3, "return_attention": True, "target_prefix": 1, "max_batch_size": 1
    },
    "replace_unknowns": {"beam_size": 3, "num_hypotheses": 3, "replace_unknowns": True, "max_batch_size": 1},
    "logits": {"beam_size": 1, "return_logits_vocab": True},
    "max_input_length": {"beam_size": 3, "max_input_length": 4},
    "attention of what was cut": {
        "beam_size": 3, "max_input_length": 4, "return_attention": True, "max_batch_size": 1
    },
    "temperature 0": {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": 0},
    "alternatives, greedy": {"beam_size": 1, "return_alternatives": True, "num_hypotheses": 4},
    "alternatives": {"beam_size": 3, "return_alternatives": True, "num_hypotheses": 4},
    "alternatives, patience": {"beam_size": 2, "patience": 2, "return_alternatives": True, "num_hypotheses": 4},
    "alternatives, end_token": {"beam_size": 2, "return_alternatives": True, "num_hypotheses": 20, "end_token": "m"},
    "likely alternatives": {
        "beam_size": 1, "return_alternatives": True, "num_hypotheses": 4, "min_alternative_expansion_prob": 0.05
    },
    # CTranslate2 does not scale the embeddings of a prefix here where a model starts from zeros, as Marian does
    "alternatives behind a prefix": {
        "beam_size": 2, "return_alternatives": True, "num_hypotheses": 3, "target_prefix": 1, "not_marian": True
    },
}  # fmt: skip


def sources(count: int) -> list[list[str]]:
    draw = random.Random(1)
    return [[draw.choice(WORDS) for _ in range(draw.randint(1, 10))] for _ in range(count)]


def prefixes(count: int) -> list[list[str]]:
    draw = random.Random(2)
    return [draw.sample(WORDS, 2) for _ in range(count)]


def call(translator, name: str, tokens: list[list[str]]):
    """The results of a call, or None where it is not for Marian's models and this is one."""
    options = {"max_decoding_length": MOST, "return_scores": True, **CALLS[name]}
    options.pop("not_marian", None)
    if kind := options.pop("target_prefix", 0):
        options["target_prefix"] = [p if kind == 1 or i % 2 else None for i, p in enumerate(prefixes(len(tokens)))]
    return translator.translate_batch(tokens, **options)


def differ(one, other) -> float:
    """How far scores, attention and logits of two results are apart that have the same hypotheses."""
    pairs = [(a, b) for a, b in zip(one.scores, other.scores, strict=True) if a > JUNK and b > JUNK]
    most = max((abs(a - b) for a, b in pairs), default=0.0)
    for rows, others in zip(one.attention, other.attention, strict=True):
        assert np.shape(rows) == np.shape(others)
        most = max(most, np.abs(np.subtract(rows, others)).max(initial=0.0))
    for steps, others in zip(one.logits, other.logits, strict=True):
        assert len(steps) == len(others)
        for logits, expected in zip(steps, map(np.array, others), strict=True):  # it has no logit for Marian's pad
            said = logits[: len(expected)] > JUNK  # here bos, pad and mask never are
            most = max(most, np.abs(logits[: len(expected)] - expected)[said].max())
    return float(most)
