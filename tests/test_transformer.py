"""Ordinary one-stream Transformers: scoring, decoding and training, against PyTorch's own layers."""

import copy
import itertools

import dense
import numpy as np
import pytest
import torch
from test_decoding import BOS, EOS, PAD, UNK, make_model, translator_of

from benchmarks.budget import allowed, error, largest
from janus_fast import JanusConfig, JanusModel, Translator, Vocabulary, checkpoint, reference
from janus_fast.decoding import NonAutoregressiveOptions
from janus_fast.decoding.score import score
from janus_fast.objectives import OBJECTIVES
from janus_fast.reference.linear_activation import ACTIVATIONS
from janus_fast.training.data import ParallelData
from janus_fast.training.options import TrainingOptions
from janus_fast.training.trainer import Trainer

VARIANTS = {
    "post-norm": {},
    "pre-norm, silu, bias": {"normalize_before": True, "activation": "silu", "output_bias": True},
    "starts with eos": {
        "decoder_start_token_id": EOS, "source_bos": False, "mask_token_id": UNK, "positions": "sinusoidal",
        "activation": "gelu", "share_all_embeddings": False, "share_decoder_embeddings": False,
    },
    "starts with pad": {"bos_token_id": PAD, "source_bos": False, "mask_token_id": UNK, "output_bias": True},
    "norms of embeddings, quick_gelu": {"layernorm_embedding": True, "activation": "quick_gelu", "suppress_tokens": ()},
    "and pre-norm, gelu_new, without eos": {
        "layernorm_embedding": True, "normalize_before": True, "activation": "gelu_new", "add_source_eos": False,
        "suppress_tokens": (5, UNK),
    },
}  # fmt: skip


def make(name="post-norm", vocabulary=40, seed=3, **options):
    model = make_model(vocabulary, seed, two_stream=False, **VARIANTS[name], **options)
    with torch.no_grad():
        model.output_weight[EOS] *= 4  # so that some outputs end early
        if model.output_bias is not None:
            model.output_bias.normal_()
    return model


