"""Both decoding modes against slow definitions: uncached forwards, exhaustive search, one candidate at a time."""

import functools
import hashlib
import itertools
import math

import pytest
import torch

from janus_fast import JanusConfig, JanusModel, Translator, Vocabulary, engine, reference
from janus_fast.decoding import AutoregressiveOptions, NonAutoregressiveOptions, modes
from janus_fast.visibility import Visibility

BOS, PAD, EOS, UNK, MASK = range(5)


def make_model(vocabulary=40, seed=0, **options):
    """A small random model whose distributions are peaked enough to have clear winners."""
    torch.manual_seed(seed)
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    limits = {"max_source_positions": 32, "max_target_positions": 24, "length_classes": 24}
    model = JanusModel(JanusConfig(vocabulary, vocabulary, **{**sizes, **limits, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.eval()


def make_sources(count, seed=1, vocabulary=40, longest=12):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [[BOS, *torch.randint(5, vocabulary, (n,), generator=generator).tolist(), EOS] for n in lengths]


RUNS = [
    "post-norm, float64, torch", "pre-norm, float64, torch", "post-norm, float32, torch", "post-norm, float32, engine",
    "pre-norm, float32, engine",
]  # fmt: skip


def translator_of(model, backend, **options):
    """A translator, its model at hand as ``reference``."""
    if backend == "engine" and engine.missing():
        pytest.skip(engine.missing())
    translator = Translator(model, backend=backend, **options)
    translator.reference = translator.model if backend == "torch" else model
    return translator


@pytest.fixture(scope="module", params=RUNS)
def translator(request):
    """In torch's float64 the reference runs, in its float32 the native kernels, where they are built."""
    norm, compute_type, backend = request.param.split(", ")
    model = make_model(normalize_before=norm == "pre-norm")
    translator = translator_of(model, backend, compute_type=compute_type)
    # each of the two results that are compared may err by twice what a full forward does
    translator.tolerance = 4 * rounding_error(model, compute_type) + 2e-6  # scores are handed out in float32
    return translator


@pytest.fixture(params=["torch", "engine"])
def backend(request):
    if request.param == "engine" and engine.missing():
        pytest.skip(engine.missing())
    return request.param


def rounding_error(model, compute_type):
    """The largest error of a token's log-probability in torch's ``compute_type`` against float64, in full forwards,
    over more tokens than a test compares; found once for each model, which many tests make."""
    weights = hashlib.sha256(b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters()))
    key = compute_type, model.config.to_json(), weights.digest()
    if key not in ROUNDING_ERRORS:
        ROUNDING_ERRORS[key] = _rounding_error(model, compute_type)
    return ROUNDING_ERRORS[key]


ROUNDING_ERRORS = {}


def _rounding_error(model, compute_type):
    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"t{i}" for i in range(5, 40))])
    vocabularies = (vocabulary, vocabulary)
    sources, targets = ([vocabulary.tokens_of(ids[1:-1]) for ids in make_sources(400, seed)] for seed in (8, 9))
    scores = [
        Translator(model, compute_type=kind, backend="torch", vocabularies=vocabularies).score_batch(sources, targets)
        for kind in (compute_type, "float64")
    ]
    pairs = zip(*([x for result in results for x in result.log_probs] for results in scores), strict=True)
    return max(abs(one - other) for one, other in pairs)


