"""Speculative decoding: what greedy search gives, on the CPU to the bit, in the passes of the definition."""

import copy
import dataclasses
import functools
import warnings

import pytest
import torch
from gpu.launches import Recorded
from test_decoding import BOS, EOS, make_model, make_sources, rounding_error

from benchmarks import workload
from benchmarks.decode import speculative as benchmark
from janus_fast import Translator, engine, reference
from janus_fast.data import test_set as committed_test_set
from janus_fast.decoding import AutoregressiveOptions, SpeculativeOptions
from janus_fast.decoding.decoder import Decoder
from janus_fast.decoding.fused import FusedModel
from janus_fast.decoding.modes import options_of
from janus_fast.decoding.runtime import Eager
from janus_fast.ops import _native

needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))
needs_native = pytest.mark.skipif(_native.missing is not None, reason=str(_native.missing))


MODELS = {
    "pre-norm": {"normalize_before": True, "activation": "gelu", "positions": "sinusoidal"},
    "mask is unk": {"mask_token_id": 3, "output_bias": True},
    "one stream": {"two_stream": False, "output_bias": True, "decoder_start_token_id": 2, "source_bos": False},
    "one ahead": {"streams_ahead": 1, "mask_token_id": 3, "output_bias": True},
    "three ahead": {"streams_ahead": 3, "normalize_before": True, "activation": "gelu", "positions": "sinusoidal"},
}
CASES = {
    "model": {"drafter": "model", "draft_threshold": 0.0},
    "likely drafts": {"drafter": "model", "draft_length": 5, "draft_threshold": 0.05},
    "one word": {"drafter": "model", "draft_length": 1, "draft_threshold": 0.0},
    "source": {"drafter": "source"},
    "none": {"drafter": "none"},
    "no drafts": {"drafter": "model", "draft_length": 0},
    "longest": {"drafter": "model", "max_decoding_length": 7, "draft_threshold": 0.0},
    "longest at once": {"drafter": "model", "max_decoding_length": 1, "draft_threshold": 0.0},
    "shortest": {"drafter": "model", "min_decoding_length": 9, "draft_threshold": 0.0},
    "empty": {"drafter": "model", "min_decoding_length": 0, "length_penalty": 0.3},
    "no repeats": {"drafter": "model", "no_repeat_ngram_size": 2, "draft_threshold": 0.0, "min_decoding_length": 4},
}
DRAFTED = "model", "likely drafts", "one word", "longest"
HOST_ALONE = ("source", "no repeats")
PREFIXES = [[7, 9], [], [11], [6, 6, 8], [39] * 14, []]


def pairs(*left_out):
    """Models, by name, and the cases that they can be asked for; more streams ahead are no other way than one."""
    both = [(m, c) for m in MODELS for c in CASES if c not in left_out and (m != "three ahead" or c in DRAFTED)]
    return [(m, c) for m, c in both if MODELS[m].get("two_stream", True) or CASES[c]["drafter"] != "model"]


def greedy(case):
    return {"beam_size": 1, **{name: value for name, value in case.items() if "draft" not in name}}


def texts(sources):
    """What could have been outputs: other sources, whose words follow each other in other places."""
    return [source[1:-1] for source in sources[1:] + sources[:1]]


@functools.cache
def model_of(name):
    return make_model(**MODELS[name])


@functools.cache
def searched(name, options, prefixes):
    """By the definition, of four sources; most cases have the same greedy search."""
    prefixes = prefixes and [list(prefix) for prefix in prefixes]
    return reference.beam_search(model_of(name), make_sources(4), AutoregressiveOptions(**dict(options)), prefixes)


