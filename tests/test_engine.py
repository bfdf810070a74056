"""The native engine against torch: the same words, the same scores, whatever the batch, the threads and the storage."""

import dataclasses
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoding import MODES, make_model, make_sources, rounding_error

from janus_fast import Translator, Vocabulary, engine, load, save
from janus_fast.data import test_set as committed_test_set
from janus_fast.decoding import AutoregressiveOptions, NonAutoregressiveOptions
from janus_fast.inputs import option

if engine.missing():
    pytest.skip(engine.missing(), allow_module_level=True)
from janus_fast import _engine  # noqa: E402

# Of these seeds no word of any case below hangs on rounding: weights that err by 3e-7 give the same words.
MODELS = {
    "post-norm": {"seed": 10},
    "pre-norm, gelu": {"normalize_before": True, "activation": "gelu"},
    "sinusoidal, silu": {"seed": 2, "positions": "sinusoidal", "position_offset": 2, "activation": "silu"},
    "separate, unscaled": {
        "seed": 1, "share_all_embeddings": False, "share_decoder_embeddings": False, "scale_embedding": False,
        "encoder_layers": 1, "decoder_layers": 3,
    },
    "unk is the mask": {"seed": 1, "mask_token_id": 3, "attention_heads": 2, "d_model": 24, "encoder_ffn_dim": 20},
    "one stream": {
        "two_stream": False, "output_bias": True, "decoder_start_token_id": 2, "source_bos": False,
    },
    "ssru": {"two_stream": False, "decoder_autoreg": "ssru", "output_bias": True, "d_model": 36},
    "ssru, pre-norm": {
        "two_stream": False, "decoder_autoreg": "ssru", "normalize_before": True, "decoder_layers": 3, "seed": 1,
    },
}  # fmt: skip
SAMPLING = {"beam_size": 1, "sampling_topk": 5, "sampling_temperature": 1.3, "num_hypotheses": 3, "seed": 11}
CASES = {
    **MODES,
    "sampling": SAMPLING,
    "sampling from all": {**SAMPLING, "sampling_topk": 0, "sampling_topp": 0.9, "max_decoding_length": 9},
    "sampling without repeats": {**SAMPLING, "no_repeat_ngram_size": 1, "min_decoding_length": 4},
    "wide": {"beam_size": 30, "num_hypotheses": 30, "max_decoding_length": 4, "length_penalty": -0.5},
    "no end": {"beam_size": 2, "min_decoding_length": 23, "max_decoding_length": 23},
    "one pass": {"mode": "nar", "iterations": 1, "length_beam": 22, "num_hypotheses": 22, "return_history": True},
    "easy first": {"mode": "nar", "order": "easy_first", "num_hypotheses": 3},
    "left to right, no repeats": {"mode": "nar", "order": "left_to_right", "remove_repeats": True},
    "nar, topk canvas": {"mode": "nar", "iterations": 7, "length_candidates": "topk", "score": "canvas"},
}
VOCABULARIES = (Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"t{i}" for i in range(5, 40))]),) * 2


def models(*names):
    return pytest.mark.parametrize("model", [pytest.param(make_model(**MODELS[n]), id=n) for n in names or MODELS])


def of(model, *, backend="engine", **options):
    return Translator(model, backend=backend, **options)


def close(results, others, tolerance):
    for one, other in zip(results, others, strict=True):
        assert one.hypotheses == other.hypotheses
        assert one.iterations == other.iterations and one.history == other.history
        assert one.predictions == other.predictions
        assert one.scores == pytest.approx(other.scores, abs=24 * tolerance)  # a sum over up to 24 tokens
        for scores, expected in zip(one.token_scores, other.token_scores, strict=True):
            assert scores == pytest.approx(expected, abs=tolerance)


