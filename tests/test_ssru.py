"""Decoders with SSRU, a recurrence in place of self-attention: the definition, and what is refused.

``test_engine.py`` holds the engine against torch with such models, ``test_marian_native.py`` converts students of
Marian.
"""

import dataclasses
import re

import numpy as np
import pytest
import torch
from test_decoding import make_model, make_sources, rounding_error, translator_of

from janus_fast import JanusConfig, Translator, Vocabulary, backend, engine, load, reference, save
from janus_fast.convert import to_ctranslate2
from janus_fast.decoding import AutoregressiveOptions
from janus_fast.decoding.sampling import draw
from janus_fast.objectives import OBJECTIVES
from janus_fast.packing import offsets_of
from janus_fast.reference.beam_search import look, weigh
from janus_fast.visibility import Visibility

SSRU = {"two_stream": False, "decoder_autoreg": "ssru"}
VOCABULARIES = (Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"t{i}" for i in range(5, 40))]),) * 2


def in_sums(x: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
    """States of one sequence [T, C] without a recurrence: of what entered at ``j`` stays the product of all later f."""
    stays, rows = forget.sigmoid(), range(len(x))
    shares = [[(1 - stays[j]) * stays[j + 1 : t + 1].prod(0) * (j <= t) for j in rows] for t in rows]
    return torch.stack([sum(share * row for share, row in zip(own, x, strict=True)) for own in shares])


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float64, 0), (torch.float32, 0), (torch.bfloat16, 2)])
def test_states_are_sums_of_what_entered(dtype, steps):
    lengths = [5, 0, 1, 17]
    draws = torch.Generator().manual_seed(1)
    x, forget = (torch.randn(2, sum(lengths), 6, generator=draws, dtype=torch.float64) * 2).to(dtype)
    found = reference.ssru(x, forget, offsets_of(torch.tensor(lengths)))
    parts = zip(x.double().split(lengths), forget.double().split(lengths), strict=True)
    expected = torch.cat([in_sums(*part) for part in parts if len(part[0])]).relu()
    # a state lies among what entered: each of its rounded shares, products and sums errs by their largest at most, in
    # the type of states; narrower results are rounded once
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    budget = (8 * max(lengths) * wide + torch.finfo(dtype).eps * bool(steps)) * x.double().abs().max()
    assert found.dtype == dtype and (found.double() - expected).abs().max() <= budget
    assert (expected == 0).any() and (expected > 0).any()
    assert reference.ssru(x[:0], forget[:0], offsets_of(torch.tensor([0]))).shape == (0, 6)