MODES = {
    "greedy": {"mode": "ar", "beam_size": 1, "max_decoding_length": 22},
    "beam": {"mode": "ar", "beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.6, "max_decoding_length": 14},
    "no repeats": {"beam_size": 3, "no_repeat_ngram_size": 2, "min_decoding_length": 5, "max_decoding_length": 20},
    "nar": {"mode": "nar", "iterations": 5, "length_beam": 3, "num_hypotheses": 3},
    "nar, ranked as they are": {"mode": "nar", "num_hypotheses": 3, "rerank": False},
    "nar, fixed": {"mode": "nar", "iterations": 4, "length_beam": 4, "adaptive": False, "length_candidates": "topk"},
    "nar, canvas": {"mode": "nar", "iterations": 3, "length_beam": 5, "score": "canvas", "return_history": True},
}


@pytest.mark.parametrize("name", MODES)
def test_results_do_not_depend_on_the_batch(translator, name):
    sources = make_sources(7)
    together = translator.generate(sources, **MODES[name])
    for options in ({"max_batch_size": 1}, {"max_batch_size": 20, "batch_type": "tokens"}):
        for one, other in zip(together, translator.generate(sources, **options, **MODES[name]), strict=True):
            assert one.hypotheses == other.hypotheses
            assert one.iterations == other.iterations and one.history == other.history
            for scores, others in zip(one.token_scores, other.token_scores, strict=True):
                assert scores == pytest.approx(others, abs=translator.tolerance)
            # a score sums up to as many errors as there are tokens
            assert one.scores == pytest.approx(other.scores, abs=24 * translator.tolerance)


@pytest.mark.parametrize("name", ["greedy", "beam", "no repeats"])
def test_cached_steps_equal_the_uncached_forward(translator, name):
    tokens = [f"t{i}" for i in range(40)]
    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *tokens[5:]])
    truth = Translator(translator.reference, compute_type="float64", backend="torch", vocabularies=(vocabulary,) * 2)
    sources, errors = make_sources(6), []
    for source, result in zip(sources, translator.generate(sources, **MODES[name]), strict=True):
        for ids, scores in zip(result.hypotheses, result.token_scores, strict=True):
            batch = [vocabulary.tokens_of(source[1:-1])], [vocabulary.tokens_of(ids)]
            expected = torch.tensor(truth.score_batch(*batch)[0].log_probs)
            errors.append((torch.tensor(scores) - expected).abs().max())
    # cached steps may err as full forwards do, twice over
    assert max(errors) <= translator.tolerance / 2


def uncached_log_probs(model, source, prefix):
    """log P(next token | source, prefix) from one full forward over the two streams of ``prefix``."""
    source, content = torch.tensor(source), torch.tensor([BOS, *prefix])
    n = len(content)
    offsets = torch.tensor([0, len(source)], dtype=torch.int32)
    visibility = Visibility.autoregressive(torch.tensor([n]))
    cross = Visibility.bidirectional(visibility.query_offsets, offsets, torch.zeros(2, dtype=torch.int32))
    both = torch.cat([content, torch.full_like(content, model.config.mask_token_id)])
    positions = torch.arange(n).repeat(2)
    hidden = model.decode(both, positions, visibility, model.encode(source, offsets), cross)
    return model.logits(hidden[-1:]).log_softmax(-1)[0]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 10.0])
def test_a_wide_beam_is_an_exhaustive_search(length_penalty):
    translator = Translator(make_model(vocabulary=8, seed=3), compute_type="float64")
    source, longest = [BOS, 5, 7, 6, EOS], 3
    words = [UNK, 5, 6, 7]
    found = {}
    for length in range(1, longest + 1):
        for ids in itertools.product(words, repeat=length):
            steps = [*ids, EOS]
            log_probs = [uncached_log_probs(translator.model, source, ids[:i])[t] for i, t in enumerate(steps)]
            found[ids] = float(sum(log_probs)) / len(steps) ** length_penalty
    best = sorted(found, key=found.get, reverse=True)[:10]
    options = {"beam_size": 100, "num_hypotheses": 10, "max_decoding_length": longest}
    result = translator.generate([source], length_penalty=length_penalty, **options)[0]
    assert [tuple(h) for h in result.hypotheses] == best
    # each log-probability of at most longest + 1 is rounded to float32, and so are their sums and the mean
    roundings = (longest + 3) * torch.finfo(torch.float32).eps / 2
    assert result.scores == pytest.approx([found[ids] for ids in best], rel=roundings)