@models()
@pytest.mark.parametrize("case", CASES)
def test_the_engine_decodes_as_torch_does(model, case):
    options = CASES[case]
    if options.get("mode") == "nar" and not model.config.two_stream:
        with pytest.raises(ValueError, match="mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer"):
            of(model).generate(make_sources(1), **options)
        return
    if options.get("order") and model.config.predictable_mask:
        with pytest.raises(ValueError, match="order must be 'parallel' with a model whose mask is a word, got '"):
            of(model).generate(make_sources(1), **options)
        return
    if model.config.recurrent and options.get("sampling_topk", 1) != 1:  # test_ssru.py has what is drawn
        with pytest.raises(NotImplementedError, match="decoder_autoreg 'ssru' by the definition, which draws nothing"):
            of(model, backend="torch").generate(make_sources(1), **options)
        return
    sources = make_sources(17)
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    # what torch's float32 is wrong by would come on top; but a draw may fall between it and float64
    torch_type = "float32" if options.get("sampling_topk", 1) != 1 else "float64"
    compared = sources[:5] if model.config.recurrent else sources  # which torch computes by the definition, one by one
    expected = of(model, backend="torch", compute_type=torch_type).generate(compared, **options)
    close(of(model).generate(sources, **options)[: len(compared)], expected, tolerance)


@models("post-norm", "one stream")
def test_prefixes_are_forced_as_torch_does(model):
    sources = make_sources(5)
    prefixes = [[7, 9], [], [11], [6, 6, 8], [39] * 14]
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    for options in ({"beam_size": 3, "num_hypotheses": 2}, {**SAMPLING, "sampling_topk": 4}, {"beam_size": 1}):
        options = {**options, "max_decoding_length": 14, "no_repeat_ngram_size": 2}
        close(*(of(model, backend=b).generate(sources, prefixes, **options) for b in ("engine", "torch")), tolerance)


@models()
def test_given_translations_get_the_scores_of_float64(model):
    sides = [[VOCABULARIES[0].tokens_of(ids[1:-1]) for ids in make_sources(30, seed)] for seed in (3, 4)]
    sides[1][2] = []
    runs = [("torch", "float64"), ("engine", "float32"), ("torch", "float32")]
    truth, *results = (
        of(model, backend=b, compute_type=kind, vocabularies=VOCABULARIES).score_batch(*sides) for b, kind in runs
    )
    true, *found = (np.concatenate([result.log_probs for result in each]) for each in (truth, *results))
    error, by_torch = (np.abs(log_probs - true).max() for log_probs in found)
    assert [result.tokens for result in results[0]] == [result.tokens for result in truth]
    assert error <= 2 * max(by_torch, rounding_error(model, "float32")) + 2e-6


@models("post-norm", "pre-norm, gelu")
@pytest.mark.parametrize("compute_type", engine.COMPUTE_TYPES)
def test_candidates_are_ranked_by_the_scores_of_given_translations(model, compute_type):
    """To the bit where a source has one; several, whose common beginnings are read once, add up in another order."""
    translator = of(model, compute_type=compute_type, vocabularies=VOCABULARIES)
    exact = of(model, backend="torch", compute_type="float64", vocabularies=VOCABULARIES)
    tokens = [VOCABULARIES[0].tokens_of(ids[1:-1]) for ids in make_sources(9)]
    for lengths in (1, 5):
        options = {"iterations": 3, "length_beam": lengths, "num_hypotheses": lengths, "rerank": True}
        results = translator.translate_batch(tokens, mode="nar", **options)
        sides = [[source for source, r in zip(tokens, results, strict=True) for _ in r.hypotheses]]
        sides.append([target for r in results for target in r.hypotheses])
        found = [scores for r in results for scores in r.token_scores]
        given, truth = ([scored.log_probs for scored in t.score_batch(*sides)] for t in (translator, exact))
        if lengths == 1:
            assert found == given
            continue
        assert len({tuple(target[:2]) for target in sides[1]}) < len(sides[1])  # some have a beginning in common
        found, given, truth = (np.concatenate(scores) for scores in (found, given, truth))
        # another order may round an activation to the next number of its type, as any rounding may
        assert distance(found, given) < distance(given, truth) + 1e-6


@models("post-norm", "pre-norm, gelu", "one stream", "ssru", "ssru, pre-norm")
@pytest.mark.parametrize("compute_type", engine.COMPUTE_TYPES)
def test_steps_of_several_tokens_are_steps_of_one(model, compute_type):
    sides = [make_sources(9, seed) for seed in (3, 4)]
    sides[1][2] = [2, 2]  # longer than a step, and shorter
    for threads in (1, 2):
        decoder = of(model, compute_type=compute_type, intra_threads=threads)._backend._decoder
        packed = [*engine._packed(sides[0]), *engine._packed(sides[1])]
        at_once, one, *more = (decoder.score(*packed, step=step) for step in (0, 1, 2, 5, 24))
        assert all(scores == one for scores in more)
        assert [len(scores) for scores in one] == [len(target) - 1 for target in sides[1]]
        if compute_type == "float32":  # whose keys and values are not rounded for the cache
            np.testing.assert_allclose(np.concatenate(one), np.concatenate(at_once), atol=1e-4)