@pytest.mark.parametrize("name, case", pairs())
def test_by_definition_outputs_are_those_of_greedy_search(name, case):
    model = model_of(name)
    sources, options = make_sources(4), options_of("speculative", CASES[case], model.config)
    for prefixes in (None, [prefix[: options.longest(model.config)] for prefix in PREFIXES[:4]]):
        found = reference.speculative(model, sources, options, prefixes, texts(sources) if prefixes else None)
        expected = searched(name, tuple(greedy(CASES[case]).items()), prefixes and tuple(map(tuple, prefixes)))
        for (one,), (other,) in zip(found, expected, strict=True):
            assert (one.ids, one.token_scores) == (other.ids, other.token_scores)
            assert one.score == pytest.approx(other.score, rel=1e-6)
            assert one.iterations <= other.iterations


KINDS = [
    *(pytest.param("engine", kind, marks=needs_engine) for kind in ("float32", "bfloat16", "int8")),
    *(pytest.param("torch", kind, marks=needs_native) for kind in ("float32", "bfloat16")),
]


def bits():
    """``pairs`` in all KINDS; torch, which is slower, has fewer in bfloat16."""
    for kind in KINDS:
        few = [*kind.values] == ["torch", "bfloat16"]
        for name, case in pairs("none"):
            if not few or name in ("pre-norm", "one ahead") and case in ("model", "source", "empty"):
                yield pytest.param(name, case, *kind.values, marks=kind.marks)


@pytest.mark.parametrize("name, case, backend, compute_type", list(bits()))
def test_outputs_are_the_bits_of_greedy_search(name, case, backend, compute_type):
    model, sources = model_of(name), make_sources(7)
    given = {"draft": texts(sources), "target_prefix": [*PREFIXES, []]}
    given["target_prefix"] = [prefix[: CASES[case].get("max_decoding_length", 99)] for prefix in given["target_prefix"]]
    one, two = (Translator(model, compute_type=compute_type, intra_threads=n, backend=backend) for n in (1, 2))
    texts_given = [{}, {"draft": given["draft"]}, given]
    runs = [(1, two), (4, one), (64, two)]
    if backend == "torch":  # which is slow with two threads beside other tests; test_invariance.py tries these
        texts_given, runs = [{}, given], [(1, one), (4, one)]
    for more in texts_given:
        prefix = {name: more[name] for name in more if name != "draft"}
        expected = one.generate(sources, **greedy(CASES[case]), **prefix)
        for size, translator in runs:
            found = translator.generate(sources, mode="speculative", max_batch_size=size, **CASES[case], **more)
            for result, other in zip(found, expected, strict=True):
                assert result.hypotheses == other.hypotheses
                assert (result.scores, result.token_scores) == (other.scores, other.token_scores)
                assert 0 <= result.accepted[0] == len(result.token_scores[0]) - result.iterations[0]


@pytest.mark.parametrize("backend", [pytest.param("engine", marks=needs_engine), "torch"])
@pytest.mark.parametrize("name, case", pairs())
def test_passes_and_what_they_are_fed_are_those_of_the_definition(name, case, backend):
    model = model_of(name)
    sources = make_sources(4)
    prefixes = [prefix[: CASES[case].get("max_decoding_length", 99)] for prefix in PREFIXES[:4]]
    settings = {**CASES[case], "adaptive_drafts": False, "return_history": True}
    options = options_of("speculative", settings, model.config)
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    translator = Translator(model, backend=backend)
    for drafts, forced in ((None, None), (texts(sources), None), (texts(sources), prefixes)):
        expected = reference.speculative(model, sources, options, forced, drafts)
        found = translator.generate(
            sources, forced, draft=drafts, mode="speculative", max_batch_size=1, **settings
        )  # drafts of some sentences of a batch leave less time for others
        for result, (hypothesis,) in zip(found, expected, strict=True):
            assert result.hypotheses == [hypothesis.ids]
            assert result.iterations == [hypothesis.iterations] and result.history == [hypothesis.history]
            assert result.token_scores[0] == pytest.approx(hypothesis.token_scores, abs=tolerance)
            assert result.scores[0] == pytest.approx(hypothesis.score, abs=24 * tolerance)