def make_sources(model, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    words = [torch.randint(5, model.config.source_vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return [model.config.source_ids(sentence) for sentence in words]


def dense_log_probs(model, source, words):
    """log P(next token) behind the start and behind each word: [1 + words, V]."""
    config = model.config
    positions = model.encoder.embed_positions.weight, model.decoder.embed_positions.weight
    return dense.log_probs(
        model.state_dict(), source, config.target_ids(words)[:-1], heads=config.attention_heads,
        activation=ACTIVATIONS[config.activation], positions=positions, prenorm=config.normalize_before,
    )  # fmt: skip


RUNS = [("torch", "float64"), ("torch", "float32"), ("engine", "float32")]


@pytest.fixture(scope="module", params=[(name, *run) for name in VARIANTS for run in RUNS], ids=str)
def translator(request):
    """In torch's float64 the reference runs, in its float32 the native kernels, where they are built."""
    name, backend, compute_type = request.param
    model = make(name)
    translator = translator_of(model, backend, compute_type=compute_type)
    translator.truth = model
    translator.tolerance = tolerance(model, compute_type)
    return translator


def tolerance(model, compute_type):
    """What is allowed where full forwards err in ``compute_type`` over more tokens than any test compares; float32 is
    handed out."""
    sources, targets = (make_sources(model, 300, seed) for seed in (8, 9))
    targets = [model.config.target_ids(words_of(target)) for target in targets]
    own, truth = (
        torch.tensor(sum(score(copy.deepcopy(model).to(getattr(torch, kind)), sources, targets), []))
        for kind in (compute_type, "float64")
    )
    return allowed(error(own, truth), largest(truth), torch.float32)


def words_of(ids):
    return [token for token in ids if token >= 5]


def test_given_targets_score_as_with_torchs_layers(translator):
    model = translator.reference
    sources = make_sources(model, 8)
    words = [words_of(target) for target in make_sources(model, 8, seed=2)]
    targets = [model.config.target_ids(w) for w in words]
    for source, sentence, target, scores in zip(sources, words, targets, score(model, sources, targets), strict=True):
        expected = dense_log_probs(translator.truth, source, sentence).gather(1, torch.tensor(target[1:])[:, None])
        assert scores == pytest.approx(expected[:, 0].tolist(), abs=translator.tolerance)


MODES = {
    "greedy": {"beam_size": 1, "max_decoding_length": 22},
    "beam": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.6, "max_decoding_length": 14},
    "no repeats": {"beam_size": 3, "no_repeat_ngram_size": 2, "min_decoding_length": 5, "max_decoding_length": 20},
    "sampling": {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 3, "max_decoding_length": 14, "seed": 1},
}


@pytest.mark.parametrize("name", MODES)
def test_cached_steps_score_as_torchs_layers_do(translator, name):
    sources = make_sources(translator.truth, 8, seed=3)
    lengths = set()
    for source, result in zip(sources, translator.generate(sources, **MODES[name]), strict=True):
        for ids, scores in zip(result.hypotheses, result.token_scores, strict=True):
            steps = torch.tensor([*ids, EOS])
            expected = dense_log_probs(translator.truth, source, ids).gather(1, steps[:, None])[:, 0]
            assert scores == pytest.approx(expected.tolist(), abs=translator.tolerance)
            lengths.add(len(ids))
    assert len(lengths) > 1


@pytest.mark.parametrize("name", MODES)
def test_results_do_not_depend_on_the_batch(translator, name):
    sources = make_sources(translator.truth, 5)
    together = translator.generate(sources, **MODES[name])
    for number, (source, one) in enumerate(zip(sources, together, strict=True)):
        alone = translator.generate([source], first_number=number, **MODES[name])[0]
        assert one.hypotheses == alone.hypotheses
        for scores, others in zip(one.token_scores, alone.token_scores, strict=True):
            assert scores == pytest.approx(others, abs=translator.tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_wide_beam_is_an_exhaustive_search(name):
    model = make(name, vocabulary=8, seed=3)
    source, longest, found = model.config.source_ids([5, 7, 6]), 3, {}
    words = [token for token in range(8) if token not in {*model.config.suppressed, EOS}]
    for length in range(1, longest + 1):
        for ids in itertools.product(words, repeat=length):
            steps = torch.tensor([*ids, EOS])
            found[ids] = float(dense_log_probs(model, source, list(ids)).gather(1, steps[:, None]).mean())
    best = sorted(found, key=found.get, reverse=True)[:10]
    result = Translator(model, compute_type="float64").generate(
        [source], beam_size=200, num_hypotheses=10, max_decoding_length=longest
    )[0]
    assert [tuple(h) for h in result.hypotheses] == best
    # each log-probability of at most longest + 1 is rounded to float32, and so are their sums and the mean
    roundings = (longest + 3) * torch.finfo(torch.float32).eps / 2
    assert result.scores == pytest.approx([found[ids] for ids in best], rel=roundings)


def test_samples_follow_the_distribution():
    model = make("pre-norm, silu, bias", vocabulary=9, seed=5)
    translator, source, count = Translator(model, compute_type="float64"), [BOS, 6, 8, EOS], 3000
    options = {"beam_size": 1, "sampling_topk": 0, "max_decoding_length": 1, "num_hypotheses": count}
    allowed = torch.tensor([UNK, 5, 6, 7, 8])
    expected = dense_log_probs(model, source, [])[0, allowed].softmax(-1)
    drawn = torch.tensor(translator.generate([source], **options)[0].hypotheses).flatten().bincount(minlength=9)
    assert int(drawn[allowed].sum()) == count
    # five standard deviations of a binomial count
    bound = 5 * (count * expected * (1 - expected)).sqrt() + 1
    assert ((drawn[allowed] - count * expected).abs() < bound).all()


def test_prefixes_and_empty_sources():
    translator = Translator(make("starts with eos"))
    results = translator.generate([[7, EOS], [EOS], [EOS]], [[7, 9], [], [11]], beam_size=3, max_decoding_length=6)
    assert results[0].hypotheses[0][:2] == [7, 9]
    assert results[1].hypotheses == [[]] and results[2].hypotheses[0][0] == 11


def test_text_is_wrapped_as_the_model_was_trained():
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(5, 40))]
    vocabulary = Vocabulary(tokens)
    translator = Translator(make("starts with eos"), vocabularies=(vocabulary, vocabulary))
    options = {"beam_size": 2, "max_decoding_length": 9}
    text = translator.translate(["w7 w8"], **options)[0]
    ids = translator.generate([[7, 8, EOS]], **options)[0]
    assert text.hypotheses == [" ".join(vocabulary.tokens_of(ids.hypotheses[0]))] and text.scores == ids.scores
    assert next(translator.translate_iterable(["w7 w8"], **options)).hypotheses == text.hypotheses
    scored = translator.score_batch([["w7", "w8"]], [vocabulary.tokens_of(ids.hypotheses[0])])[0]
    assert scored.tokens[-1] == "</s>" and scored.log_probs == pytest.approx(ids.token_scores[0], abs=1e-4)
    longest = " ".join(["w7"] * 31)  # 32 positions, one of them for eos
    assert translator.translate([longest])[0].hypotheses
    with pytest.raises(ValueError, match="source 0 must have at most 32 tokens"):
        translator.translate([longest + " w7"])


def test_one_stream_models_survive_saving(tmp_path):
    model = make("pre-norm, silu, bias")
    checkpoint.save(model, tmp_path)
    again, _ = checkpoint.load(tmp_path)
    assert again.config == model.config and torch.equal(again.output_bias, model.output_bias)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_one_stream_models_decode_left_to_right_alone():
    model = make()
    with pytest.raises(
        ValueError,
        match="mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer, which predicts no lengths, got",
    ):
        Translator(model).generate([[BOS, 7, EOS]], mode="nar")
    with pytest.raises(ValueError, match="mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer"):
        reference.mask_predict(model, [[BOS, 7, EOS]], NonAutoregressiveOptions())
    for name in ("janus", "cmlm"):
        with pytest.raises(ValueError, match=r'objective: streams must be \("ar",\) for a one-stream model, got'):
            OBJECTIVES[name](model.config)
    with pytest.raises(ValueError, match="objective: output_bias must be off in a model that is trained, got True"):
        OBJECTIVES["autoregressive"](make("pre-norm, silu, bias").config)


def test_a_bias_reaches_two_stream_models_too():
    """A large bias makes one word win everywhere, in both modes, also where special tokens have a larger one."""
    for options in ({}, {"mask_token_id": UNK}):
        model = make_model(output_bias=True, **options)
        with torch.no_grad():
            model.output_bias[17] = 1e3
            if not options:  # models converted from the original code predict over their whole vocabulary
                model.output_bias[[BOS, PAD, EOS]] = 2e3
        for mode in ("ar", "nar"):
            ids = Translator(model).generate(
                [[BOS, 7, 9, EOS]], mode=mode, **({"max_decoding_length": 5} if mode == "ar" else {})
            )
            assert set(ids[0].hypotheses[0]) == {17}


def test_the_loss_is_that_of_torchs_layers():
    model = make("starts with eos").double()
    sources = make_sources(model, 5)
    words = [words_of(target) for target in make_sources(model, 5, seed=2)]
    objective = OBJECTIVES["autoregressive"](model.config, label_smoothing=0.0)
    batch = objective.pack(sources, [model.config.target_ids(w) for w in words], torch.Generator())
    with torch.no_grad():
        loss, _ = objective.loss(model, batch)
    expected = [
        dense_log_probs(model, source, sentence).gather(1, torch.tensor([*sentence, EOS])[:, None])
        for source, sentence in zip(sources, words, strict=True)
    ]
    assert float(loss) == pytest.approx(-float(torch.cat(expected).mean()), rel=1e-6)


def test_a_one_stream_model_learns(tmp_path):
    vocabulary = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefgh"])
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    ends = {"source_bos": False, "decoder_start_token_id": EOS, "mask_token_id": UNK}
    model = JanusModel(JanusConfig(13, 13, two_stream=False, **sizes, **ends))
    lines = [" ".join(p) for n in (1, 2) for p in itertools.product("abcdefgh", repeat=n)]
    for name, text in (("source", lines), ("target", [" ".join(reversed(line.split())) for line in lines])):
        (tmp_path / name).write_text("\n".join(text) + "\n")
    data = ParallelData.read(tmp_path / "source", tmp_path / "target", (vocabulary, vocabulary), model.config)
    assert np.array_equal(data.sources[8], [5, 5, EOS]) and np.array_equal(data.targets[9], [EOS, 6, 5, EOS])
    assert len(data) == len(lines)
    options = TrainingOptions(
        objective="autoregressive", max_tokens=400, max_updates=300, learning_rate=5e-3, warmup_updates=30
    )
    Trainer(model, data, tmp_path / "run", options).train()
    results = Translator(model, vocabularies=(vocabulary, vocabulary)).translate(lines, beam_size=1)
    right = sum(r.hypotheses[0].split() == line.split()[::-1] for r, line in zip(results, lines, strict=True))
    assert right > 0.9 * len(lines)