@models("post-norm", "pre-norm, gelu")
@pytest.mark.parametrize("compute_type", engine.COMPUTE_TYPES)
@pytest.mark.parametrize("case", ["beam", "no repeats", "nar", "nar, ranked as they are", "easy first", "sampling"])
def test_neither_batch_nor_threads_change_a_bit(model, compute_type, case):
    sources = make_sources(13)
    alone = of(model, compute_type=compute_type, intra_threads=1)
    expected = [alone.generate([s], first_number=n, **CASES[case])[0] for n, s in enumerate(sources)]
    for threads in (1, 2, 3):
        for inter_threads in (threads % 2 + 1, "auto"):
            together = of(model, compute_type=compute_type, intra_threads=threads, inter_threads=inter_threads)
            for sizes in ({}, {"max_batch_size": 5}, {"max_batch_size": 20, "batch_type": "tokens"}):
                assert together.generate(sources, **sizes, **CASES[case]) == expected


def test_two_workers_keep_the_order():
    model, sources = make_model(), make_sources(60)
    expected = of(model).generate(sources, beam_size=2)
    assert of(model, inter_threads=2).generate(sources, beam_size=2, max_batch_size=3) == expected
    texts = [" ".join(f"t{i}" for i in ids[1:-1]) for ids in sources]
    translators = [of(model, inter_threads=n, vocabularies=VOCABULARIES) for n in (1, 2)]
    one, two = (list(t.translate_iterable(texts, max_batch_size=4, read_batch_size=12)) for t in translators)
    assert one == two
    tokens = [text.split() for text in texts]
    scores = [t.score_batch(tokens, tokens, max_batch_size=4) for t in translators]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_auto_is_a_team_for_few_batches_and_workers_for_many(threads):
    model, sources = make_model(), make_sources(21)
    expected = of(model, intra_threads=1).generate(sources, beam_size=1)
    translator, here = of(model, intra_threads=threads, inter_threads="auto"), threading.get_ident()
    decoders = [*filter(None, (translator._backend._decoder, translator._backend._singles))]
    assert len(decoders) == (1 if threads == 1 else 2)
    for decoder in decoders:
        decoder.profile()  # begins
    for count in range(1, 6):
        seen: set[int] = set()

        def callback(*_, seen=seen) -> None:
            seen.add(threading.get_ident())

        results = translator.generate(sources[: 3 * count], beam_size=1, max_batch_size=3, callback=callback)
        assert results == expected[: 3 * count]
        several, left_over = threads > 1 and count >= threads, threads == 1 or count % threads > 0
        assert (here in seen) == left_over and 1 <= len(seen - {here}) <= threads if several else seen == {here}
        assert [bool(decoder.profile()) for decoder in decoders] == [left_over, several][: len(decoders)]
    sides = [make_sources(9, seed) for seed in (3, 4)]
    one = of(model, intra_threads=1).score_ids(*sides, max_batch_size=9)
    assert all(translator.score_ids(*sides, max_batch_size=size) == one for size in (2, 5, 9))
    assert {"encoder: fc1", "decoder: fc1"} < translator._backend.profile().keys()


def test_auto_is_told_and_refused():
    model, sources = make_model(), make_sources(7)
    told = of(model, intra_threads=3, inter_threads="auto").explain()
    assert told.endswith("  of 3 batches: one by each thread; what is left over: one at a time by 3 threads")
    for translator in (of(model, intra_threads=1, inter_threads="auto"), of(model, intra_threads=3)):
        assert "left over" not in translator.explain()
    torch_alone = Translator(model, backend="torch", inter_threads="auto")
    assert "left over" not in torch_alone.explain()
    results = torch_alone.generate(sources, beam_size=1, max_batch_size=2)
    assert [r.hypotheses for r in results] == [r.hypotheses for r in of(model).generate(sources, beam_size=1)]
    with pytest.raises(ValueError, match="inter_threads must be 'auto' or an integer of at least 1, got 'all'"):
        of(model, inter_threads="all")