@pytest.mark.parametrize("name, case", pairs(*HOST_ALONE))
def test_recorded_programs_give_what_greedy_search_gives(name, case):
    exact = copy.deepcopy(model_of(name)).double().requires_grad_(False)
    fused = FusedModel(exact)
    recorded, eager = Decoder(fused, Recorded()), Decoder(fused, Eager())
    options = options_of("speculative", CASES[case], exact.config)
    for sources in (make_sources(4, seed=3), make_sources(2, seed=4), make_sources(6, seed=5)):
        expected = eager.decode(sources, AutoregressiveOptions(**greedy(CASES[case])))
        for (one,), (other,) in zip(recorded.decode(sources, options), expected, strict=True):
            assert one.ids == other.ids and one.iterations <= other.iterations
            assert one.token_scores == pytest.approx(other.token_scores, abs=2e-6)
            assert one.score == pytest.approx(other.score, abs=2e-6)


def test_a_recorded_program_serves_only_what_it_was_recorded_for():
    fused = FusedModel(make_model().double().requires_grad_(False))
    recorded, sources = Decoder(fused, Recorded()), make_sources(3)
    for own in ({}, {"min_decoding_length": 9}, {"draft_threshold": 0.9}, {"draft_length": 2}, {"drafter": "none"}, {}):
        options = SpeculativeOptions(**{"drafter": "model", "draft_threshold": 0.0, **own})
        found, alone = recorded.decode(sources, options), Decoder(fused, Recorded()).decode(sources, options)
        assert [(h.ids, h.iterations) for (h,) in found] == [(h.ids, h.iterations) for (h,) in alone]
    assert len(recorded._programs) == 5


@needs_engine
@pytest.mark.parametrize("drafter", ["none", "source"])
def test_texts_that_are_wrong_are_let_be(drafter):
    """Drafts of which no word is right: soon none is tried, whatever else drafts."""
    translator = Translator(make_model(d_model=256, decoder_ffn_dim=512), backend="engine", intra_threads=1)
    sources = make_sources(60)
    for _ in range(2):
        found = translator.generate(
            sources, draft=[[5, 6, 7, 8] * 5] * 60, mode="speculative", max_batch_size=1, drafter=drafter,
            draft_length=16, return_history=True,
        )  # fmt: skip
    passes = [len(words) > number for result in found for number, words in enumerate(result.history[0])]
    assert sum(passes) < 0.25 * len(passes)  # a pass without a draft is fed one word more than the last


@needs_engine
@pytest.mark.parametrize("ahead", [1, 3, 7])
def test_each_pass_of_streams_ahead_checks_what_they_said_in_the_one_before(ahead):
    """As many words as there are streams, but where a text is copied: then none stand beside it."""
    model, sources = make_model(streams_ahead=ahead, trained_modes=["ar", "speculative"]), make_sources(7)
    options = {"drafter": "model", "draft_threshold": 0.0, "min_decoding_length": 23, "return_history": True}
    for backend in ("torch", "engine"):
        translator = Translator(model, backend=backend)
        for length in (8, 2):
            found = translator.generate(
                sources, mode="speculative", adaptive_drafts=False, draft_length=length, max_batch_size=1, **options
            )
            for result in found:
                (words,), (history,) = result.hypotheses, result.history
                known = 0
                for number, fed in enumerate(history):
                    assert fed[:known] == words[:known]
                    assert len(fed) - known == (min(ahead, length, 23 - known) if number else 0)
                    agreed = zip(fed[known:], words[known:], strict=False)
                    known += 1 + next((n for n, (one, other) in enumerate(agreed) if one != other), len(fed) - known)
        (plain,) = translator.generate(sources[:1], beam_size=1, min_decoding_length=23)
        wrong = next([token] * 3 for token in range(5, 40) if token not in plain.hypotheses[0])
        (copied,) = translator.generate(
            sources[:1], mode="speculative", draft=[wrong], adaptive_drafts=False, **options
        )
        lengths = [len(fed) - number for number, fed in enumerate(copied.history[0][:3])]
        assert lengths == [3, 0, min(ahead, 8)] and copied.hypotheses == plain.hypotheses


