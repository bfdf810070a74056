"""Decoding in blocks: the words that mode "speculative" drafts, accepted; by one word a block, greedy search."""

import functools
import itertools
import math
import warnings

import pytest
import torch
from test_decoding import EOS, make_model, make_sources, rounding_error

from janus_fast import Translator, engine, reference
from janus_fast.decoding import AutoregressiveOptions, SemiAutoregressiveOptions
from janus_fast.decoding.modes import MODES as DECODING
from janus_fast.decoding.modes import options_of

needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
BACKENDS = [pytest.param("engine", marks=needs_engine), "torch"]
MODELS = {
    "pre-norm": {"normalize_before": True, "activation": "gelu", "positions": "sinusoidal"},
    "mask is unk": {"mask_token_id": 3, "output_bias": True},
}
CASES = {
    "four": {},
    "two": {"block_length": 2, "min_decoding_length": 0},
    "one": {"block_length": 1, "length_penalty": 0.3},
    "long blocks": {"block_length": 40, "min_decoding_length": 20},
    "longest": {"block_length": 3, "max_decoding_length": 7, "min_decoding_length": 7},
    "longest at once": {"max_decoding_length": 1},
    "shortest": {"block_length": 5, "min_decoding_length": 9},
    "the whole table": {"block_length": 5, "min_decoding_length": 23},
    "no repeats": {"min_decoding_length": 9, "remove_repeats": True, "length_penalty": 0.5},
}
PREFIXES = [[7, 9], [], [11], [6, 6, 8], [39] * 14, [5] * 22, []]
BOTH = list(itertools.product(MODELS, CASES))


@functools.cache
def model_of(name):
    return make_model(**MODELS[name])


def prefixes_of(case):
    return [prefix[: CASES[case].get("max_decoding_length", 99)] for prefix in PREFIXES]


@functools.cache
def defined(name, case, prefixed):
    """By the definition, of seven sources."""
    options = options_of("semi_nar", CASES[case], model_of(name).config)
    groups = reference.semi_nar(model_of(name), make_sources(7), options, prefixes_of(case) if prefixed else None)
    return [hypothesis for (hypothesis,) in groups]


@pytest.mark.parametrize("name", MODELS)
def test_by_definition_blocks_of_one_word_are_greedy_search(name):
    model, sources = model_of(name), make_sources(7)
    for prefixes, length_penalty in ((None, 1.0), (PREFIXES, 0.3)):
        options = {"length_penalty": length_penalty, "min_decoding_length": 3}
        found = reference.semi_nar(model, sources, SemiAutoregressiveOptions(block_length=1, **options), prefixes)
        expected = reference.beam_search(model, sources, AutoregressiveOptions(beam_size=1, **options), prefixes)
        for (one,), (other,) in zip(found, expected, strict=True):
            assert (one.ids, one.token_scores, one.iterations) == (other.ids, other.token_scores, other.iterations)
            assert one.score == pytest.approx(other.score, rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [2, 4])
def test_a_block_is_what_a_pass_of_speculative_decoding_adds_and_drafts(name, length):
    model, sources = model_of(name), make_sources(12)
    limits = {"min_decoding_length": 0, "max_decoding_length": 2 * length}
    found = reference.semi_nar(model, sources, options_of("semi_nar", {"block_length": length, **limits}, model.config))
    own = {"drafter": "model", "draft_length": length - 1, "draft_threshold": 0.0, "return_history": True, **limits}
    options, blocks = options_of("speculative", own, model.config), 0
    for source, (hypothesis,) in zip(sources, found, strict=True):
        words = [*hypothesis.ids, EOS]
        for begin in (0, length):
            prefixes = [words[:begin]] if begin else None
            ((drafted,),) = reference.speculative(model, [source], options, prefixes)
            fed = next((fed for fed in drafted.history if len(fed) > begin + 1), [])  # behind the prefix: a draft
            block = words[begin : begin + length]
            if len(block) == length and EOS not in block:
                assert fed[:begin] == words[:begin] and fed[begin:][:length] == block
                blocks += 1
    assert blocks > 12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, case", BOTH)