def test_lengths_ngrams_and_prefixes_are_respected(translator):
    sources = make_sources(8)
    for result in translator.generate(sources, beam_size=3, min_decoding_length=6, max_decoding_length=9):
        assert 6 <= len(result.hypotheses[0]) <= 9
    for result in translator.generate(sources, beam_size=3, no_repeat_ngram_size=1):
        assert len(set(result.hypotheses[0])) == len(result.hypotheses[0])
    prefixes = [[7, 9], [], [11], [6, 6, 8], [], [], [5], [39]]
    results = translator.generate(sources, prefixes, beam_size=3, num_hypotheses=2, max_decoding_length=8)
    free = translator.generate(sources, beam_size=3, num_hypotheses=2, max_decoding_length=8)
    for prefix, result, other in zip(prefixes, results, free, strict=True):
        assert all(h[: len(prefix)] == prefix for h in result.hypotheses)
        assert prefix or result.hypotheses == other.hypotheses


def test_sampling_is_seeded_and_follows_the_distribution():
    translator = Translator(make_model(vocabulary=9, seed=5), compute_type="float64")
    source = [BOS, 6, 8, EOS]
    options = {"beam_size": 1, "sampling_topk": 0, "max_decoding_length": 1, "min_decoding_length": 1}
    count = 3000
    samples = translator.generate([source], num_hypotheses=count, **options, seed=7)[0]
    assert samples.hypotheses == translator.generate([source], num_hypotheses=count, **options, seed=7)[0].hypotheses
    assert samples.hypotheses != translator.generate([source], num_hypotheses=count, **options, seed=8)[0].hypotheses
    allowed = torch.tensor([UNK, 5, 6, 7, 8])
    expected = uncached_log_probs(translator.model, source, [])[allowed].softmax(-1)
    drawn = torch.bincount(torch.tensor(samples.hypotheses).flatten(), minlength=9)[allowed]
    assert int(drawn.sum()) == count
    # five standard deviations of a binomial count
    assert ((drawn - count * expected).abs() < 5 * (count * expected * (1 - expected)).sqrt() + 1).all()
    best = int(allowed[expected.argmax()])
    for narrow in ({"sampling_topp": 1e-6}, {"sampling_temperature": 1e-3}):
        assert translator.generate([source], **options, **narrow)[0].hypotheses == [[best]]
    top2 = allowed[expected.topk(2).indices].tolist()
    drawn = translator.generate([source], num_hypotheses=200, **{**options, "sampling_topk": 2})[0].hypotheses
    assert {h[0] for h in drawn} == set(top2)


NAR = {
    "fixed": {"iterations": 4, "num_hypotheses": 3, "adaptive": False},
    "adaptive": {"iterations": 10, "num_hypotheses": 3, "return_history": True},
    "likely lengths": {"length_candidates": "topk", "length_beam": 5, "num_hypotheses": 5, "score": "canvas"},
    "one pass": {"iterations": 1, "length_beam": 2, "return_history": True},
    "their own ranking": {"iterations": 4, "length_beam": 5, "num_hypotheses": 5, "rerank": False},
    "one length, read": {"length_beam": 1, "rerank": True},
    "easy first": {"order": "easy_first", "num_hypotheses": 3, "return_history": True},
    "left to right": {"order": "left_to_right", "length_beam": 2, "return_history": True},
    "right to left": {"order": "right_to_left", "num_hypotheses": 2, "remove_repeats": True},
    "no repeats": {"iterations": 1, "length_beam": 4, "num_hypotheses": 4, "remove_repeats": True},
}


@functools.cache
def defined(normalize_before, label):
    exact = make_model(normalize_before=normalize_before).double()  # where scores nearly tie, float32 may keep another
    return reference.mask_predict(exact, make_sources(8), NonAutoregressiveOptions(**NAR[label]))


@pytest.mark.parametrize("label", NAR)
def test_mask_predict_is_its_definition(translator, label):
    results = translator.generate(make_sources(8), mode="nar", **NAR[label])
    expected = defined(translator.config.normalize_before, label)
    for result, group in zip(results, expected, strict=True):
        assert result.hypotheses == [h.ids for h in group]
        assert result.iterations == [h.iterations for h in group]
        assert not result.history or result.history == [h.history for h in group]
        assert result.predictions == [h.predictions for h in group if result.history]
        for passes, h in zip(result.prediction_scores, group if result.history else [], strict=True):
            for certain, by_definition in zip(passes, h.prediction_scores, strict=True):
                assert certain == pytest.approx(by_definition, abs=translator.tolerance)
        for score, token_scores, h in zip(result.scores, result.token_scores, group, strict=True):
            assert token_scores == pytest.approx(h.token_scores, abs=translator.tolerance)
            assert score == pytest.approx(h.score, abs=translator.tolerance)