@needs_engine
def test_streams_that_are_wrong_are_let_be():
    model = make_model(d_model=256, decoder_ffn_dim=512, streams_ahead=3, trained_modes=["ar", "speculative"])
    translator, sources = Translator(model, backend="engine", intra_threads=1), make_sources(60)
    options = {"no_repeat_ngram_size": 1, "draft_threshold": 0.0, "return_history": True}
    for _ in range(2):
        found = translator.generate(sources, mode="speculative", max_batch_size=1, **options)
    assert sum(result.accepted[0] for result in found) < 60
    drafted = [len(fed) > number for result in found for number, fed in enumerate(result.history[0])]
    assert sum(drafted) < 0.25 * len(drafted)


def test_caches_grow_with_the_outputs():
    model = make_model(max_target_positions=150).requires_grad_(False)
    options = SpeculativeOptions(drafter="model", draft_threshold=0.0, min_decoding_length=140)
    sources = make_sources(2)
    found = Decoder(FusedModel(model), Eager()).decode(sources, options)
    expected = Translator(model, backend="torch").generate(sources, beam_size=1, min_decoding_length=140)
    assert [group[0].ids for group in found] == [result.hypotheses[0] for result in expected]
    assert all(len(group[0].ids) >= 140 for group in found)


@pytest.mark.parametrize("backend, compute_type", KINDS)
def test_the_shipped_model_says_the_same_with_drafts(backend, compute_type):
    texts = committed_test_set("en-de")[0][:: 40 if backend == "engine" else 300]
    translators = [
        Translator("en-de-small", backend=backend, compute_type=compute_type, intra_threads=n) for n in (1, 2)
    ]
    expected = translators[0].translate(texts, beam_size=1)
    drafts = [result.hypotheses[0] for result in expected]
    edited = [draft.replace("Sie", "wir").replace("e ", "en ", 1) for draft in drafts]
    runs = ((1, translators[1]), (7, translators[0]), (64, translators[1]))
    for size, translator in runs if backend == "engine" else runs[::2]:
        own = ({"drafter": "model"}, 0.95), ({"drafter": "source"}, 1.0)
        for more, most in (*own, ({"draft": drafts}, 0.2), ({"draft": edited}, 0.5)):
            found = translator.translate(texts, mode="speculative", max_batch_size=size, adaptive_drafts=False, **more)
            for one, other in zip(found, expected, strict=True):
                assert one.hypotheses == other.hypotheses
                assert (one.scores, one.token_scores) == (other.scores, other.token_scores)
            passes = sum(result.iterations[0] for result in found)
            tokens = sum(len(result.token_scores[0]) for result in found)
            assert passes <= most * tokens


