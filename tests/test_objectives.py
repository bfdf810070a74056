"""Objectives: streams of their own, R-Drop, what JANUS can leave alone, and the gradients of single terms."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_training import make_data, make_model, options_of

from janus_fast import cli
from janus_fast.objectives import OBJECTIVES, Objective
from janus_fast.objectives.streams import Streams
from janus_fast.packing import ranges
from janus_fast.training.checkpoints import latest_checkpoint, read_state
from janus_fast.training.options import TrainingOptions
from janus_fast.training.trainer import Trainer, objective_of
from janus_fast.visibility import FOREVER, Visibility


def pack(objective, data, **options):
    return objective.pack(data.sources, data.targets, torch.Generator().manual_seed(1), **options)


def log_probs(model, batch):
    encoded = model.encode(batch.source, batch.source_offsets)
    rows = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
    return {name: (rows[part] @ model.output_weight.T).log_softmax(-1) for name, part in batch.parts.items()}


def divergence(p, q):
    return sum(F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p))) / 2


@dataclass
class TwoAhead(Objective):
    """Content rows in three pieces a sentence, of which two predict: rows of one stream do not follow one another."""

    def terms(self):
        return {"next": 1.0, "then": 0.5}, {}

    def build(self, target, lengths, drawn):
        words = lengths - 1
        whole = words * 3
        row, length = ranges(whole), words.repeat_interleave(whole)
        stream, place = row // length, row % length
        visibility = Visibility._content(whole, place, torch.where(stream == 0, FOREVER, place))
        first = (lengths.cumsum(0) - lengths).repeat_interleave(whole)
        tokens = torch.where(stream == 0, target[first + place], self.config.mask_token_id)
        found = {}
        for number, name in ((1, "next"), (2, "then")):
            index = ((stream == number) & (place + number <= length)).nonzero().flatten()
            found[name] = index, target[(first + place + number)[index]]
        return [Streams((tokens, tokens[:0]), (place, place[:0]), visibility, found)]


def test_an_objective_can_bring_streams_whose_rows_lie_between_others():
    data, model = make_data(5), make_model(dropout=0.0).double()
    objective = TwoAhead(model.config, label_smoothing=0.0)
    batch = pack(objective, data)
    loss, terms = objective.loss(model, batch)
    # all rows, of which those of each sentence are read one by one: known words, then both streams
    encoded = model.encode(batch.source, batch.source_offsets)
    logits = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross) @ model.output_weight.T
    losses, begin = {"next": [], "then": []}, 0
    for target in map(torch.tensor, data.targets):
        words = len(target) - 1
        for ahead, name in enumerate(losses, 1):
            for place in range(words + 1 - ahead):
                row = logits[begin + ahead * words + place]
                losses[name].append(F.cross_entropy(row, target[place + ahead]))
        begin += 3 * words
    next_, then = (torch.stack(each).mean() for each in losses.values())
    torch.testing.assert_close(terms["next_nll"], next_.detach())
    torch.testing.assert_close(terms["then_nll"], then.detach())
    torch.testing.assert_close(loss, next_ + 0.5 * then)
    assert batch.totals == {name: len(each) for name, each in losses.items()} | {"kl": 0, "length": 5}
    shares = [objective.loss(model, pack(objective, data, share=(rank, 2)))[0] for rank in range(2)]
    torch.testing.assert_close(sum(shares), loss)


def test_r_drop_is_two_losses_under_two_dropouts_and_a_divergence():
    data, model = make_data(6), make_model(dropout=0.3).double()
    objective = OBJECTIVES["r_drop"](model.config, alpha=2.5)
    batch = pack(objective, data)
    torch.manual_seed(3)
    loss, terms = objective.loss(model, batch)
    found = torch.autograd.grad(loss, model.decoder.output_projection.weight)[0]
    torch.manual_seed(3)  # the same dropouts
    log_p = log_probs(model, batch)
    assert list(log_p) == ["ar", "again"] and not torch.equal(log_p["ar"], log_p["again"])
    targets = torch.cat([torch.tensor(target[1:]) for target in data.targets])
    own = [F.nll_loss(p, targets) * 0.9 - 0.1 * p.mean() for p in log_p.values()]
    expected = sum(own) + 2.5 * divergence(*log_p.values())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, model.decoder.output_projection.weight)[0])
    torch.testing.assert_close(terms["kl_ar_again"], divergence(*log_p.values()).detach())
    assert batch.totals == {"ar": len(targets), "again": len(targets), "kl": len(targets), "length": 6}
    for options in ({}, {"two_stream": False}):  # without dropout both are one, in an ordinary Transformer, too
        model = make_model(dropout=0.0, **options).double()
        objective = objective_of(TrainingOptions(objective="r_drop"), model.config)
        assert (objective.alpha, objective.encoder_passes) == (5.0, 2)
        loss, terms = objective.loss(model, pack(objective, data))
        torch.testing.assert_close(loss, 2 * terms["ar_ce"])
        assert terms["kl_ar_again"] < 1e-12


@pytest.mark.parametrize("detach, gap, leaves", [
    ("none", 9.0, False), ("ar", 0.0, True), ("0.5", None, True), ("0.5", 0.6, True), ("0.5", 0.4, False),
])  # fmt: skip
def test_divergences_can_leave_the_autoregressive_side_alone(detach, gap, leaves):
    data, model = make_data(6), make_model(dropout=0.0).double()
    options = TrainingOptions(detach=detach, ar_weight=2.0, aux_weight=0.25)
    objective = objective_of(options, model.config)
    if gap is not None:
        objective.state["gap"] = gap
    batch = pack(objective, data)
    loss, _ = objective.loss(model, batch)
    log_p = log_probs(model, batch)
    ar = log_p["ar"][batch.compared["ar"]]
    ar = ar.detach() if leaves else ar
    ce = {s: 0.9 * F.nll_loss(p, batch.targets[s]) - 0.1 * p.mean() for s, p in log_p.items()}
    encoded = model.encode(batch.source, batch.source_offsets)
    length = F.cross_entropy(model.length_logits(encoded, batch.source_offsets), batch.lengths)
    expected = 2 * ce["ar"] + 0.5 * ce["nar"] + 0.25 * ce["aux"] + 0.1 * length
    expected = expected + divergence(ar, log_p["nar"]) + 3 * divergence(ar, log_p["aux"])
    expected = expected + divergence(log_p["nar"], log_p["aux"])
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)  # the lengths' loss is in float32
    weight = model.decoder.output_projection.weight
    found, wanted = (torch.autograd.grad(x, weight)[0] for x in (loss, expected))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_run_remembers_how_far_the_losses_are_apart(tmp_path):
    def train(directory, updates):
        options = options_of(max_updates=updates, save_interval=3, detach="0.01", log_interval=1)
        trainer = Trainer(make_model(), make_data(), directory, options)
        trainer.train()
        return trainer

    whole = train(tmp_path / "whole", 6)
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    mean = None
    for record in records:
        gap = record["nar_nll"] - record["ar_nll"]
        mean = gap if mean is None else mean + (gap - mean) / 100
    assert whole.objective.state["gap"] == pytest.approx(mean, abs=1e-4)
    train(tmp_path / "parts", 3)
    parts = train(tmp_path / "parts", 6)
    assert parts.objective.state == whole.objective.state
    assert read_state(latest_checkpoint(tmp_path / "parts"))["objective"] == whole.objective.state
    assert Trainer(make_model(), make_data(), tmp_path, options_of()).objective.watched == ()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_of_each_term_is_logged(tmp_path, accumulate):
    data, model = make_data(), make_model(dropout=0.3)
    options = options_of(max_updates=3, log_interval=2, log_gradient_norms=True, accumulate=accumulate)
    trainer = Trainer(model, data, tmp_path, options)
    trainer.train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    names = ["ar_ce", "nar_ce", "aux_ce", "kl_ar_nar", "kl_ar_aux", "kl_nar_aux", "length"]
    assert [record["update"] for record in records] == [1, 2, 3]
    assert all(list(record["gradient_norms"]) == names for record in records)
    plain = options_of(max_updates=3, log_interval=2, accumulate=accumulate)
    other = Trainer(make_model(dropout=0.3), data, tmp_path / "plain", plain)
    other.train()  # which the look at the gradients does not change
    for one, two in zip(trainer.parameters, other.parameters, strict=True):
        assert torch.equal(one, two)

    batches, seed = [pack(trainer.objective, data)], trainer.seed()
    norms = trainer.gradient_norms(batches)
    for name, terms in {
        "aux_ce": {"cross_entropy": {"aux": 0.5}}, "kl_ar_aux": {"divergence": {("ar", "aux"): 3.0}},
        "length": {"length_weight": 0.1},
    }.items():  # fmt: skip
        alone = OBJECTIVES["janus"](
            model.config, **{"cross_entropy": {}, "divergence": {}, "length_weight": 0.0, **terms}
        )
        torch.manual_seed(seed)
        model.zero_grad()
        with trainer.autocast():
            loss = alone.loss(model, batches[0])[0]
        loss.backward()
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        assert norms[name] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)


def test_options_of_one_objective_are_its_own(capsys):
    for options, message in [
        ({"alpha": 2.0}, "train: alpha must be left out with objective 'janus', got 2.0"),
        ({"objective": "r_drop", "alpha": -1.0}, "train: alpha must be at least 0 and finite, got -1.0"),
        ({"objective": "r_drop", "detach": "ar"}, "train: detach must be left out with objective 'r_drop', got ar"),
        ({"detach": "nar"}, "train: detach must be none, ar or a number of nats from 0, got 'nar'"),
        ({"detach": "nan"}, "train: detach must be none, ar or a number of nats from 0, got 'nan'"),
        (
            {"detach": "ar", "divergence_weight": 0.0},
            "train: detach must be left out with divergence_weight 0, got ar",
        ),
        (
            {"without_auxiliary": True, "aux_weight": 1.0},
            "train: aux_weight must be left out with without_auxiliary, got 1.0",
        ),
        (
            {"tail_decay": 4.0},
            "train: tail_decay must be left out with suffix_share 0 and draft_weight 0, got 4.0",
        ),
        ({"objective": "cmlm", "tail_decay": 4.0}, "train: tail_decay must be left out with suffix_share 0, got 4.0"),
        ({"draft_length": 4}, "train: draft_length must be left out with draft_weight 0, got 4"),
        ({"draft_weight": -1.0}, "train: draft_weight must be at least 0 and finite, got -1.0"),
        ({"suffix_share": 1.5}, "train: suffix_share must be in [0, 1], got 1.5"),
        ({"nar_weight": math.nan}, "train: nar_weight must be at least 0 and finite, got nan"),
        ({"fsdp": True, "log_gradient_norms": True}, "train: log_gradient_norms must be off with fsdp, got True"),
    ]:
        with pytest.raises(ValueError) as caught:
            TrainingOptions(**options)
        assert str(caught.value) == message
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "training, with --objective r_drop: --alpha X" in shown
    assert "training, with --objective cemat or cmlm or janus or mpnet: --masking X span or uniform" in shown
    assert ", ".join(OBJECTIVES) in shown


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("tail_decay", [0.0, 2.0])
def test_a_draft_is_trained_as_a_decoder_with_a_cache_would_make_it(every, tail_decay):
    """Masks behind a prefix, from the prefix's rows alone, however much of the sentence is left."""
    data, model = make_data(7), make_model(dropout=0.0).double()
    settings = {"without_auxiliary": True, "divergence_weight": 0.0, "autoregressive_every": every}
    objective = OBJECTIVES["janus"](
        model.config, **settings, draft_weight=0.25, draft_length=4, tail_decay=tail_decay, label_smoothing=0.0
    )
    targets, sources = ([list(map(int, side)) for side in both] for both in (data.targets, data.sources))
    drawn = objective.draw(
        torch.cat([*map(torch.tensor, targets)]), [*map(len, targets)], torch.Generator().manual_seed(1)
    )
    drafted = drawn[:, 2].split([len(target) for target in targets])
    losses = []
    for number, target in enumerate(targets):
        places = drafted[number].nonzero().flatten().tolist()
        known, words = target[: places[0]], [target[place] for place in places]
        assert set(places) <= set(range(len(known), min(len(known) + 4, len(target)))) and known
        if number % every:
            continue
        masks = 4  # those behind the last word that counts change nothing
        rows = len(known) + masks
        times = torch.arange(rows, dtype=torch.int32)
        offsets = torch.tensor([0, rows], dtype=torch.int32)
        forever = torch.full_like(times, FOREVER)
        own = Visibility(offsets, offsets, torch.zeros(1, dtype=torch.int32), times, times, forever)
        source_offsets = torch.tensor([0, len(sources[number])], dtype=torch.int32)
        encoded = model.encode(torch.tensor(sources[number]), source_offsets)
        tokens = torch.tensor([*known, *[model.config.mask_token_id] * masks])
        cross = Visibility.bidirectional(offsets, source_offsets)
        hidden = model.decode(tokens, torch.arange(rows), own, encoded, cross)[places]
        losses += F.cross_entropy(hidden @ model.output_weight.T, torch.tensor(words), reduction="none")
    total, terms = objective.loss(model, batch := pack(objective, data))
    torch.testing.assert_close(terms["draft_nll"], torch.stack(losses).mean().detach())
    assert batch.totals["draft"] == len(losses) and objective.streams == ("ar", "nar", "draft")
    assert objective.modes == ("ar", "nar", "semi_nar", "speculative") and OBJECTIVES["janus"](model.config).modes == (
        "ar",
        "nar",
    )
    without = OBJECTIVES["janus"](model.config, **settings, label_smoothing=0.0)
    plain, others = without.loss(model, pack(without, data))  # whose masks are the same
    torch.testing.assert_close(total, plain + 0.25 * torch.stack(losses).mean())
    for name, value in others.items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_masked_ends_train_what_they_predict(auxiliary):
    """Words behind a drawn place are masked, and those that are not predicted are in no term of the loss."""
    data, model = make_data(40), make_model(dropout=0.0).double()
    options = {"auxiliary": auxiliary, "label_smoothing": 0.0}
    objective = OBJECTIVES["janus"](model.config, suffix_share=1.0, tail_decay=2.0, **options)
    batch = pack(objective, data)
    terms = objective.loss(model, batch)[1]
    lengths = [len(target) for target in data.targets]
    target = torch.from_numpy(np.concatenate(data.targets))
    masked, predicted, _ = objective.draw(target, lengths, torch.Generator().manual_seed(1)).unbind(1)
    for places in masked.split(lengths):
        words = places[1:-1].tolist()
        assert not places[0] and not places[-1] and words == sorted(words) and words[-1:] != [False]
    assert bool((predicted <= masked).all()) and predicted.sum() < masked.sum()
    everything = OBJECTIVES["janus"](model.config, **options)
    everything.draw = lambda *_: torch.stack([masked, masked, torch.zeros_like(masked)], 1)
    log_p, kept = log_probs(model, pack(everything, data)), predicted[masked]
    log_p = {name: rows[kept] for name, rows in log_p.items() if name != "ar"} | {
        "ar": log_p["ar"][predicted[torch.cat([torch.arange(n) > 0 for n in lengths])]]
    }
    torch.testing.assert_close(terms["nar_nll"], F.nll_loss(log_p["nar"], target[predicted]).detach())
    for pair in objective.divergence:
        torch.testing.assert_close(terms[f"kl_{'_'.join(pair)}"], divergence(*map(log_p.get, pair)).detach())
    if auxiliary:
        torch.testing.assert_close(terms["aux_nll"], F.nll_loss(log_p["aux"], target[predicted]).detach())