@pytest.mark.parametrize("inter_threads", [2, "auto"])
def test_a_mistake_in_one_batch_of_many_is_raised(inter_threads):
    broken = make_model()
    with torch.no_grad():
        broken.encoder.embed_tokens.weight[7] = 3e38  # finite, what is made of it not
    translator = of(broken, intra_threads=2, inter_threads=inter_threads)
    with pytest.raises(FloatingPointError, match="generate: every"):
        translator.generate([[0, 8, 2]] * 20 + [[0, 7, 2]], max_batch_size=1)


ERRORS = """
import torch
from test_decoding import make_model
from janus_fast import Translator

model = make_model()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(1e18)  # finite weights, infinite products
translator = Translator(model, backend="engine", intra_threads=4)
for _ in range(50):
    for options in ({"beam_size": 1}, {"mode": "nar"}):
        try:
            translator.generate([[0, 7, 2]], **options)
        except FloatingPointError as error:
            assert "finite score" in str(error), error
        else:
            raise AssertionError("infinite scores were taken")
"""


def test_an_error_ends_all_threads_of_a_team_every_time():
    """More threads than cores fall behind: one may read of an error that another meets a step later.

    A process of its own is the one way out of threads that wait for each other.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", ERRORS], env=environment, check=True, timeout=120)


def test_profiles_are_read_between_decodes():
    backend, refused = Translator(make_model(), backend="engine", inter_threads=2)._backend, []

    def callback(*_):
        with pytest.raises(RuntimeError, match="^Decoder: profile must be read while nothing is decoded$") as error:
            backend.profile()
        refused.append(error)

    assert backend.profile() == {}
    backend.decode(make_sources(1), AutoregressiveOptions(beam_size=1, callback=callback), [0], None)
    assert refused and {"encoder: fc1", "decoder: fc1", "decoder: vocabulary"} < backend.profile().keys()
    assert backend.profile() == {}


def test_no_time_is_lost_where_a_profile_is_refused(monkeypatch):
    backend = Translator(make_model(), backend="engine", intra_threads=2, inter_threads="auto")._backend
    assert backend.profile() == {}
    backend.decode(make_sources(1), AutoregressiveOptions(beam_size=1), [0], None)  # by the team

    class Decoding:
        def profile(self):
            raise RuntimeError("Decoder: profile must be read while nothing is decoded")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="^Decoder: profile must be read while "):
        patch.setattr(backend, "_singles", Decoding())
        backend.profile()
    assert {"encoder: fc1", "decoder: fc1"} < backend.profile().keys()
    assert backend.profile() == {}


def test_two_translators_serve_many_threads():
    models = [make_model(), make_model(seed=5, normalize_before=True)]
    translators = [of(models[0], inter_threads=2), of(models[1], intra_threads=2)]
    sources, options = make_sources(9), ({"beam_size": 3}, {"mode": "nar"}, SAMPLING)
    expected = [[t.generate(sources, **o) for o in options] for t in translators]
    wrong, failures = [], []

    def work(seed):
        try:
            for round in range(6):
                which, kind = (seed + round) % 2, (seed + round // 2) % 3
                if translators[which].generate(sources, **options[kind]) != expected[which][kind]:
                    wrong.append((which, kind))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not failures


# Compute types and storage


def log_probs(translator, sides):
    return np.array([x for result in translator.score_batch(*sides) for x in result.log_probs])


def distance(one, other):
    """The root mean square of a difference."""
    return np.sqrt(np.mean((one - other) ** 2))


# What rounding to a type errs, beside bfloat16: int8 numbers of a row are max / 127 apart, 3 / 127 of the root mean
# square of normally distributed ones, which errs by 3 / 127 / 12 ** 0.5; bfloat16 by about 0.001. Twice that, as ever.
@pytest.mark.parametrize("compute_type, share", [("bfloat16", 2), ("int8", 2 * 7), ("int8_bfloat16", 2 * 7)])
def test_narrow_types_stay_near_float64(compute_type, share):
    """On the shipped model: the random ones multiply every error."""
    reference, own = (Translator("en-de-small", compute_type=c, backend="torch") for c in ("float64", "bfloat16"))
    encode = reference.source_vocabulary.encode
    sides = [[encode(text) for text in texts[:60]] for texts in committed_test_set()]
    truth = log_probs(reference, sides)
    narrow = Translator("en-de-small", compute_type=compute_type, backend="engine")
    assert 0 < distance(log_probs(narrow, sides), truth) <= share * distance(log_probs(own, sides), truth)


@models()
def test_a_model_stored_as_int8_runs_as_one_that_is_quantised_when_loaded(model, tmp_path):
    save(model, tmp_path, VOCABULARIES, quantization="int8")
    stored = Translator(tmp_path, backend="engine")
    same = load(tmp_path)[0]  # the same numbers as float32
    loaded = of(same, compute_type="int8", vocabularies=VOCABULARIES)
    assert stored.compute_type == "int8"
    sides = [[VOCABULARIES[0].tokens_of(ids[1:-1]) for ids in make_sources(30, seed)] for seed in (8, 9)]
    one, other = log_probs(stored, sides), log_probs(loaded, sides)
    truth = log_probs(of(same, backend="torch", compute_type="float64", vocabularies=VOCABULARIES), sides)
    # scales that differ in their last bit may round an activation to the next int8 number, as any rounding may
    assert distance(one, other) < distance(one, truth)


def test_stored_types_compute_alike(tmp_path):
    """What float32 holds exactly gives the same bits, however the file stores it."""
    model, sources = make_model().bfloat16().float(), make_sources(9)
    save(model, tmp_path / "bfloat16", quantization="bfloat16")
    for dtype in (torch.float32, torch.float64):
        save(model, tmp_path / str(dtype))
        state = load_file(tmp_path / str(dtype) / "model.safetensors")
        save_file({k: v.to(dtype) for k, v in state.items()}, tmp_path / str(dtype) / "model.safetensors")
    for compute_type in engine.COMPUTE_TYPES:
        expected = of(model, compute_type=compute_type).generate(sources, beam_size=3)
        for folder in tmp_path.iterdir():
            assert of(folder, compute_type=compute_type).generate(sources, beam_size=3) == expected


def test_an_int8_model_runs_in_every_type(tmp_path):
    save(make_model(), tmp_path, quantization="int8")
    sources = make_sources(9)
    expected = of(tmp_path, backend="torch").generate(sources, beam_size=3)
    dequantised = of(tmp_path, compute_type="float32")
    assert of(tmp_path, backend="torch").compute_type == dequantised.compute_type == "float32"
    tolerance = 4 * rounding_error(of(tmp_path, backend="torch").model, "float32") + 2e-6
    close(dequantised.generate(sources, beam_size=3), expected, tolerance)
    for compute_type in ("bfloat16", "int8_bfloat16"):
        assert len(of(tmp_path, compute_type=compute_type).generate(sources)) == 9


# Choosing


@pytest.mark.parametrize("options", [AutoregressiveOptions(), NonAutoregressiveOptions()])
def test_an_option_that_the_engine_does_not_have_is_refused(options):
    backend, source = of(make_model())._backend, [[0, 7, 2]]
    longer = dataclasses.make_dataclass(
        "More", [("novelty", int, option(0, None, "new", on=()))], bases=(type(options),)
    )
    expected = backend.decode(source, options, [0], None)
    assert backend.decode(source, longer(**vars(options)), [0], None) == expected
    with pytest.raises(NotImplementedError, match="got 'engine': it has no novelty"):
        backend.decode(source, longer(**vars(options), novelty=1), [0], None)
    record = {**options.record(make_model().config), "novelty": 0}
    with pytest.raises(ValueError, match="options must be those that the engine was built with .*, got novelty$"):
        getattr(backend._decoder, options.algorithm)(np.int32([0, 7, 2]), np.int32([0, 3]), record)


AR, NAR = (options().record(make_model().config) for options in (AutoregressiveOptions, NonAutoregressiveOptions))
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(("search", "changes", "message"), [
    ("beam_search", {"beam_size": 2**62}, f"beam_size must be in [1, 512], got {2**62}"),
    ("beam_search", {"beam_size": 2**63}, f"beam_size must fit the C++ type long, got {2**63}"),
    ("beam_search", {"beam_size": 0}, "beam_size must be in [1, 512], got 0"),
    ("beam_search", {"num_hypotheses": 6}, "num_hypotheses must be in [1, 5], got 6"),
    ("beam_search", {"sampling_topk": 2**63 - 1}, f"sampling_topk must be in [0, {2**31 - 1}], got {2**63 - 1}"),
    ("beam_search", {"sampling_topk": -1}, f"sampling_topk must be in [0, {2**31 - 1}], got -1"),
    ("beam_search", {"sampling_topk": 0, "num_hypotheses": 2**62}, f"num_hypotheses must be in [1, 4096], got {2**62}"),
    ("beam_search", {"sampling_topk": 0}, "uniforms must have a row for each sample and a column for each step"),
    ("beam_search", {"max_decoding_length": -1}, f"max_decoding_length must be in [1, {2**31 - 1}], got -1"),
    ("beam_search", {"min_decoding_length": -1}, f"min_decoding_length must be in [0, {2**31 - 1}], got -1"),
    ("beam_search", {"no_repeat_ngram_size": -1}, f"no_repeat_ngram_size must be in [0, {2**31 - 1}], got -1"),
    ("beam_search", {"length_penalty": 1e300}, "length_penalty must be in [-10, 10], got 1e+300"),
    ("beam_search", {"length_penalty": NAN}, "length_penalty must be in [-10, 10], got nan"),
    ("beam_search", {"sampling_topp": NAN}, "sampling_topp must be in (0, 1], got nan"),
    ("beam_search", {"sampling_temperature": INF}, "sampling_temperature must be a finite number above 0, got inf"),
    ("beam_search", {"patience": 1e9}, "patience must be in (0, 512], got 1000000000.0"),
    ("beam_search", {"patience": NAN}, "patience must be in (0, 512], got nan"),
    ("beam_search", {"num_hypotheses": 6, "patience": 0.1}, "num_hypotheses must be in [1, 5], got 6"),
    ("beam_search", {"repetition_penalty": 0.0}, "repetition_penalty must be a finite number above 0, got 0.0"),
    ("beam_search", {"coverage_penalty": INF}, "coverage_penalty must be finite, got inf"),
    ("beam_search", {"prefix_bias_beta": 1.0}, "prefix_bias_beta must be in [0, 1), got 1.0"),
    ("beam_search", {"alignment_heads": -1}, f"alignment_heads must be in [0, {2**31 - 1}], got -1"),
    ("beam_search", {"end_token": [40]}, "end_token must be in [0, 39], got 40"),
    ("beam_search", {"suppress_sequences": [[5], [7, -1]]}, "suppress_sequences must be in [0, 39], got -1"),
    ("beam_search", {"return_logits_vocab": True}, "beam_size must be 1 with return_logits_vocab or a callback, got 5"),
    ("mask_predict", {"iterations": 2**62}, f"iterations must be in [1, 512], got {2**62}"),
    ("mask_predict", {"length_beam": 2**62}, f"length_beam must be in [1, 22], got {2**62}"),
    ("mask_predict", {"length_beam": -1}, "length_beam must be in [1, 22], got -1"),
    ("mask_predict", {"num_hypotheses": 4}, "num_hypotheses must be in [1, 3], got 4"),
])  # fmt: skip
def test_no_option_makes_the_decoder_leave_its_memory(search, changes, message):
    """Whoever calls the extension itself, which Python's options do not guard there."""
    decoder, record = of(make_model())._backend._decoder, {"beam_search": AR, "mask_predict": NAR}[search]
    with pytest.raises(ValueError) as raised:
        getattr(decoder, search)(np.int32([0, 7, 2]), np.int32([0, 3]), {**record, **changes})
    assert str(raised.value) == f"Decoder: {message}"


