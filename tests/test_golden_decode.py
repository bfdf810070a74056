"""Both decoding modes give the tokens and scores that the original gives.

Compared are the cases in which we mean to do the same: refinement without adaptive stop, and beam search without the
original's cache (which holds every key twice). Only rows that small changes of the weights leave as they are count.
"""

import re

import golden
import pytest
import torch
from test_decoding import translator_of

EOS = 2
NAR_CASES = sorted({key.split("/")[0] for key in golden.tensors("nar_decode") if re.match(r"iter.*_fixed/", key)})
AR_CASES = sorted({key.split("/")[0] for key in golden.tensors("ar_decode") if "_full/" in key})


@pytest.fixture(scope="module", params=["torch", "engine"])
def translator(request):
    return translator_of(golden.model(), request.param)


@pytest.fixture(scope="module")
def sources():
    return [source.tolist() for source in golden.unpad(golden.tensors("data")["src_tokens"])]


def words(canvas: torch.Tensor) -> list[int]:
    """A padded canvas without its padding, bos and eos."""
    return canvas[canvas != golden.PAD][1:-1].tolist()


@pytest.mark.parametrize("case", NAR_CASES)
def test_refinement(translator, sources, case):
    iterations, beam = map(int, re.match(r"iter(\d+)_beam(\d+)", case).groups())
    expected = golden.group("nar_decode", f"{case}/")
    results = translator.generate(
        sources, mode="nar", iterations=iterations + 1, length_beam=beam, length_candidates="window", score="canvas",
        adaptive=False,
    )  # fmt: skip
    assert expected["robust"].sum() >= 5
    for row in expected["robust"].nonzero().flatten().tolist():
        result, ids = results[row], words(expected["tokens"][row])
        assert result.hypotheses[0] == ids
        assert result.scores[0] == pytest.approx(expected["scores"][row].item(), abs=1e-4)
        scores = expected["positional_scores"][row, 1 : len(ids) + 1].tolist()
        assert result.token_scores[0] == pytest.approx(scores, abs=1e-4)
        assert result.iterations[0] <= iterations + 1  # a canvas without masks left is not run again


def test_canvases_of_every_pass(translator, sources):
    histories = [golden.tensors("nar_decode")[f"history_iter4_beam1_fixed/sent{i}"] for i in range(len(sources))]
    results = translator.generate(
        sources, mode="nar", iterations=5, length_beam=1, score="canvas", adaptive=False, return_history=True
    )
    for result, history in zip(results, histories, strict=True):
        masked = [history[0], *history[2:-1:2], history[-1]]  # the original's also holds the canvases before re-masking
        canvases, own = [words(canvas) for canvas in masked], result.history[0]
        assert own == canvases[: len(own)] and len(own) == result.iterations[0] + 1
        assert all(canvas == own[-1] for canvas in canvases[len(own) :])  # nothing was left to predict


def test_wide_length_beam_returns_the_empty_sentence(translator, sources):
    """The original's ranking: an empty candidate's mean is 0, which no other can beat."""
    expected = golden.group("nar_decode", "wide_iter4_beam9_fixed/")
    options = {"mode": "nar", "iterations": 5, "length_beam": 9, "adaptive": False}
    results = translator.generate(sources, score="canvas", **options)
    assert [result.hypotheses[0] for result in results] == [words(canvas) for canvas in expected["tokens"]]
    assert [result.scores[0] for result in results] == pytest.approx(expected["scores"].tolist(), abs=1e-4)
    assert sum(not result.hypotheses[0] for result in results) == 2
    assert all(result.hypotheses[0] for result in translator.generate(sources, rerank=False, **options))


@pytest.mark.parametrize("case", AR_CASES)
def test_beam_search(translator, sources, case):
    """The original drops what ends in the same step as the last hypothesis that there is room for; here it is kept."""
    beam, penalty = re.match(r"beam(\d+)_lenpen([\d.]+)_", case).groups()
    expected = golden.group("ar_decode", f"{case}/")
    results = translator.generate(
        sources, mode="ar", beam_size=int(beam), num_hypotheses=int(beam), length_penalty=float(penalty),
        max_decoding_length=60, min_decoding_length=1,
    )  # fmt: skip
    robust, same = expected["robust"].nonzero().tolist(), 0
    assert len(robust) >= 0.9 * expected["robust"].numel()
    for row, rank in robust:
        result, tokens = results[row], expected["tokens"][row, rank]
        tokens = tokens[tokens != golden.PAD].tolist()
        own = [hypothesis + [EOS] for hypothesis in result.hypotheses]
        if tokens not in own:  # one that is better has its place
            assert expected["scores"][row, rank] < min(result.scores) and rank > 0
            continue
        place = own.index(tokens)
        assert place == rank or all(result.iterations[place] <= steps for steps in result.iterations[rank:place])
        assert result.scores[place] == pytest.approx(expected["scores"][row, rank].item(), abs=1e-4)
        scores = expected["positional_scores"][row, rank, : len(tokens)].tolist()
        assert result.token_scores[place] == pytest.approx(scores, abs=1e-4)
        same += place == rank
    assert same >= 0.8 * len(robust)  # what is kept moves those behind it
