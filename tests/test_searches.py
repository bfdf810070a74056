"""Searches, option by option, against their definition, and beside Hugging Face's transformers."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from test_decoding import make_model, make_sources, rounding_error

from janus_fast import Translator, engine, reference
from janus_fast.convert import marian
from janus_fast.decoding import AutoregressiveOptions

MARIAN = Path(__file__).parent / "data" / "marian" / "shared"

SEARCHES = {
    "greedy": {"beam_size": 1, "max_decoding_length": 9},
    "five": {"num_hypotheses": 5, "length_penalty": 0.6, "max_decoding_length": 6},
    "no repeats": {"beam_size": 3, "no_repeat_ngram_size": 2, "min_decoding_length": 5, "max_decoding_length": 8},
    "no token twice": {"beam_size": 2, "num_hypotheses": 2, "no_repeat_ngram_size": 1, "max_decoding_length": 7},
    "all that ends together": {"beam_size": 4, "num_hypotheses": 4, "max_decoding_length": 3},
    "patience": {"beam_size": 3, "num_hypotheses": 6, "patience": 2, "max_decoding_length": 8},
    "impatience": {"beam_size": 4, "num_hypotheses": 2, "patience": 0.5, "max_decoding_length": 8},
    "as long as one may improve": {"beam_size": 3, "num_hypotheses": 3, "early_stopping": False},
    "as long as one could improve": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "early_stopping": "never",
        "max_decoding_length": 9,
    },
    "the best has ended": {"beam_size": 4, "num_hypotheses": 2, "early_stopping": "first", "length_penalty": 0},
    "coverage": {"beam_size": 3, "num_hypotheses": 3, "coverage_penalty": 0.4, "max_decoding_length": 7},
    "what was looked at": {
        "beam_size": 2,
        "num_hypotheses": 2,
        "return_attention": True,
        "alignment_heads": 1,
        "max_decoding_length": 6,
    },
    "repetition": {"beam_size": 3, "num_hypotheses": 3, "repetition_penalty": 1.5, "max_decoding_length": 8},
    "repetition of scores": {
        "beam_size": 3,
        "repetition_penalty": 1.5,
        "renormalize_logits": True,
        "max_decoding_length": 8,
    },
    "renormalised": {"beam_size": 3, "num_hypotheses": 3, "renormalize_logits": True, "min_decoding_length": 4},
    "renormalised, no repeats": {
        "beam_size": 3,
        "renormalize_logits": True,
        "no_repeat_ngram_size": 1,
        "forced_eos": False,
        "max_decoding_length": 7,
    },
    "unforced": {"beam_size": 3, "num_hypotheses": 3, "forced_eos": False, "max_decoding_length": 3},
    "suppressed": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "disable_unk": True,
        "max_decoding_length": 8,
        "suppress_sequences": [[7], [9, 11], [6, 6], [20], []],
    },
    "ends": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "end_token": range(2, 20),
        "return_end_token": True,
        "max_decoding_length": 9,
    },
    "another end, forced": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "end_token": [23, 2],
        "return_end_token": True,
        "max_decoding_length": 2,
    },
    "an end without eos": {"beam_size": 2, "num_hypotheses": 2, "end_token": [23], "max_decoding_length": 4},
    "no ends": {"beam_size": 3, "num_hypotheses": 3, "end_token": [], "max_decoding_length": 6},
    "logits": {"beam_size": 1, "return_logits_vocab": True, "max_decoding_length": 4, "min_decoding_length": 3},
    "bias": {"beam_size": 3, "num_hypotheses": 3, "prefix_bias_beta": 0.4, "max_decoding_length": 6},
    "prefixes that are last": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "prefix_alone": "last",
        "min_decoding_length": 0,
        "max_decoding_length": 5,
        "end_token": range(2, 20),
    },
    "prefixes given up": {
        "beam_size": 3,
        "num_hypotheses": 3,
        "prefix_alone": "best",
        "min_decoding_length": 0,
        "max_decoding_length": 5,
        "end_token": range(2, 20),
    },
    "more than words": {"beam_size": 45, "num_hypotheses": 3, "min_decoding_length": 0, "max_decoding_length": 2},
}


# Those that draw are compared in test_engine.py, over the numbers they draw by; shortlists in test_shortlist.py;
# callbacks below.
ELSEWHERE = {"sampling_topk", "sampling_topp", "sampling_temperature", "seed", "callback", "use_vmap"}


def test_no_option_of_search_is_left_out():
    default = AutoregressiveOptions()
    names = {field.name for field in dataclasses.fields(default)}
    changed = {n for search in SEARCHES.values() for n, value in search.items() if value != getattr(default, n)}
    assert changed | ELSEWHERE == names


@pytest.mark.parametrize("label", SEARCHES)
@pytest.mark.parametrize("two_stream", [True, False])
def test_searches_are_those_of_the_definition(two_stream, label):
    """Without and with words that outputs must begin with: which the definition looks for in whole forwards."""
    model, sources = make_model(two_stream=two_stream, seed=4), make_sources(3, seed=2)
    exact, options = copy.deepcopy(model).double(), SEARCHES[label]
    runs = [("torch", "float64"), *([("engine", "float32")] if engine.missing() is None else [])]
    translators = [(Translator(model, backend=name, compute_type=kind), kind) for name, kind in runs]
    # as for ``translator``; the definition's are float32 numbers, too
    tolerances = {kind: 4 * rounding_error(model, kind) + 2e-6 for _, kind in runs}
    for prefixes in (None, [[7, 9], [], [6]]):
        expected = reference.beam_search(exact, sources, AutoregressiveOptions(**options), prefixes)
        for translator, kind in translators:
            for result, truth in zip(translator.generate(sources, prefixes, **options), expected, strict=True):
                assert result.hypotheses == [h.ids for h in truth]
                assert result.iterations == [h.iterations for h in truth]
                extra = (result.attention, [h.attention for h in truth]), (result.logits, [h.logits for h in truth])
                for own, expected_extra in extra:
                    for rows, others in zip(own, expected_extra, strict=False):
                        assert len(rows) == len(others) > 0
                        for row, other in zip(rows, others, strict=True):
                            assert list(row) == pytest.approx(list(other), abs=10 * tolerances[kind])
                for score, scores, h in zip(result.scores, result.token_scores, truth, strict=True):
                    assert scores == pytest.approx(h.token_scores, abs=tolerances[kind])
                    # a score sums up to as many errors as there are tokens
                    assert score == pytest.approx(h.score, abs=len(scores) * tolerances[kind])


def test_the_definition_of_a_search_refuses_to_draw():
    options = AutoregressiveOptions(beam_size=1, sampling_topk=5)
    with pytest.raises(ValueError, match="^beam_search: sampling_topk must be 1, as a search draws nothing, got 5$"):
        reference.beam_search(make_model(), make_sources(1), options)


@pytest.fixture(params=["torch", "engine"])
def small(request):
    if request.param == "engine" and engine.missing():
        pytest.skip(engine.missing())
    return Translator(make_model(seed=4), backend=request.param)


def test_what_a_prefix_forces_is_free_and_counts_in_the_length(small):
    options = {"num_hypotheses": 2, "max_decoding_length": 8}
    for beam_size, length_penalty in ((3, 1.0), (3, 0.3), (2, 0.0)):
        options |= {"beam_size": beam_size, "length_penalty": length_penalty}
        (result,) = small.generate(make_sources(1), [[7, 9]], **options)
        for score, scores in zip(result.scores, result.token_scores, strict=True):
            assert score == pytest.approx(sum(scores[2:]) / len(scores) ** length_penalty, abs=1e-5)
    sampled = {"beam_size": 1, "sampling_topk": 0, "seed": 1, "max_decoding_length": 8}
    (result,) = small.generate(make_sources(1), [[7, 9]], **sampled)
    assert result.scores[0] == pytest.approx(sum(result.token_scores[0][2:]) / len(result.token_scores[0]), abs=1e-5)


def test_what_is_forced_at_the_longest_ends_an_output(small):
    options = {"beam_size": 3, "num_hypotheses": 3, "max_decoding_length": 4, "return_end_token": True}
    for result in small.generate(make_sources(4), end_token=[23], **options):
        assert all(ids[-1] == 23 and 23 not in ids[:-1] for ids in result.hypotheses)
        assert max(map(len, result.hypotheses)) == 5
    assert small.generate(make_sources(4), end_token=[], **options) == small.generate(make_sources(4), **options)


def test_bounds_of_alternatives(small):
    sources, options = [*make_sources(2), []], {"beam_size": 3, "num_hypotheses": 3, "max_decoding_length": 6}
    every = small.generate(sources, return_alternatives=True, **options)
    assert [len(result.hypotheses) for result in every] == [3, 3, 1]
    plain = small.generate(sources, return_alternatives=True, return_scores=False, **options)
    assert [(r.hypotheses, r.scores) for r in plain] == [(r.hypotheses, []) for r in every]
    likeliest = small.generate(sources, return_alternatives=True, min_alternative_expansion_prob=1, **options)
    assert [r.hypotheses for r in likeliest] == [r.hypotheses[:1] for r in every]
    short = small.generate(sources, return_alternatives=True, length_penalty=-1, **options)
    assert [len(result.hypotheses) for result in short] == [3, 3, 1] and short[2].scores == [0.0]


def test_all_that_ends_together_is_kept(small):
    """In the last step every hypothesis ends; of those that are finished the best are returned."""
    options = {"beam_size": 4, "num_hypotheses": 4, "max_decoding_length": 2}
    for result in small.generate(make_sources(9), **options):
        ends = sorted(result.iterations)
        assert len(result.hypotheses) == 4 and result.scores == sorted(result.scores, reverse=True)
        assert ends[-1] == 3 and ends.count(3) > 1


def test_callbacks_end_an_output(small):
    heard = []

    def callback(source, sample, step, token, log_prob, last):
        heard.append((source, step, token, last))
        return step == 2

    results = small.generate(make_sources(3), beam_size=1, callback=callback, min_decoding_length=6)
    whole = small.generate(make_sources(3), beam_size=1, min_decoding_length=6)
    assert [r.hypotheses[0] for r in results] == [r.hypotheses[0][:3] for r in whole]
    for number, result in enumerate(results):
        own = [(step, token) for source, step, token, _ in heard if source == number]
        assert own == list(enumerate(result.hypotheses[0]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patience": 0}, "patience must be a finite number in (0, 512], got 0"),
        ({"patience": 2, "early_stopping": False}, "patience must be 1 unless early_stopping is true, got 2.0"),
        (
            {"beam_size": 4, "num_hypotheses": 9, "patience": 2},
            "num_hypotheses must be at most beam_size * patience = 8",
        ),
        ({"early_stopping": "always"}, "early_stopping must be one of True, False, 'first', 'never', got 'always'"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a finite number above 0, got 0"),
        ({"prefix_bias_beta": 1}, "prefix_bias_beta must be a finite number in [0, 0.999999], got 1"),
        ({"suppress_sequences": [7]}, "suppress_sequences 0 must be a list of ids, got int"),
        ({"suppress_sequences": [[7, 99]]}, "suppress_sequences must hold ids in [0, 40), got 99"),
        ({"end_token": [40]}, "end_token must hold ids in [0, 40), got 40"),
        ({"end_token": 7}, "end_token must be a list of ids, got int"),
        ({"callback": 3, "beam_size": 1}, "callback must be a function or None, got 3"),
        ({"callback": print}, "beam_size must be 1 with callback, got 5"),
        ({"return_logits_vocab": True}, "beam_size must be 1 with return_logits_vocab, got 5"),
        ({"return_alternatives": 1.5}, "return_alternatives must be one of True, False, got 1.5"),
        (
            {"return_alternatives": True, "min_alternative_expansion_prob": 2},
            "min_alternative_expansion_prob must be a finite number in [0, 1], got 2",
        ),
        ({"return_alternatives": True, "draft": [[7]]}, "draft must be None with return_alternatives, got [[7]]"),
        ({"return_alternatives": True, "on_batch": 7}, "on_batch must be None with return_alternatives, got 7"),
        ({"return_alternatives": True, "mode": "nar"}, "mode must be 'ar' with return_alternatives, got 'nar'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises((ValueError, TypeError)) as error:
        Translator(make_model()).generate(make_sources(1), **options)
    assert str(error.value).startswith(message)


@pytest.mark.peers
@pytest.mark.parametrize("length_penalty", [1.0, 0.3, 0.0, 2.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_searches_end_as_in_transformers(early_stopping, length_penalty):
    """With a Marian model, whose outputs end before the longest."""
    transformers = pytest.importorskip("transformers", reason="make test-peers runs this beside transformers")
    model, vocabularies = marian.load(MARIAN)
    theirs = transformers.MarianMTModel.from_pretrained(MARIAN).eval()
    theirs.final_logits_bias[0, 44] = -1e4  # its pad, which takes no probability here
    generator, config = torch.Generator().manual_seed(2), model.config
    sources = [
        [*torch.randint(2, 44, (int(n),), generator=generator).tolist(), config.eos_token_id]
        for n in torch.randint(1, 9, (60,), generator=generator)
    ]
    own = Translator(model, vocabularies=vocabularies).generate(
        sources, beam_size=4, num_hypotheses=4, length_penalty=length_penalty, early_stopping=early_stopping,
        min_decoding_length=0, max_decoding_length=34,
    )  # fmt: skip
    same = compared = 0
    for source, result in zip(sources, own, strict=True):
        found = theirs.generate(
            torch.tensor([source]), num_beams=4, num_return_sequences=4, length_penalty=length_penalty,
            early_stopping=early_stopping, max_length=36, do_sample=False, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        expected = [[t for t in row[1:].tolist() if t not in (0, 44)] for row in found.sequences]
        if any(len(ids) >= 34 for ids in expected + result.hypotheses):
            continue  # transformers does not score the end that it forces
        compared += 1
        same += result.hypotheses == expected
        if result.hypotheses == expected:
            assert result.scores == pytest.approx(found.sequences_scores.tolist(), abs=1e-4)
    assert same >= 0.98 * compared and compared > 30