def test_ends_are_drawn_behind_the_masks():
    """The same masks with and without, but for the share of sentences that have an end masked; the same each time."""
    lengths, config = [12] * 2000 + [3, 2], make_model().config
    target = torch.full((sum(lengths),), 7)

    def draw(name="janus", **options):
        return OBJECTIVES[name](config, **options).draw(target, lengths, torch.Generator().manual_seed(4))

    plain, ends = draw(), draw(suffix_share=0.25)
    assert torch.equal(draw(suffix_share=0.25), ends) and torch.equal(plain[:, 0], plain[:, 1])
    assert not plain[:, 2].any() and torch.equal(ends[:, 0], ends[:, 1])
    same = (plain == ends)[: 12 * 2000].view(2000, -1).all(1)
    begins = ends[: 12 * 2000, 0].view(2000, 12)[~same].int().argmax(1)
    assert 0.7 < same.double().mean() < 0.78 and ends[-2:, 0].tolist() == [False] * 2
    counts = begins.bincount(minlength=12)[1:11] / len(begins)  # uniform over ten words
    assert ((counts - 0.1).abs() < 0.06).all()
    both = draw(suffix_share=0.25, draft_weight=1.0, draft_length=5)
    assert torch.equal(both[:, :2], ends[:, :2])
    drafted = both[: 12 * 2000, 2].view(2000, 12)
    first = drafted.int().argmax(1)
    assert torch.equal(drafted.sum(1), (12 - first).clamp(max=5)) and both[-2:, 2].tolist() == [False, True]
    assert ((first.bincount(minlength=12)[1:] / 2000 - 1 / 11).abs() < 0.03).all()
    decayed = draw(draft_weight=1.0, draft_length=5, tail_decay=2.0)[: 12 * 2000, 2].view(2000, 12)
    first = decayed.int().argmax(1)
    for place in range(5):
        inside = first + place < 12
        kept = decayed[inside, (first + place)[inside]].double().mean()
        assert kept == pytest.approx(math.exp(-place / 2), abs=0.05)
    assert torch.equal(draw("cmlm", masking="span", suffix_share=0.25), ends[:, :2])