@pytest.mark.parametrize("order", ["easy_first", "left_to_right", "right_to_left"])
def test_one_word_after_another_is_kept_for_good(translator, order):
    options = {"mode": "nar", "order": order, "return_history": True, "rerank": False, "num_hypotheses": 3}
    sources, filled = make_sources(7), []
    for source, result in zip(sources, translator.generate(sources, **options), strict=True):
        assert translator.generate([source], **options)[0].hypotheses == result.hypotheses
        for ids, passes, history in zip(result.hypotheses, result.iterations, result.history, strict=True):
            assert passes == len(ids) == max(len(history) - 1, 0) and history[-1:] == [ids] * bool(ids)
            for before, canvas in itertools.pairwise(history):
                (place,) = [i for i, (one, other) in enumerate(zip(before, canvas, strict=True)) if one != other]
                assert before[place] == 4
                filled.append((place, [i for i, token in enumerate(before) if token == 4]))
    assert len(filled) > 100
    if order == "easy_first":
        assert any(place not in (masked[0], masked[-1]) for place, masked in filled)
    else:
        assert all(place == masked[0 if order == "left_to_right" else -1] for place, masked in filled)


def score_of(result):
    return sum(result.token_scores[0]) / max(len(result.token_scores[0]), 1)


def test_words_that_are_the_one_before_them_are_removed(translator):
    sources, options = make_sources(20), {"mode": "nar", "iterations": 1, "length_beam": 1}
    whole, short = (translator.generate(sources, remove_repeats=yes, **options) for yes in (False, True))
    expected = [[token for token, _ in itertools.groupby(result.hypotheses[0])] for result in whole]
    assert [result.hypotheses[0] for result in short] == expected != [result.hypotheses[0] for result in whole]
    assert all(score_of(result) == pytest.approx(result.scores[0], abs=1e-5) for result in short)
    assert [len(result.token_scores[0]) for result in short] == [len(ids) for ids in expected]


@pytest.mark.parametrize("name", ["nar", "nar, fixed"])
def test_ranked_translations_have_the_scores_of_given_ones(translator, name):
    """And so those that mode "ar" would give them, with a length penalty of 1."""
    tokens = [f"t{i}" for i in range(40)]
    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *tokens[5:]])
    truth = Translator(translator.reference, compute_type="float64", backend="torch", vocabularies=(vocabulary,) * 2)
    sources = make_sources(9)
    for source, result in zip(sources, translator.generate(sources, **MODES[name]), strict=True):
        assert result.scores == sorted(result.scores, reverse=True)
        targets = [vocabulary.tokens_of(ids) for ids in result.hypotheses]
        given = truth.score_batch([vocabulary.tokens_of(source[1:-1])] * len(targets), targets)
        for score, scores, expected in zip(result.scores, result.token_scores, given, strict=True):
            assert scores == pytest.approx(expected.log_probs, abs=translator.tolerance)
            assert score == pytest.approx(math.fsum(scores) / len(scores), abs=1e-6)


def test_candidates_are_ranked_where_that_is_possible_and_of_use():
    def ranks(trained=None, **options):
        config = JanusConfig(8, 8, trained_modes=trained)
        return NonAutoregressiveOptions(**options).resolved(config).rerank

    assert ranks() and ranks(["ar", "nar"]) and ranks(["nar"], rerank=True) and ranks(length_beam=1, rerank=True)
    off = [{"trained": ["nar"]}, {"length_beam": 1}, {"iterations": 1}, {"score": "canvas"}, {"rerank": False}]
    off.append({"remove_repeats": True})
    assert not any(ranks(**case) for case in off)