def test_more_sources_than_rows_have_numbers_are_refused():
    decoder, count = of(make_model())._backend._decoder, 100_000
    call = np.zeros(count, np.int32), np.arange(count + 1, dtype=np.int32)
    with pytest.raises(ValueError, match=r"Decoder: source must have at most 87381 sequences, got 100000"):
        decoder.beam_search(*call, {**AR, "beam_size": 512})


TOKENS = ("bos", "pad", "eos", "unk", "mask", "decoder_start")


@pytest.mark.parametrize(("changes", "message"), [
    *(({f"{name}_token_id": value}, f"{name}_token_id must be in [0, 39], got {value}")
      for name in TOKENS for value in (2**30, 40, -1)),
    *(({name: 0}, f"{name} must be in [1, {2**31 - 1}], got 0")
      for name in ("attention_heads", "d_model", "encoder_layers", "decoder_ffn_dim", "source_vocab_size")),
    ({"attention_heads": 5}, "d_model must be a multiple of attention_heads = 5, got 32"),
    ({"max_target_positions": 2**62}, f"max_target_positions must be in [1, {2**17}], got {2**62}"),
    ({"position_offset": -1}, f"position_offset must be in [0, {2**17}], got -1"),
    ({"positions": "rotary"}, "positions must be one of learned, sinusoidal, got rotary"),
    ({"target_vocab_size": 41}, "target_vocab_size must equal source_vocab_size when share_all_embeddings is set, "
                                "got 41"),
    ({"layer_norm_eps": NAN}, "layer_norm_eps must be a positive, finite number, got nan"),
    ({"suppressed": [3, 40]}, "suppressed must be in [0, 39], got 40"),
    ({"d_model": 32.5}, "d_model must fit the C++ type long, got 32.5"),
])  # fmt: skip
def test_no_configuration_makes_the_engine_leave_its_memory(changes, message):
    model = make_model()
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    config = {**dataclasses.asdict(model.config), "suppressed": model.config.suppressed}
    with pytest.raises(ValueError) as raised:
        _engine.Model({**config, **changes}, arrays, "float32")
    assert str(raised.value) == f"Model: {message}"