@needs_engine
def test_a_draft_that_is_right_takes_a_pass_for_each_length():
    model = make_model()
    translator, source = Translator(model, backend="engine"), make_sources(3)[:1]
    (greedy,) = translator.generate(source, beam_size=1)
    words = greedy.hypotheses[0]
    for length in (1, 5, 30):
        (found,) = translator.generate(
            source, draft=[words], mode="speculative", draft_length=length, adaptive_drafts=False, drafter="none"
        )
        assert found.hypotheses == [words]
        assert found.iterations[0] == -(-(len(words) + 1) // (length + 1))


def test_drafts_are_said_where_modes_are_explained():
    two, one = Translator(make_model(), backend="torch"), Translator(make_model(two_stream=False), backend="torch")
    assert two.explain(mode="speculative").splitlines()[0] == "speculative on cpu, float32, drafts by model:"
    assert one.explain(mode="speculative").splitlines()[0] == "speculative on cpu, float32, drafts by source:"
    ar = make_model(trained_modes=("ar",))  # its masks were never trained
    assert Translator(ar, backend="torch").explain(mode="speculative").splitlines()[0].endswith("drafts by source:")
    assert "none" in Translator(make_model(two_stream=False, share_all_embeddings=False)).explain(mode="speculative")
    ahead = Translator(make_model(streams_ahead=3, trained_modes=("ar", "speculative")), backend="torch")
    assert ahead.explain(mode="auto").startswith("auto on cpu, float32, drafts by model (streams ahead: 3):")
    assert ", drafts by model (streams ahead: 2):" in ahead.explain(mode="speculative", draft_length=2)
    assert ", drafts by model:" in ahead.explain(mode="speculative", draft_length=0)
    assert ", drafts by source:" in ahead.explain(mode="speculative", drafter="source")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"draft": [[5]]}, "draft must have one entry a source = 2, got 1"),
        ({"draft": [[5], [40]]}, r"draft 1 must hold ids in \[0, 40\), got 40"),
        ({"draft": [[5], [EOS]]}, "draft 1 must not hold bos, pad or eos, got 2"),
        ({"draft": [[5] * 24, []]}, "draft 0 must have at most 23 tokens, got 24"),
        ({"draft_length": -1}, "draft_length must be an integer of at least 0, got -1"),
        ({"draft_length": 513}, "draft_length must be at most 512, got 513"),
        ({"draft_threshold": 1.5}, r"draft_threshold must be a finite number in \[0, 1\], got 1.5"),
        ({"drafter": "nobody"}, "drafter must be one of .*'auto', 'model', 'source', 'none'.*, got 'nobody'"),
        ({"beam_size": 2}, "must be known, got 'beam_size', which is one of mode 'ar'. Known are 'length_penalty', "),
        ({"min_decoding_length": 30}, "min_decoding_length must be at most the model's longest output = 23, got 30"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_clear_error(options, message):
    translator = Translator(make_model(), backend="torch")
    with pytest.raises(ValueError, match=message):
        translator.generate(make_sources(2), mode="speculative", **options)


@pytest.mark.parametrize(
    ("trained", "ahead", "drafter"),
    [
        (["ar", "nar", "speculative"], 0, "model"), (["ar", "speculative"], 2, "model (streams ahead: 2)"),
        (["ar", "nar"], 0, "source"), (["ar"], 0, "source"), (None, 0, "source"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["torch", pytest.param("engine", marks=needs_engine)])
def test_auto_is_greedy_search_by_what_the_model_can(trained, ahead, drafter, backend):
    model = make_model()
    model.config = dataclasses.replace(model.config, trained_modes=trained, streams_ahead=ahead)
    translator, sources = Translator(model, backend=backend), make_sources(9)
    assert f"auto on cpu, float32, drafts by {drafter}:" in translator.explain(mode="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = translator.generate(sources, mode="auto", min_decoding_length=2)
    expected = translator.generate(sources, beam_size=1, min_decoding_length=2)
    assert [r.hypotheses for r in found] == [r.hypotheses for r in expected]
    if backend == "engine" or _native.missing is None:
        assert [r.token_scores for r in found] == [r.token_scores for r in expected]
    drafts = [r.hypotheses[0] for r in expected]
    given = translator.generate(sources, mode="auto", min_decoding_length=2, draft=drafts, adaptive_drafts=False)
    assert sum(r.iterations[0] for r in given) < sum(r.iterations[0] for r in expected)


def test_a_model_that_cannot_draft_says_so():
    one, two = make_model(two_stream=False).config, make_model(share_all_embeddings=False).config
    with pytest.raises(
        ValueError,
        match="drafter must be 'source', 'none' or 'auto' with an ordinary Transformer, which fills no masks",
    ):
        options_of("speculative", {"drafter": "model"}, one)
    with pytest.raises(ValueError, match="drafter must be another with a model that has two vocabularies"):
        options_of("speculative", {"drafter": "source"}, two)


@pytest.mark.parametrize("name, heads", [("same", 2), ("twice", 1)])
def test_a_stretched_model_computes_the_same(monkeypatch, name, heads):
    """What ``python -m benchmarks speculative`` times larger sizes with."""
    sizes = workload.Sizes(channels=32, hidden=64, heads=2, layers=3, vocabulary=60)
    monkeypatch.setitem(workload.CONFIGURATIONS, name, sizes)
    model = make_model(d_model=16, attention_heads=heads, normalize_before=True)
    stretched = benchmark.stretched(model, name)
    assert stretched.config.d_model == 32 and len(stretched.decoder.layers) == 3
    sources = make_sources(6)
    one, other = (Translator(m, backend="torch").generate(sources, beam_size=1) for m in (model, stretched))
    assert [r.hypotheses for r in one] == [r.hypotheses for r in other]
    for own, wide in zip(one, other, strict=True):
        assert wide.token_scores[0] == pytest.approx(
            own.token_scores[0], abs=4 * rounding_error(model, "float32") + 2e-6
        )
    with pytest.raises(ValueError, match="model must have norms before its blocks and half the channels of iwslt"):
        benchmark.stretched(model, "iwslt")


def test_drafts_belong_to_their_mode():
    translator = Translator(make_model(), backend="torch")
    with pytest.raises(ValueError, match="draft must be None in mode 'ar', got list"):
        translator.generate([[BOS, 5, EOS]], draft=[[5]])


@pytest.mark.parametrize("backend", [pytest.param("engine", marks=needs_engine), "torch"])
def test_logits_that_are_not_finite_are_an_error(backend):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e18)  # finite weights, infinite products
    with pytest.raises(FloatingPointError, match="every source must have an output of finite score"):
        Translator(model, backend=backend).generate(make_sources(1), mode="speculative", drafter="model")


@needs_engine
class TestPace:
    """Costs that are made up: what a token takes, and a cycle by its length."""

    @staticmethod
    def spent(costs, tokens, count=4000, sentences=1):
        from janus_fast import _engine

        pace, nanoseconds, done = _engine.kernels.Pace(), 0.0, 0.0
        while done < count:
            length = pace.choose(0, 8, sentences)
            pace.record(0, 8, sentences, length, tokens[length], costs[length])
            nanoseconds += costs[length]
            done += tokens[length]
        return nanoseconds / done

    def test_drafts_that_do_not_pay_cost_little(self):
        assert self.spent({0: 100, 2: 400, 4: 600, 8: 1000}, {0: 1, 2: 2, 4: 2, 8: 2}) < 1.1 * 100

    def test_in_a_batch_they_cost_little_from_the_first_sentences_on(self):
        assert (
            self.spent({0: 100, 2: 300, 4: 500, 8: 900}, {0: 1, 2: 2, 4: 2, 8: 2}, count=800, sentences=32) < 1.05 * 100
        )

    def test_drafts_that_hardly_pay_are_not_made(self):
        costs = {0: 100, 2: 190, 4: 290, 8: 390}
        assert self.spent(costs, {0: 1, 2: 2, 4: 3, 8: 4}) > 99.5  # at 5% less noise would decide

    def test_drafts_that_pay_are_made(self):
        best = 400 / 5
        assert self.spent({0: 200, 2: 250, 4: 400, 8: 1000}, {0: 1, 2: 2, 4: 5, 8: 6}) < 1.1 * best

    def test_batches_of_another_size_are_another_matter(self):
        from janus_fast import _engine

        pace = _engine.kernels.Pace()
        for _ in range(3000):
            length = pace.choose(0, 8, 1)
            pace.record(0, 8, 1, length, 1 + length, 100 + 10 * length)
            length = pace.choose(0, 8, 32)
            pace.record(0, 8, 32, length, 1 + length, 100 + 400 * length)
        chosen = [pace.choose(0, 8, size) for size in (1, 32, 1, 32, 1, 32)]
        assert chosen[::2].count(8) >= 2 and chosen[1::2].count(0) >= 2