def test_ranking_says_when_a_model_did_not_learn_to(recwarn):
    model = make_model(trained_modes=["nar"])
    translator, sources = Translator(model), make_sources(1)
    translator.generate(sources, mode="nar")
    assert not recwarn
    with pytest.warns(UserWarning, match="mode 'ar' is not what this model was trained for, which is nar"):
        translator.generate(sources, mode="nar", rerank=True)


def test_a_candidate_that_cannot_be_read_is_an_error(backend):
    model = make_model(output_bias=True)
    with torch.no_grad():
        model.output_bias[[EOS, 7]] = torch.tensor([-3e38, 3e38])  # in parallel no end is predicted
    translator, sources = Translator(model, backend=backend), make_sources(3)
    assert translator.generate(sources, mode="nar", rerank=False)
    with pytest.raises(FloatingPointError, match="^generate: every candidate must have a finite score, got NaN or inf"):
        translator.generate(sources, mode="nar")


def test_adaptive_stop_saves_passes_and_returns_no_masks(translator):
    sources = make_sources(12)
    full = translator.generate(sources, mode="nar", iterations=12, adaptive=False)
    adaptive = translator.generate(sources, mode="nar", iterations=12, return_history=True)
    assert sum(r.iterations[0] for r in adaptive) < sum(r.iterations[0] for r in full)
    assert max(r.iterations[0] for r in full) == 12
    for result in adaptive:
        assert MASK not in result.hypotheses[0]
        if result.hypotheses[0]:
            assert result.history[0][0] == [MASK] * len(result.hypotheses[0])
            assert result.history[0][-1] == result.hypotheses[0]
            assert len(result.history[0]) == result.iterations[0] + 1
            assert len(result.predictions[0]) == len(result.prediction_scores[0]) == result.iterations[0]
            assert result.predictions[0][-1] == result.hypotheses[0]
            for before, canvas in zip(
                result.predictions[0], result.history[0][1:], strict=True
            ):  # masked again or kept
                assert all(now in (token, MASK) for token, now in zip(before, canvas, strict=True))


def test_empty_input_gives_empty_output(translator):
    for mode in ("ar", "nar"):
        assert translator.generate([], mode=mode) == []
        source = make_sources(1)[0]
        empty, other = translator.generate([[BOS, EOS], source], mode=mode)
        assert empty.hypotheses == [[]] and empty.scores == [0.0]
        assert other.hypotheses == translator.generate([source], mode=mode)[0].hypotheses


def test_an_empty_candidate_wins_only_as_the_most_likely_length(backend):
    model = make_model()
    with torch.no_grad():
        model.decoder.embed_length.weight.zero_()
    # all lengths equally likely: the first class, clamped to 2, is the most likely one
    options = {"mode": "nar", "rerank": False, "length_beam": 3, "num_hypotheses": 3}
    result = Translator(model, backend=backend).generate(make_sources(1), **options)[0]
    assert result.hypotheses[0] == [] and result.scores[0] == 0.0
    with torch.no_grad():
        encoded = model.encode(torch.tensor(make_sources(1)[0]), torch.tensor([0, len(make_sources(1)[0])]).int())
        model.decoder.embed_length.weight[3] = encoded.mean(0)
    options |= {"length_beam": 5, "num_hypotheses": 5}
    result = Translator(model, backend=backend).generate(make_sources(1), **options)[0]
    assert result.hypotheses[0] != [] and result.scores[-1] == -math.inf
    assert (
        Translator(model, backend=backend).generate(make_sources(1), **options, score="canvas")[0].hypotheses[0] == []
    )


