"""Pre-training on monolingual text: what corruption does, batch by batch, and runs by the command line."""

import json
from collections import Counter

import numpy as np
import pytest
import test_train
import torch
from test_cli import run
from test_train import SCHEDULE, SIZES
from test_training import make_config, make_data, make_model, make_monolingual, options_of

from janus_fast import checkpoint, cli
from janus_fast.objectives import OBJECTIVES
from janus_fast.training import corruption
from janus_fast.training.corruption import Corruption
from janus_fast.training.data import BatchStream
from janus_fast.training.options import TrainingOptions
from janus_fast.training.trainer import Trainer
from janus_fast.training.validation import Validation

parallel = test_train.parallel
MASK, WORDS = 4, [*range(5, 25)]
TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"▁{i}" for i in range(5, 28)), ".", "。"]
STOP, WIDE = 28, 29


def corrupted(words=WORDS, seed=0, **options):
    options = TrainingOptions(**{"mask_random": 0.0, "permute_sentences": 0.0, **options})
    corrupt = Corruption(options, make_config(), TOKENS)
    source = corrupt(np.array([0, *words, 2]), torch.Generator().manual_seed(seed)).tolist()
    assert source[0] == 0 and source[-1] == 2
    return source[1:-1]


@pytest.mark.parametrize("spans, expected", [
    ([3], lambda start: [*WORDS[:start], MASK, *WORDS[start + 3 :]]),
    ([1], lambda start: [*WORDS[:start], MASK, *WORDS[start + 1 :]]),
    ([20], lambda start: [*WORDS[:start], MASK]),
    ([], lambda start: WORDS),
])  # fmt: skip
def test_a_mask_stands_for_a_whole_span(monkeypatch, spans, expected):
    monkeypatch.setattr(corruption, "drawn_spans", lambda *_: spans)
    found = {tuple(corrupted(seed=seed)) for seed in range(300)}
    assert found == {tuple(expected(start)) for start in range(20)}


def test_spans_that_overlap_become_one_and_those_without_length_are_inserted(monkeypatch):
    """Two spans: every pair of beginnings; a span without length: a mask at every place, as long as there is room."""
    few = WORDS[:5]

    def two(one, other):  # of three tokens and of two
        hidden = {one + 1, one + 2, other + 1}
        return tuple(MASK if i in (one, other) else token for i, token in enumerate(few) if i not in hidden)

    monkeypatch.setattr(corruption, "drawn_spans", lambda *_: [3, 2])
    found = Counter(tuple(corrupted(few, seed)) for seed in range(800))
    pairs = Counter(two(one, other) for one in range(5) for other in range(5) if one != other)
    assert found.keys() == pairs.keys()
    assert all(abs(found[source] / 800 - times / 20) < 0.05 for source, times in pairs.items())
    monkeypatch.setattr(corruption, "drawn_spans", lambda *_: [0, 2])
    found = {tuple(corrupted(few, seed)) for seed in range(500)}
    filled = [[*few[:start], MASK, *few[start + 2 :]] for start in range(5)]  # the last one takes a token alone
    more = {tuple([*one[:place], MASK, *one[place:]]) for one in filled[:4] for place in range(5)}
    assert found == more | {tuple(filled[4])}  # of which nothing is gone but its token


def test_as_much_is_masked_as_is_asked_for():
    gone, masks = [], []
    for seed in range(300):
        source = corrupted(seed=seed)
        left = [token for token in source if token != MASK]
        assert left == sorted({*left}) and len(source) <= len(WORDS)
        gone.append(20 - len(left))
        masks.append(len(source) - len(left))
    assert max(gone) == 6 and 4.9 < np.mean(gone) < 5.9  # of a budget of 6, but for overlap and the line's end
    assert 1.8 < np.mean(masks) < 2.6  # 6 / 3.5, rounded up, and now and then one that is inserted
    assert corrupted(mask_ratio=0.0) == WORDS and corrupted([7], mask_ratio=0.3) == [MASK]
    assert corrupted(mask_ratio=1.0, poisson_lambda=16) != WORDS and corrupted([]) == []
    ones = [token for seed in range(300) for token in corrupted(seed=seed, mask_random=0.25)]
    share = ones.count(MASK) / sum(masks)
    assert 0.7 < share < 0.8 and min(ones) == MASK