def test_outputs_passes_and_scores_are_those_of_the_definition_alone_and_in_batches(name, case, backend):
    tolerance = 4 * rounding_error(model_of(name), "float32") + 2e-6
    translator, sources = Translator(model_of(name), backend=backend), make_sources(7)
    for prefixes in (None, prefixes_of(case)):
        for size in (1, 4, 64) if backend == "engine" else (64,):  # torch takes one after another
            found = translator.generate(sources, prefixes, mode="semi_nar", max_batch_size=size, **CASES[case])
            for result, hypothesis in zip(found, defined(name, case, prefixes is not None), strict=True):
                assert result.hypotheses == [hypothesis.ids] and result.iterations == [hypothesis.iterations]
                assert result.token_scores[0] == pytest.approx(hypothesis.token_scores, abs=tolerance)
                assert result.scores[0] == pytest.approx(hypothesis.score, abs=24 * tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", DECODING)
def test_a_model_whose_outputs_have_room_for_no_word_says_the_end(mode, backend):
    model, sources = make_model(max_target_positions=1), make_sources(40)
    translator = Translator(model, backend=backend)
    if mode == "nar":
        with pytest.raises(ValueError, match="length_beam must be at most the number of target lengths = 0, got 3"):
            translator.generate(sources, mode=mode)
        return
    options = AutoregressiveOptions(beam_size=1, min_decoding_length=0)
    expected = reference.beam_search(model, sources, options)
    found = translator.generate(sources, mode=mode, min_decoding_length=0)
    tolerance = 4 * rounding_error(model_of("pre-norm"), "float32") + 2e-6
    for result, (hypothesis, *_) in zip(found, expected, strict=True):
        assert result.hypotheses[0] == hypothesis.ids == []
        assert result.token_scores[0] == pytest.approx(hypothesis.token_scores, abs=tolerance)


@needs_engine
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name, case", BOTH)
def test_in_the_engine_a_batch_changes_no_bit(name, case, compute_type):
    one, two = (
        Translator(model_of(name), compute_type=compute_type, intra_threads=n, backend="engine") for n in (1, 2)
    )
    sources = make_sources(7)
    for prefixes in (None, prefixes_of(case)):
        alone, batched, at_once = (
            translator.generate(sources, prefixes, mode="semi_nar", max_batch_size=size, **CASES[case])
            for translator, size in ((one, 1), (two, 4), (one, 64))
        )
        assert alone == batched == at_once
        if case == "one":
            greedy = {name: value for name, value in CASES[case].items() if name != "block_length"}
            expected = one.generate(sources, prefixes, beam_size=1, **greedy)
            assert alone == expected


@pytest.mark.parametrize("name", MODELS)
def test_lengths_hold_and_a_score_is_the_mean_of_token_scores(name):
    for case in ("longest", "shortest", "the whole table"):
        least, most = CASES[case]["min_decoding_length"], CASES[case].get("max_decoding_length", 23)
        for hypothesis in defined(name, case, False):
            assert least <= len(hypothesis.ids) <= most and EOS not in hypothesis.ids
            assert len(hypothesis.token_scores) == len(hypothesis.ids) + 1
            assert hypothesis.score == pytest.approx(math.fsum(hypothesis.token_scores) / (len(hypothesis.ids) + 1))
            if case == "longest":
                assert hypothesis.iterations == 4  # blocks of 3, 3 and 1 words, and the end
    for prefix, hypothesis in zip(PREFIXES, defined(name, "four", True), strict=True):
        assert hypothesis.ids[: len(prefix)] == prefix
        free = math.fsum(hypothesis.token_scores[len(prefix) :]) / (len(hypothesis.ids) + 1)
        assert hypothesis.score == pytest.approx(free)


@pytest.mark.parametrize("name", MODELS)
def test_of_words_that_repeat_the_one_before_them_the_first_is_left(name):
    own = {**CASES["no repeats"], "remove_repeats": False}
    options, removed = options_of("semi_nar", own, model_of(name).config), 0
    for prefixed in (False, True):
        prefixes = PREFIXES if prefixed else [[]] * 7
        whole = reference.semi_nar(model_of(name), make_sources(7), options, PREFIXES if prefixed else None)
        for prefix, (before,), found in zip(prefixes, whole, defined(name, "no repeats", prefixed), strict=True):
            kept = [
                (token, score) for n, (token, score) in enumerate(zip(before.ids, before.token_scores, strict=False))
                if n < len(prefix) or n == 0 or token != before.ids[n - 1]
            ]  # fmt: skip
            assert found.ids == [token for token, _ in kept] and found.iterations == before.iterations
            assert found.token_scores == [*(score for _, score in kept), before.token_scores[-1]]
            total = math.fsum(found.token_scores[len(prefix) :])
            assert found.score == pytest.approx(total / (len(found.ids) + 1) ** 0.5)
            removed += len(before.ids) - len(found.ids)
    assert removed > 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prefix_of_whole_blocks_changes_nothing_behind_it(backend):
    translator, sources = Translator(model_of("pre-norm"), backend=backend), make_sources(12)
    found = translator.generate(sources, mode="semi_nar", block_length=3, min_decoding_length=6)
    prefixes = [result.hypotheses[0][:3] for result in found]
    again = translator.generate(sources, prefixes, mode="semi_nar", block_length=3, min_decoding_length=6)
    assert [result.hypotheses for result in again] == [result.hypotheses for result in found]
    assert [result.iterations for result in again] == [result.iterations for result in found]


@needs_engine
def test_a_block_takes_one_pass():
    translator = Translator(make_model(), backend="engine")
    for length in (1, 3, 8):
        (found,) = translator.generate(
            make_sources(1), mode="semi_nar", block_length=length, min_decoding_length=16, max_decoding_length=16
        )
        assert len(found.hypotheses[0]) == 16 and found.iterations[0] == -(-16 // length) + 1


def test_the_mode_is_explained():
    lines = Translator(make_model(), backend="torch").explain(mode="semi_nar").splitlines()
    assert lines[0] == "semi_nar on cpu, float32:" and lines[-1] == "  torch: chosen"
    assert any(line.startswith("  cuda: no: ") for line in lines)


def test_a_model_whose_masks_behind_words_were_not_trained_is_told_apart():
    def said(trained, **config):
        translator = Translator(make_model(trained_modes=trained, **config), backend="torch")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            translator.generate(make_sources(1), mode="semi_nar")
        return [str(warning.message) for warning in caught]

    assert said(None) == said(["ar", "semi_nar"]) == said(["ar", "speculative"]) == []
    (message,) = said(["ar", "nar"])
    assert message.startswith("Translator: mode 'semi_nar' is not what this model was trained for, which is ar and nar")
    (message,) = said(["ar", "speculative"], streams_ahead=1)  # whose masks do not see each other
    assert "trained for, which is ar and speculative; expect bad output" in message
    assert said(["ar", "semi_nar"], streams_ahead=1) == said(None, streams_ahead=1) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"block_length": 0}, "block_length must be an integer of at least 1, got 0"),
        ({"block_length": 513}, "block_length must be at most 512, got 513"),
        ({"remove_repeats": 2}, "remove_repeats must be one of True, False, got 2"),
        ({"no_repeat_ngram_size": 2}, "'no_repeat_ngram_size', which is one of mode 'ar' and 'speculative'"),
        ({"beam_size": 2}, "must be known, got 'beam_size', which is one of mode 'ar'. Known are "),
        ({"draft": [[5], [6]]}, "draft must be None in mode 'semi_nar', got list"),
        ({"min_decoding_length": 30}, "min_decoding_length must be at most the model's longest output = 23, got 30"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_clear_error(options, message):
    translator = Translator(make_model(), backend="torch")
    with pytest.raises(ValueError, match=message):
        translator.generate(make_sources(2), mode="semi_nar", **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ordinary_transformer_is_refused(backend):
    translator = Translator(make_model(two_stream=False), backend=backend)
    with pytest.raises(
        ValueError,
        match="mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer, which fills no masks",
    ):
        translator.generate(make_sources(1), mode="semi_nar")


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_that_are_not_finite_are_an_error(backend):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e18)  # finite weights, infinite products
    with pytest.raises(FloatingPointError, match="every source must have an output of finite score"):
        Translator(model, backend=backend).generate(make_sources(1), mode="semi_nar")