def test_arrays_that_nobody_keeps_are_refused():
    model = make_model()
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays["encoder.embed_tokens.weight"] = [list(row) for row in arrays["encoder.embed_tokens.weight"]]
    with pytest.raises(ValueError, match="Model: encoder.embed_tokens.weight must be a NumPy array, got <class 'list'"):
        fields = {**dataclasses.asdict(model.config), "suppressed": model.config.suppressed}
        _engine.Model(fields, arrays, "float32")


def test_types_and_backends_are_chosen_as_documented(tmp_path, monkeypatch):
    model = make_model()
    assert (of(model).compute_type, of(model, compute_type="auto").compute_type) == ("float32", engine.fastest())
    monkeypatch.setattr(engine, "isa", lambda: "avx2")
    assert engine.fastest() == "float32"
    monkeypatch.undo()
    assert [Translator(model, compute_type=c).backend for c in ("default", "int8", "float64")] == [
        "engine", "engine", "torch"
    ]  # fmt: skip
    for options, reason in (
        ({"backend": "torch", "compute_type": "int8"}, "got 'torch': torch: it has no int8"),
        ({"backend": "engine", "compute_type": "float64"}, "got 'engine': engine: it has no float64"),
        ({"backend": "engine", "device": "cuda"}, "engine: it runs on the CPU alone, not on 'cuda'"),
        ({"backend": "torch", "inter_threads": 2}, "torch: it takes one batch at a time, not 2"),
        (
            {"device": "cuda", "compute_type": "int8"},
            "'auto': engine: it runs on the CPU alone, not on 'cuda'; cuda: it has no int8",
        ),
    ):
        with pytest.raises(NotImplementedError, match=f"Translator: backend must be able to run this, .*{reason}"):
            Translator(model, **options)
    with pytest.raises(
        ValueError, match="device must be 'cpu', 'cuda', 'cuda:1' or another device of torch, got 'gpu'"
    ):
        Translator(model, device="gpu")
    with pytest.raises(AttributeError, match="backend must be 'torch' or 'cuda' for a model to be there"):
        _ = of(model).model


def test_threads_follow_ctranslate2(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert of(make_model()).intra_threads == 3 and of(make_model(), intra_threads=1).intra_threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS must be a positive integer, got 'many'"):
        of(make_model())
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert of(make_model()).intra_threads == 4


def words() -> list[list[str]]:
    """Of the shipped model, which is not near a tie at every step, in float32."""
    texts, translator = committed_test_set()[0][:16], Translator("en-de-small")
    options = [{"mode": "nar", "iterations": 4}, {"beam_size": 3}]
    return [result.hypotheses for o in options for result in translator.translate(texts, **o)]


@pytest.fixture(scope="module")
def best_words():
    return words()


@pytest.mark.parametrize("isa", engine.isas())
def test_every_instruction_set_gives_the_same_words(isa, best_words, monkeypatch):
    monkeypatch.setenv("JANUS_FAST_ISA", isa)
    assert words() == best_words