@pytest.mark.parametrize("before", [False, True])
def test_sequences_are_alone_and_rows_may_be_chosen(before):
    model, sources = make_model(**SSRU, normalize_before=before).double(), make_sources(4)
    targets = [source[:length] for source, length in zip(make_sources(4, seed=5), (6, 1, 3, 5), strict=True)]

    def decode(sources, targets, rows=None):
        lengths, offsets = (torch.tensor([*map(len, side)]) for side in (targets, sources))
        offsets, visibility = offsets_of(offsets), Visibility.causal(lengths)
        encoded = model.encode(torch.tensor(sum(sources, [])), offsets)
        positions = torch.cat([torch.arange(n) for n in lengths.tolist()])
        cross = Visibility.bidirectional(visibility.query_offsets, offsets)
        return model.decode(torch.tensor(sum(targets, [])), positions, visibility, encoded, cross, rows)

    together = decode(sources, targets)
    alone = torch.cat([decode([source], [target]) for source, target in zip(sources, targets, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    rows = torch.tensor([0, 3, 6, len(together) - 1])
    torch.testing.assert_close(decode(sources, targets, rows), together[rows], rtol=0, atol=1e-12)
    changed = [[7 if place == 3 else token for place, token in enumerate(target)] for target in targets]
    moved = (decode(sources, changed) - together).abs().amax(1).split([*map(len, targets)])
    assert not moved[0][:3].any() and moved[0][3:].all() and not moved[1].any() and not moved[2].any()


@pytest.mark.skipif(bool(engine.missing()), reason=str(engine.missing()))
@pytest.mark.parametrize("compute_type", engine.COMPUTE_TYPES)
@pytest.mark.parametrize("options", [
    {"beam_size": 4, "num_hypotheses": 4, "max_decoding_length": 14}, {"beam_size": 1},
    {"mode": "speculative", "adaptive_drafts": False},
    {"beam_size": 1, "sampling_topk": 5, "num_hypotheses": 3, "seed": 3},
], ids=["beam", "greedy", "speculative", "sampling"])  # fmt: skip
def test_neither_batch_nor_threads_change_a_bit(compute_type, options):
    model, sources = make_model(**SSRU, d_model=36), make_sources(13)
    alone = Translator(model, compute_type=compute_type, backend="engine", intra_threads=1)
    expected = [alone.generate([s], first_number=n, **options)[0] for n, s in enumerate(sources)]
    for threads in (1, 3):
        for sizes in ({}, {"max_batch_size": 20, "batch_type": "tokens"}):
            together = Translator(model, compute_type=compute_type, backend="engine", intra_threads=threads)
            assert together.generate(sources, **sizes, **options) == expected
    if options.get("mode"):
        greedy = alone.generate(sources, beam_size=1)
        assert [r.hypotheses for r in greedy] == [r.hypotheses for r in expected]
        assert [r.token_scores for r in greedy] == [r.token_scores for r in expected]


@pytest.mark.parametrize("backend", ["engine", "torch"])
def test_drafts_and_prefixes_change_no_word(backend):
    model, sources = make_model(**SSRU), make_sources(6)
    translator = translator_of(model, backend)
    prefixes = [[7, 9], [], [11], [6, 6, 8], [39] * 14, []]
    greedy = translator.generate(sources, prefixes, beam_size=1, max_decoding_length=18)
    for result, prefix in zip(greedy, prefixes, strict=True):
        assert result.hypotheses[0][: len(prefix)] == prefix
    drafts = [[*r.hypotheses[0][:9], 5, *r.hypotheses[0][10:]] for r in greedy]  # wrong in one place
    drafted = translator.generate(
        sources, prefixes, draft=drafts, mode="speculative", max_decoding_length=18, adaptive_drafts=False
    )
    assert [r.hypotheses for r in drafted] == [r.hypotheses for r in greedy]
    assert all(r.iterations[0] <= 8 for r in drafted)


@pytest.mark.skipif(bool(engine.missing()), reason=str(engine.missing()))
@pytest.mark.parametrize("topk", [5, 0])
def test_what_is_drawn_is_what_the_definition_draws(topk):
    model, sources = make_model(**SSRU, output_bias=True), make_sources(9)
    settings = {"beam_size": 1, "sampling_topk": topk, "sampling_temperature": 1.3, "num_hypotheses": 3, "seed": 11}
    options = AutoregressiveOptions(**settings, max_decoding_length=9).resolved(model.config)
    model.requires_grad_(False)
    results = Translator(model, backend="engine").generate(sources, max_decoding_length=9, **settings)
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    for number, (source, result) in enumerate(zip(sources, results, strict=True)):
        offsets = offsets_of(torch.tensor([len(source)]))
        encoded = model.encode(torch.tensor(source), offsets)
        drawn = {}
        for numbers in options.uniforms([number], options.longest(model.config) + 1):
            tokens, scores = [], []
            for uniform in numbers:
                log_probs = weigh(model.config, look(model, encoded, offsets, tokens)[0], tokens, [], options)[0]
                token, score = draw(
                    torch.arange(len(log_probs))[None], log_probs[None], torch.tensor([uniform]), options
                )
                tokens, scores = [*tokens, int(token)], [*scores, float(score)]
                if tokens[-1] == model.config.eos_token_id:
                    break
            drawn[tuple(tokens[:-1])] = scores
        assert {tuple(ids) for ids in result.hypotheses} == drawn.keys()
        for ids, scores in zip(result.hypotheses, result.token_scores, strict=True):
            assert scores == pytest.approx(drawn[tuple(ids)], abs=tolerance)


@pytest.mark.parametrize("quantization", [None, "bfloat16", "int8"])
def test_a_model_on_disk(tmp_path, quantization):
    model = make_model(**SSRU)
    save(model, tmp_path, VOCABULARIES, quantization=quantization)
    same = load(tmp_path)[0]
    assert same.config == model.config and same.config.recurrent
    assert "decoder.layers.1.ssru.forget_proj.bias" in same.state_dict()
    if quantization is None:
        assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in model.state_dict().items())
    if not engine.missing():
        stored = Translator(tmp_path, backend="engine")
        assert stored.compute_type == ("int8" if quantization == "int8" else "float32")
        given = {"compute_type": "float32", "vocabularies": VOCABULARIES}
        truth, found = (log_probs(t) for t in (Translator(same, backend="torch", **given), stored))
        assert quantization == "int8" or np.abs(found - truth).max() <= 4 * rounding_error(same, "float32") + 2e-6


def log_probs(translator) -> np.ndarray:
    sides = [[VOCABULARIES[0].tokens_of(ids[1:-1]) for ids in make_sources(60, seed)] for seed in (3, 4)]
    return np.concatenate([result.log_probs for result in translator.score_batch(*sides)])


# As test_engine.py has it for the shipped model: int8 numbers err by seven times as much as bfloat16 ones.
@pytest.mark.skipif(bool(engine.missing()), reason=str(engine.missing()))
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("compute_type, share", [("bfloat16", 2), ("int8", 2 * 7), ("int8_bfloat16", 2 * 7)])
def test_narrow_types_stay_near_float64(compute_type, share, before):
    model = make_model(**SSRU, d_model=36, normalize_before=before)
    with torch.no_grad():  # as drawn: what is steeper multiplies every error
        for parameter in model.parameters():
            parameter.div_(2.0)
    given = {"vocabularies": VOCABULARIES}
    truth, own = (
        log_probs(Translator(model, compute_type=c, backend="torch", **given)) for c in ("float64", "bfloat16")
    )
    narrow = log_probs(Translator(model, compute_type=compute_type, backend="engine", **given))
    error, by_torch = (np.sqrt(np.mean((one - truth) ** 2)) for one in (narrow, own))
    assert 0 < error <= share * by_torch


def test_what_is_refused(tmp_path):
    model, source = make_model(**SSRU), make_sources(1)
    for message, call in (
        ("JanusConfig: decoder_autoreg must be one of 'self-attention', 'ssru', got 'rnn'",
         lambda: JanusConfig(8, 8, two_stream=False, decoder_autoreg="rnn")),
        ("JanusConfig: two_stream must be False with decoder_autoreg 'ssru', which has one, got True",
         lambda: JanusConfig(8, 8, decoder_autoreg="ssru")),
        ("mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer",
         lambda: Translator(model).generate(source, mode="nar")),
        ("drafter must be 'source', 'none' or 'auto' with an ordinary Transformer",
         lambda: Translator(model).generate(source, mode="speculative", drafter="model")),
        ("objective: decoder_autoreg must be 'self-attention' in a model that is trained, got 'ssru'",
         lambda: OBJECTIVES["autoregressive"](model.config)),
        ("convert: decoder_autoreg must be 'self-attention' for CTranslate2, which has no other, got 'ssru'",
         lambda: to_ctranslate2.save(model, tmp_path / "x", VOCABULARIES)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    tokens, offsets = torch.tensor(source[0]), offsets_of(torch.tensor([len(source[0])]))
    encoded, places = model.encode(tokens, offsets), torch.arange(len(tokens))
    for pattern in (Visibility.bidirectional(offsets), Visibility.xlnet(offsets[1:], places)):
        with pytest.raises(ValueError, match="^decode: visibility must be causal with decoder_autoreg 'ssru', got"):
            model.decode(tokens, places, pattern, encoded, Visibility.bidirectional(offsets))
    config = dataclasses.replace(model.config)
    assert backend.refusal("cuda", "cuda", "float32", 1, config) == "it records no decoder with decoder_autoreg 'ssru'"
    says = Translator(model, backend="torch").explain(beam_size=1, sampling_topk=0)
    assert "torch: no: it searches with decoder_autoreg 'ssru' by the definition, which draws nothing" in says


def test_transformers_is_refused(tmp_path):
    huggingface = pytest.importorskip("janus_fast.huggingface", reason="transformers is not installed: make test-peers")
    model = make_model(**SSRU)
    with pytest.raises(ValueError, match="^save_pretrained: decoder_autoreg must be 'self-attention' for transformers"):
        huggingface.save_pretrained(model, tmp_path / "a", VOCABULARIES)
    save(model, tmp_path / "b", VOCABULARIES)
    with pytest.raises(ValueError, match="decoder_autoreg must be 'self-attention' for transformers"):
        huggingface.JanusFastForConditionalGeneration.from_pretrained(tmp_path / "b")