def test_sentences_change_places():
    """At a full stop before a new word, or a wide one; not at one within a word."""
    one, two, three = [6, 7, STOP], [8, STOP, STOP], [9, WIDE]
    line = [*one, *two, *three, 10]
    orders = Counter(tuple(corrupted(line, seed, mask_ratio=0.0, permute_sentences=1.0)) for seed in range(1200))
    sentences = one, two, three, [10]
    assert len(orders) == 24 and all(abs(count - 50) < 30 for count in orders.values())
    assert sum(sentences, []) == line and tuple(line) in orders and tuple([10, *three, *two, *one]) in orders
    halves = {tuple(corrupted(line, seed, mask_ratio=0.0, permute_sentences=0.5)) for seed in range(150)}
    assert len(halves) == 7  # of four sentences two change places, or none does
    without = ["x", *TOKENS[1:5], *(f"w{i}" for i in range(5, 28)), "w.", "w。"]  # of words, not of pieces
    corrupt = Corruption(TrainingOptions(mask_ratio=0.0), make_config(), without)
    assert len({tuple(corrupt(np.array([0, *line, 2]), torch.Generator().manual_seed(s))) for s in range(1000)}) == 120


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_restores_text(objective):
    """Each time from another source, and from the same one where a run goes on, or in a process of several."""
    data, objective = make_monolingual(), OBJECTIVES[objective](make_model().config)

    def batches(start, share=(0, 1), epochs=3):
        stream, found = BatchStream(data, objective, 60, seed=5, start=start, share=share), []
        for number, epoch, batch in stream:
            if epoch == epochs:
                break
            found.append((number, batch.source.tolist(), batch.tokens.tolist()))
        stream.close()
        return found

    every = batches(0)
    assert batches(9) == every[9:] and len({str(source) for _, source, _ in every}) == len(every)
    shares = [batches(0, (rank, 2), 1) for rank in range(2)]
    for (_, source, _), parts in zip(every, zip(*shares, strict=True), strict=False):
        assert sum(len(part[1]) for part in parts) >= len(source)
    model = make_model(dropout=0.0)
    batch = objective.pack(*data.pairs(range(5), torch.Generator().manual_seed(1)), torch.Generator())
    loss, _ = objective.loss(model, batch)
    loss.backward()
    assert loss.isfinite() and any(p.grad is not None for p in model.parameters())


def test_bart_is_left_to_right_over_its_corrupted_text():
    data, model = make_monolingual(8), make_model(dropout=0.0).double()
    sources, targets = data.pairs(range(8), torch.Generator().manual_seed(1))
    assert any(MASK in source for source in sources) and all(map(np.array_equal, targets, data.targets))
    bart, plain = (
        OBJECTIVES[name](model.config).loss(model, OBJECTIVES[name](model.config).pack(sources, targets, None))[0]
        for name in ("bart", "autoregressive")
    )
    assert torch.equal(bart, plain)
    losses = [Validation(data, [], [], ())(model, OBJECTIVES["bart"](model.config)) for _ in range(2)]
    assert losses[0] == losses[1] and {*losses[0]} == {"loss", "ar_nll", "ar_ce"}


def test_text_and_options_go_together(tmp_path):
    for options, data, message in (
        ({"objective": "bart"}, make_data(), "train: text must be monolingual with objective 'bart', .* got parallel"),
        ({"mask_ratio": 0.4}, make_data(), "train: mask_ratio must be left out with parallel text, got 0.4"),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(make_model(), data, tmp_path, options_of(**options))
    for options, message in (
        ({"mask_ratio": 1.5}, r"train: mask_ratio must be a finite number in \[0, 1\], got 1.5"),
        ({"poisson_lambda": 0}, r"train: poisson_lambda must be a finite number in \[0.1, 16\], got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingOptions(**options)


def test_a_model_is_pretrained_goes_on_and_is_then_trained_on_pairs(parallel, tmp_path, capsys):
    text = ["--monolingual", parallel / "train.de", "--valid-monolingual", parallel / "valid.de"]
    command = [*SIZES, *SCHEDULE, "--objective", "bart", "--mask-ratio", 0.4]
    run("train", "--out", tmp_path / "whole", *text, *command, "--max-updates", 4)
    said = capsys.readouterr().err
    assert " lines, a vocabulary of 300 tokens" in said and "validation loss" in said and "bleu" not in said
    run("train", "--out", tmp_path / "parts", *text, *command, "--max-updates", 2)
    run("train", "--out", tmp_path / "parts", *text, "--max-updates", 4)
    assert "going on from update 2" in capsys.readouterr().err
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    settings = json.loads((tmp_path / "whole/train.json").read_text())
    assert settings["training"]["mask_ratio"] == 0.4 and [*settings["text"]] == ["monolingual"]
    data = ["--data", parallel, *SCHEDULE, "--max-updates", 1, "--learning-rate", "1e-30", "--weight-decay", 0]
    run("train", "--out", tmp_path / "tuned", *data, "--init", tmp_path / "whole")
    first, second = (checkpoint.read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "tuned"))
    assert all(torch.allclose(tensor, second[name]) for name, tensor in first.items())

    pair = ["--source", parallel / "train.en", "--target", parallel / "train.de"]
    for words, message in (
        ([*pair, "--objective", "bart"], "text must be monolingual with objective 'bart', which restores corrupted"),
        ([*pair, "--poisson-lambda", 2], "--poisson-lambda must be left out with parallel text, got 2.0"),
        ([*pair, "--poisson-lambda", 3.5], "--poisson-lambda must be left out with parallel text, got 3.5"),
        ([*pair, *text], "--source must be left out with --monolingual, got "),
        (["--data", parallel, *text], "--data must be left out with --monolingual, got "),
        ([*pair, *text[2:]], "--valid-monolingual must go with --monolingual, got "),
        ([], "--data, or --source and --target, or --monolingual, must name the text to train on, got none"),
        (["--monolingual", parallel / "no"], "--monolingual must be a file that exists, got "),
    ):
        assert cli.main([str(word) for word in ("train", "--out", tmp_path / "new", *words, *SIZES)]) == 2
        assert message in capsys.readouterr().err
    for words, message in (
        (["--mask-ratio", 0.3], "--mask-ratio must be 0.4, as when the run in"),
        (["--monolingual", parallel / "train.en"], "--monolingual must hold the text that the run in"),
    ):
        words = ["train", "--out", tmp_path / "parts", *text, "--max-updates", 6, *words]
        assert cli.main([str(word) for word in words]) == 2
        assert message in capsys.readouterr().err