ERRORS = [
    ({"mode": "beam"}, "mode must be one of 'ar', 'nar', 'semi_nar', 'speculative', 'auto', got 'beam'"),
    ({"beam_size": 0}, "beam_size must be an integer of at least 1, got 0"),
    ({"beam_size": 2, "num_hypotheses": 3}, "num_hypotheses must be at most beam_size = 2, got 3"),
    ({"beam_size": 2, "sampling_topk": 5}, "beam_size must be 1 when sampling_topk is not 1, got 2"),
    ({"sampling_topp": 0.0}, "sampling_topp must be a finite number in (0, 1], got 0.0"),
    ({"sampling_temperature": 0.0}, "sampling_temperature must be a finite number above 0, got 0.0"),
    ({"sampling_temperature": math.inf}, "sampling_temperature must be a finite number above 0, got inf"),
    ({"sampling_temperature": 0.5}, "sampling_topk must not be 1 when sampling_topp or sampling_temperature is not 1"),
    ({"length_penalty": math.nan}, "length_penalty must be a finite number in [-10, 10], got nan"),
    ({"length_penalty": 1e300}, "length_penalty must be a finite number in [-10, 10], got 1e+300"),
    ({"length_penalty": -10.1}, "length_penalty must be a finite number in [-10, 10], got -10.1"),
    ({"length_penalty": 10**400}, "length_penalty must be a finite number in [-10, 10], got 10000"),
    ({"min_decoding_length": 30}, "min_decoding_length must be at most the model's longest output = 23, got 30"),
    (
        {"min_decoding_length": 9, "max_decoding_length": 8},
        "min_decoding_length must be at most max_decoding_length = 8",
    ),
    ({"iterations": 4}, "options of mode 'ar' must be known, got 'iterations', which is one of mode 'nar'"),
    (
        {"mode": "nar", "beam_size": 4},
        "options of mode 'nar' must be known, got 'beam_size', which is one of mode 'ar'",
    ),
    ({"mode": "nar", "iterations": 0}, "iterations must be an integer of at least 1, got 0"),
    ({"mode": "nar", "length_beam": 23}, "length_beam must be at most the number of target lengths = 22, got 23"),
    ({"beam_size": 100000}, "beam_size must be at most 512, got 100000"),
    ({"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 10**6}, "num_hypotheses must be at most 4096, got 1000000"),
    ({"sampling_topk": 10**30, "beam_size": 1}, f"sampling_topk must be at most {2**31 - 1}, got {10**30}"),
    ({"max_decoding_length": 10**30}, f"max_decoding_length must be at most {2**31 - 1}, got {10**30}"),
    ({"no_repeat_ngram_size": 10**30}, f"no_repeat_ngram_size must be at most {2**31 - 1}, got {10**30}"),
    ({"seed": 10**30}, f"seed must be at most {2**64 - 1}, got {10**30}"),
    ({"mode": "nar", "iterations": 10**9}, "iterations must be at most 512, got 1000000000"),
    ({"mode": "nar", "length_beam": 10**9}, "length_beam must be at most 512, got 1000000000"),
    ({"mode": "nar", "length_candidates": "best"}, "length_candidates must be one of 'window', 'topk', got 'best'"),
    ({"mode": "nar", "rerank": "no"}, "rerank must be one of True, False, None, got 'no'"),
    (
        {"mode": "nar", "rerank": True, "score": "canvas"},
        "score must be 'tokens' when rerank is true, which scores otherwise, got 'canvas'",
    ),
    (
        {"mode": "nar", "rerank": True, "remove_repeats": True},
        "remove_repeats must be left out with rerank, which reads whole canvases, got True",
    ),
    (
        {"mode": "nar", "order": "any"},
        "order must be one of 'parallel', 'easy_first', 'left_to_right', 'right_to_left'",
    ),
    (
        {"mode": "nar", "order": "easy_first", "iterations": 9},
        "iterations must be left out with order 'easy_first', which takes a pass for each word, got 9",
    ),
    (
        {"mode": "nar", "order": "left_to_right", "adaptive": False},
        "adaptive must be left out with order 'left_to_right', which takes a pass for each word, got False",
    ),
    (
        {"beam_size": 1, "sampling_topk": 0, "patience": 2},
        "patience must be left out with sampling, which does not search, got 2",
    ),
    (
        {"alignment_heads": 1},
        "alignment_heads must be left out with neither return_attention nor coverage_penalty, got 1",
    ),
    (
        {"mode": "speculative", "drafter": "source", "draft_threshold": 0.4},
        "draft_threshold must be left out with drafter 'source', as words of the model alone are more or less likely",
    ),
    ({"min_alternative_expansion_prob": 0.5}, "min_alternative_expansion_prob must be left out without return_alter"),
    ({"mode": "nar", "score": "sum"}, "score must be one of 'tokens', 'canvas', got 'sum'"),
    ({"mode": "nar", "target_prefix": [[5]]}, "target_prefix must be None in mode 'nar'"),
    ({"mode": "nar", "adaptive": "no"}, "adaptive must be one of True, False, got 'no'"),
    ({"target_prefix": [[5, 6, 7]], "max_decoding_length": 2}, "target_prefix 0 must have at most 2 tokens, got 3"),
    ({"target_prefix": [[5, 2, 7]]}, "target_prefix 0 must not hold bos, pad or eos, got 2"),
    ({"target_prefix": []}, "target_prefix must have one entry a source = 1, got 0"),
    ({"source": [[0, *[7] * 31, 2]]}, "source 0 must have at most 32 tokens, bos and eos included, got 33"),
    ({"source": [[0, 7, 2], [0, 40, 2]]}, "source 1 must hold ids in [0, 40), got 40"),
    ({"source": [[0, 7.5, 2]]}, "source 0 must hold ids in [0, 40), got 7.5"),
    ({"batch_type": "words", "max_batch_size": 3}, "batch_type must be one of 'examples', 'tokens', got 'words'"),
    ({"max_batch_size": -1}, "max_batch_size must be an integer of at least 0, got -1"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_a_mistake_gets_one_clear_error(options, message, backend):
    translator = Translator(make_model(), backend=backend)
    with pytest.raises(ValueError) as error:
        translator.generate(**{"source": [[BOS, 7, EOS]], **options})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("options", "hint"), [
    ({"beamsize": 4}, "got 'beamsize'; did you mean 'beam_size'?"),
    ({"max_batchsize": 4}, "got 'max_batchsize'; did you mean 'max_batch_size'?"),
    ({"max_input_len": 4}, "got 'max_input_len'; did you mean 'max_input_length'?"),
    ({"mode": "na"}, "must be one of 'ar', 'nar', 'semi_nar', 'speculative', 'auto', got 'na'; did you mean 'nar'?"),
    ({"mode": "nar", "beam_size": 4}, "got 'beam_size', which is one of mode 'ar'"),
])  # fmt: skip
def test_an_unknown_option_comes_with_a_hint(options, hint):
    with pytest.raises(ValueError) as error:
        Translator(make_model()).generate([[BOS, 7, EOS]], **options)
    assert hint in str(error.value)


@pytest.mark.parametrize(("mode", "asked", "idle"), [
    ("nar", {"order": "easy_first"}, {"iterations": 5}),
    ("ar", {}, {"alignment_heads": 1}),
    ("ar", {"beam_size": 1, "sampling_topk": 0}, {"patience": 2.0}),
    ("speculative", {"drafter": "none"}, {"draft_threshold": 0.5}),
])  # fmt: skip
def test_all_options_may_be_given_with_their_defaults(mode, asked, idle):
    config = make_model().config
    every = {name: field.default for name, field in modes.MODES[mode].fields.items()} | asked
    assert modes.options_of(mode, every, config) == modes.options_of(mode, asked, config)
    with pytest.raises(ValueError, match=f"{next(iter(idle))} must be left out with "):
        modes.options_of(mode, every | idle, config)


def test_large_options_that_take_no_memory_are_taken(backend):
    translator, sources = Translator(make_model(), backend=backend), make_sources(3)
    large = {"max_decoding_length": 2**31 - 1, "no_repeat_ngram_size": 2**31 - 1, "max_batch_size": 2**31 - 1}
    assert translator.generate(sources, **large) == translator.generate(sources)
    drawn = {"beam_size": 1, "num_hypotheses": 2}
    every, some = (translator.generate(sources, sampling_topk=k, **drawn) for k in (0, 2**31 - 1))
    assert [r.hypotheses for r in every] == [r.hypotheses for r in some]


def test_a_batch_is_cut_where_it_would_take_much_memory(backend):
    """131,072 rows at once: 4 sources of at most 32 tokens with 512 candidates each are half of that."""
    translator, sources = Translator(make_model(max_target_positions=600, length_classes=600), backend=backend), []
    sizes = []
    decode = translator._backend.decode
    translator._backend.decode = lambda batch, *rest: sizes.append(len(batch)) or [[]] * len(batch)
    sources = make_sources(20)
    for options, expected in (
        ({"beam_size": 512}, [8, 8, 4]),
        ({"beam_size": 100, "max_batch_size": 7}, [7, 7, 6]),
        ({"mode": "nar", "length_beam": 400}, [10, 10]),
        ({"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 4096}, [1] * 20),
        ({"beam_size": 5}, [20]),
    ):
        sizes.clear()
        translator.generate(sources, **options)
        assert sizes == expected
    translator._backend.decode = decode
    assert len(translator.generate(sources[:1], beam_size=512, max_decoding_length=2)[0].hypotheses) == 1


def test_mistakes_of_construction_and_of_types():
    model = make_model()
    for options, message in [
        (
            {"compute_type": "int7"},
            "Translator: compute_type must be known, got 'int7'; did you mean 'int8'? Known are 'default', ",
        ),
        ({"device": "warp"}, "Translator: device must be 'cpu', 'cuda', 'cuda:1' or another device of torch, got"),
        ({"intra_threads": -1}, "Translator: intra_threads must be an integer of at least 0, got -1"),
        ({"inter_threads": 0}, "Translator: inter_threads must be an integer of at least 1, got 0"),
        ({"intra_threads": 10**6}, "Translator: intra_threads must be at most 1024, got 1000000"),
        ({"inter_threads": 10**6}, "Translator: inter_threads must be at most 1024, got 1000000"),
        ({"backend": "abacus"}, "Translator: backend must be one of 'auto', 'engine', 'cuda', 'torch', got 'abacus'"),
        (
            {"vocabularies": (Vocabulary(["<unk>"]),) * 2},
            "Translator: vocabularies must have the model's sizes (40, 40)",
        ),
    ]:
        with pytest.raises(ValueError) as error:
            Translator(model, **options)
        assert str(error.value).startswith(message)
    with pytest.raises(ValueError, match="vocabularies must be given for tokens and text"):
        Translator(model).translate(["text"])
    with pytest.raises(TypeError, match="vocabularies must be a list of vocabularies, got Vocabulary"):
        Translator(model, vocabularies=Vocabulary(["<unk>"]))
    with pytest.raises(TypeError, match="source must be a list of id lists, got str"):
        Translator(model).generate("text")
    with pytest.raises(TypeError, match="model must be a name, a directory or a JanusModel, got int"):
        Translator(7)
    with pytest.raises(FileNotFoundError, match="model must be a model directory or one of"):
        Translator("no-such-model")
    with torch.no_grad():
        model.encoder.layers[0].fc1.weight[3, 4] = math.nan
    with pytest.raises(
        ValueError, match=r"model must hold finite weights alone, got NaN or infinity in encoder\.layers\.0"
    ):
        Translator(model)


def test_nothing_finite_is_an_error_and_no_empty_output(backend):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e18)  # finite weights, infinite products
    for options in ({}, {"mode": "nar"}, {"beam_size": 1, "sampling_topk": 0}):
        with pytest.raises(FloatingPointError, match="generate: every (source|prediction|length) must have"):
            Translator(model, backend=backend).generate([[BOS, 7, EOS]], **options)
    options = {"no_repeat_ngram_size": 1, "min_decoding_length": 10, "max_decoding_length": 12}
    for more in ({"beam_size": 2}, {"beam_size": 1, "sampling_topk": 0}):
        with pytest.raises(FloatingPointError, match="options forbid every token"):
            Translator(make_model(vocabulary=9), backend=backend).generate([[BOS, 7, EOS]], **options, **more)


def test_a_prefix_may_fill_the_output_and_needs_no_source(translator):
    results = translator.generate([[BOS, 7, EOS], [BOS, EOS]], [[7, 9, 11], [8, 6, 5]], max_decoding_length=3)
    assert [r.hypotheses for r in results] == [[[7, 9, 11]], [[8, 6, 5]]]


def test_options_are_checked_when_made():
    with pytest.raises(ValueError, match="seed must be an integer"):
        AutoregressiveOptions(seed=-1)
