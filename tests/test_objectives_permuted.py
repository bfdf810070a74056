"""XLNet's, MPNet's and CeMAT's objectives: their losses by definition, what they learn, and what then decodes."""

import json
import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from plain import encode, hidden_rows, length_loss
from test_decoding import make_model as make_random
from test_decoding import make_sources, rounding_error
from test_training import make_data, make_model, options_of

from janus_fast import JanusConfig, Translator, engine
from janus_fast.decoding.score import score
from janus_fast.objectives import OBJECTIVES
from janus_fast.training.trainer import Trainer

MASK = 4
ORDERS = [
    {"mode": "nar", "order": order, "length_beam": 1} for order in ("easy_first", "left_to_right", "right_to_left")
]
ALL_RANKS = {"partial_prediction": 1, "left_to_right_share": 0.0}
XLNET = {
    "as it is": {}, "every rank": ALL_RANKS,
    "a third": {"partial_prediction": 3, "left_to_right_share": 0.0}, "left to right": {"left_to_right_share": 1.0},
}  # fmt: skip
MPNET = {
    "as it is": {}, "queries alone": {"nar_weight": 0.0}, "spans": {"masking": "span", "nar_weight": 0.5},
    "some of an end": {"suffix_share": 1.0, "tail_decay": 1.0},
}  # fmt: skip
CEMAT = {
    "as it is": {}, "much of the source": {"source_mask_ratio": (0.5, 1.0), "masking": "span"},
    "the encoder alone": {"encoder_loss_lambda": 1.0},
}  # fmt: skip


def ids(data):
    return [[list(map(int, line)) for line in side] for side in (data.sources, data.targets)]


def drawn_of(objective, targets, seed=1):
    """What is drawn for each sentence of a batch."""
    target = torch.tensor(sum(targets, []))
    lengths = [len(each) for each in targets]
    return objective.draw(target, lengths, torch.Generator().manual_seed(seed)).split(lengths)


def cross_entropy(model, hidden, wanted):
    return F.cross_entropy(hidden @ model.output_weight.T, torch.tensor(wanted, dtype=torch.long), reduction="none")


def xlnet_by_definition(model, objective, sources, targets):
    """Each factor of the likelihood by itself: a query, and below it all content rows as their ranks let them see."""
    losses = {"ar": [], "permuted": []}
    for source, target, drawn in zip(sources, targets, drawn_of(objective, targets), strict=True):
        ranks, (straight, *_) = drawn[:, 0].tolist(), drawn[:, 1].tolist()
        n = len(target) - 1
        order = sorted((rank, place) for place, rank in enumerate(ranks) if rank >= 0)
        assert ranks[0] == -1 and len(order) == (n if straight else -(-n // objective.partial_prediction))
        assert [rank for rank, _ in order] == list(range(n))[-len(order) :]
        assert not straight or [place for _, place in order] == list(range(1, n + 1))
        for rank, place in order:
            known = [j for j in range(n + 1) if ranks[j] < rank]
            rows = [(target[j], j) for j in known] + [(MASK, place - 1)]
            content = [{k for k, other in enumerate(known) if ranks[other] <= ranks[j]} for j in known]
            hidden = hidden_rows(model, source, rows, [*content, set(range(len(known)))])
            losses["ar" if straight else "permuted"] += cross_entropy(model, hidden[-1:], [target[place]])
    every_step = objective.partial_prediction == 1 and objective.left_to_right_share < 1
    lengths = 0.1 * length_loss(model, sources, [len(target) for target in targets]) if every_step else 0
    return sum(torch.stack(each).mean() for each in losses.values() if each) + lengths


def mpnet_by_definition(model, objective, sources, targets):
    """Rows and who sees whom as the paper's figure has them: known words, words in order, masks, queries."""
    losses = {"aux": [], "nar": []}
    for source, target, drawn in zip(sources, targets, drawn_of(objective, targets), strict=True):
        masked, predicted, rank = drawn.T.tolist()
        assert not masked[0] and not masked[-1] and any(predicted) and bool((drawn[:, 1] <= drawn[:, 0]).all())
        assert objective.suffix_share or masked == predicted
        known = [j for j in range(len(target)) if not masked[j]]
        order = sorted((j for j in range(len(target)) if masked[j]), key=lambda j: rank[j])
        k, b = len(known), len(order)
        words, masks = [[first + c for c in range(b)] for first in (k, k + b)]
        rows = [(target[j], j) for j in [*known, *order]] + [(MASK, j) for j in order * 2]
        everybody = [*range(k)]
        sees = [{*everybody, *masks}] * k
        sees += [{*everybody, *words[: t + 1], *masks[t + 1 :]} for t in range(b)]
        sees += [{*everybody, *masks}] * b
        sees += [{*everybody, *words[:t], *masks[t:]} for t in range(b)]
        hidden = hidden_rows(model, source, rows, sees)
        counts = [t for t in range(b) if predicted[order[t]]]
        for name, rows in (("nar", hidden[k + b : k + 2 * b]), ("aux", hidden[k + 2 * b :])):
            losses[name] += cross_entropy(model, rows[counts], [target[order[t]] for t in counts])
    aux, nar = (torch.stack(each).mean() for each in losses.values())
    weight = 1.0 if objective.nar_weight is None else objective.nar_weight
    return aux + weight * nar + 0.1 * length_loss(model, sources, [len(target) for target in targets])


def cemat_by_definition(model, objective, sources, targets, switched=None):
    """Words of both sides behind masks, which all see all of their side, and the decoder's rows all of the source."""
    generator, losses, hidden_sources = torch.Generator().manual_seed(1), {"nar": [], "encoder": []}, []
    lengths = [[len(each) for each in side] for side in (sources, targets)]
    drawn = objective.draw(torch.tensor(sum(targets, [])), lengths[1], generator)
    replaced, told = switched or (torch.zeros(sum(own), dtype=torch.bool) for own in lengths)
    masked = objective.draw_source(torch.tensor(sum(sources, [])), lengths[0], generator, replaced)
    assert not (masked & replaced).any()
    masked, drawn = masked.split(lengths[0]), (drawn | told[:, None]).split(lengths[1])
    for source, target, hidden, places in zip(sources, targets, masked, drawn, strict=True):
        n, (least, most) = len(source) - 2, objective.source_mask_ratio
        assert not hidden[0] and not hidden[-1] and math.floor(least * n) <= hidden.sum() <= math.ceil(most * n)
        source = [MASK if yes else token for token, yes in zip(source, hidden.tolist(), strict=True)]
        hidden_sources.append(source)
        canvas = [(MASK if yes else token, j) for j, (token, yes) in enumerate(zip(target, places[:, 0], strict=True))]
        rows = hidden_rows(model, source, canvas, [{*range(len(target))}] * len(target))[places[:, 0]]
        losses["nar"] += cross_entropy(model, rows, [target[j] for j in places[:, 0].nonzero().flatten()])
    for source, given, hidden in zip(hidden_sources, sources, masked, strict=True):
        wanted = [token for token, yes in zip(given, hidden, strict=True) if yes]
        losses["encoder"] += cross_entropy(model, encode(model, source)[hidden], wanted)
    nar, encoder = (torch.stack(each or [torch.zeros(())]).mean() for each in losses.values())
    share = objective.encoder_loss_lambda
    length = length_loss(model, hidden_sources, [len(target) for target in targets])
    return (1 - share) * nar + share * encoder + 0.1 * length


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name, options, by_definition", [
    *(pytest.param("xlnet", options, xlnet_by_definition, id=f"xlnet, {i}") for i, options in XLNET.items()),
    *(pytest.param("mpnet", options, mpnet_by_definition, id=f"mpnet, {i}") for i, options in MPNET.items()),
    *(pytest.param("cemat", options, cemat_by_definition, id=f"cemat, {i}") for i, options in CEMAT.items()),
])  # fmt: skip
def test_loss_and_gradients_are_those_of_the_definition(name, options, by_definition, dtype):
    exact = make_model(dropout=0.0).double()
    model = deepcopy(exact).to(dtype)
    objective = OBJECTIVES[name](model.config, label_smoothing=0.0, **options)
    for seed in (1, 2):
        data = make_data(6, seed=seed)
        sources, targets = ids(data)
        loss, _ = objective.loss(model, objective.pack(sources, targets, torch.Generator().manual_seed(1)))
        expected = by_definition(exact, objective, sources, targets)
        # the lengths' loss is in float32; float32 itself errs by some 1e-7 of the largest of each gradient a layer
        bound = {"atol": 2e-6, "rtol": 1e-6} if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(loss.double(), expected, **bound)
        pairs = zip(model.named_parameters(), exact.parameters(), strict=True)
        gradients = [
            torch.autograd.grad(each, list(of.parameters()), allow_unused=True)
            for each, of in ((loss, model), (expected, exact))
        ]
        for ((parameter, _), _), found, wanted in zip(pairs, *gradients, strict=True):
            assert (found is None) == (wanted is None), parameter
            if found is not None:
                torch.testing.assert_close(found.double(), wanted, **bound, msg=lambda m, p=parameter: f"{p}: {m}")


def test_xlnet_from_left_to_right_is_what_mode_ar_computes():
    """With all sentences so, the objective is autoregressive; of some of them, its rows are those of a score."""
    data, model = make_data(12), make_model(dropout=0.0).double().eval()
    sources, targets = ids(data)

    def loss(name, **options):
        objective = OBJECTIVES[name](model.config, **options)
        return objective.loss(model, objective.pack(sources, targets, torch.Generator().manual_seed(1)))[0]

    straight, ar = loss("xlnet", left_to_right_share=1.0), loss("autoregressive")
    torch.testing.assert_close(straight, ar)
    weights = [p for n, p in model.named_parameters() if "embed_length" not in n]
    for one, two in zip(*(torch.autograd.grad(x, weights) for x in (straight, ar)), strict=True):
        torch.testing.assert_close(one, two)
    objective = OBJECTIVES["xlnet"](model.config)
    chosen = [bool(drawn[0, 1]) for drawn in drawn_of(objective, targets)]
    assert 0 < sum(chosen) < len(chosen)
    batch = objective.pack(sources, targets, torch.Generator().manual_seed(1))
    encoded = model.encode(batch.source, batch.source_offsets)
    rows = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross, batch.rows)
    found = (rows[batch.parts["ar"]] @ model.output_weight.T).log_softmax(-1)
    found = found.gather(1, batch.targets["ar"][:, None])[:, 0]
    own = [[side[i] for i, yes in enumerate(chosen) if yes] for side in (sources, targets)]
    expected = torch.tensor(sum(score(model, *own), []))  # which are of float32
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)


def test_the_first_query_of_mpnet_is_a_mask_of_mask_predict():
    """So the queries alone train mode "nar", too."""
    sources, targets = ids(make_data(9))
    model = make_model(dropout=0.0).double()
    objective = OBJECTIVES["mpnet"](model.config)
    batch = objective.pack(sources, targets, torch.Generator().manual_seed(1))
    hidden = model.decode(
        batch.tokens, batch.positions, batch.visibility, model.encode(batch.source, batch.source_offsets), batch.cross
    )
    count = [int(drawn[:, 0].sum()) for drawn in drawn_of(objective, targets)]
    nar, aux = (hidden[batch.rows[batch.parts[name]]] for name in ("nar", "aux"))
    first = [sum(count[:number]) for number in range(len(count))]
    torch.testing.assert_close(aux[first], nar[first])
    later = [row for row in range(sum(count)) if row not in first]
    assert ((aux[later] - nar[later]).abs().amax(1) > 1e-3).all()


def test_orders_are_uniform_and_sentences_without_words_take_part():
    lengths, config = [5] * 3000, make_model().config
    target = torch.full((sum(lengths),), 7)
    generator = torch.Generator().manual_seed(4)
    permuted = OBJECTIVES["xlnet"](config, partial_prediction=1, left_to_right_share=0.25)
    ranks, straight = permuted.draw(target, lengths, generator).view(3000, 5, 2).unbind(2)
    share = straight[:, 0].double().mean()
    assert 0.22 < share < 0.28 and (straight == straight[:, :1]).all()
    assert (ranks[straight[:, 0] == 1] == torch.arange(-1, 4)).all()
    for orders in (ranks[straight[:, 0] == 0][:, 1:], OBJECTIVES["mpnet"](config).draw(
        target, lengths, generator
    ).view(3000, 5, 3)[..., 2]):  # fmt: skip
        numbers, rows = orders.shape[1], len(orders)
        for place in range(numbers):
            counts = orders[:, place].bincount(minlength=numbers) / rows
            assert ((counts - 1 / numbers).abs() < 0.04).all()
    model = make_model(dropout=0.0)
    for name in ("xlnet", "mpnet", "cemat"):
        objective = OBJECTIVES[name](config)
        batch = objective.pack([[0, 5, 2]] * 3, [[0, 2]] * 3, torch.Generator().manual_seed(1))
        assert objective.loss(model, batch)[0].isfinite()


def test_modes_are_those_that_are_trained():
    config = make_model().config
    assert OBJECTIVES["xlnet"](config).modes == ("ar",) and OBJECTIVES["xlnet"](config).streams == ("ar", "permuted")
    alone = OBJECTIVES["xlnet"](config, left_to_right_share=0.0)
    assert alone.modes == () and alone.streams == ("permuted",)
    assert OBJECTIVES["xlnet"](config, left_to_right_share=0.0, partial_prediction=1).modes == ("ar", "nar")
    assert OBJECTIVES["xlnet"](config, left_to_right_share=1.0).streams == ("ar",)
    mpnet = OBJECTIVES["mpnet"](config)
    assert mpnet.modes == ("nar",) and mpnet.predicts_length and mpnet.streams == ("aux", "nar")
    assert OBJECTIVES["cemat"](config).modes == ("nar",)
    with pytest.raises(ValueError, match="objective: share_all_embeddings must be true with objective 'cemat', got F"):
        OBJECTIVES["cemat"](make_model(share_all_embeddings=False).config)
    with pytest.raises(
        ValueError, match="train: source_mask_ratio must be two numbers in .*, the lower one first, got"
    ):
        options_of(objective="cemat", source_mask_ratio=(0.3, 0.2))


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory):
    """Trains an objective on a few sentences, once for all tests, until its loss is near zero."""
    kept = {}

    def learn(name, options):
        if (key := f"{name} {options}") not in kept:
            sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "attention_heads": 2}
            # XLNet as it is learns left to right half of the time, and takes longest
            count, updates, rate = (16, 400, 3e-3) if (name, options) == ("xlnet", {}) else (10, 240, 7e-3)
            model, data = make_model(dropout=0.0, **sizes), make_data(count)
            settings = {"max_tokens": 200, "warmup_updates": updates // 13, "decay_updates": updates // 3}
            settings |= {"max_updates": updates, "save_interval": updates, "learning_rate": rate}
            settings |= {"label_smoothing": 0.0, "precision": "float32", **options}
            trainer = Trainer(model, data, tmp_path_factory.mktemp(name), options_of(objective=name, **settings))
            trainer.train()
            kept[key] = trainer.objective, model.eval(), *ids(data)
        return kept[key]

    return learn


@pytest.mark.parametrize("name, options, decodes", [
    ("xlnet", {}, [{"beam_size": 1}]),
    ("xlnet", ALL_RANKS, [{"beam_size": 1}, {"beam_size": 4}, *ORDERS]),
    ("mpnet", {}, [{"mode": "nar", "iterations": n, "length_beam": 1} for n in (1, 4, 10)] + ORDERS),
    ("cemat", {}, [{"mode": "nar", "iterations": n, "length_beam": 1} for n in (1, 4, 10)] + ORDERS),
])  # fmt: skip
def test_what_is_learned_by_heart_is_decoded(by_heart, name, options, decodes):
    objective, model, sources, targets = by_heart(name, options)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        losses = [objective.loss(model, objective.pack(sources, targets, generator))[0] for _ in range(5)]
    # what CeMAT masks of short sources nothing else may tell
    assert sum(losses) / 5 < (0.5 if name == "cemat" else 0.1)
    wanted = [target[1:-1] for target in targets]
    for decode in decodes:
        for backend in ("torch", *([] if engine.missing() else ["engine"])):
            translator = Translator(model, backend=backend)
            together = [result.hypotheses[0] for result in translator.generate(sources, **decode)]
            alone = [translator.generate([source], **decode)[0].hypotheses[0] for source in sources[:3]]
            assert together == wanted and alone == wanted[:3], (backend, decode)


@pytest.mark.parametrize("name, options", [("xlnet", ALL_RANKS), ("mpnet", {})])
@pytest.mark.parametrize("order_of", [list, lambda places: places[::-1], lambda places: places[1::2] + places[::2]])
@torch.no_grad()
def test_the_same_weights_decode_in_any_order_where_the_length_is_known(by_heart, name, options, order_of):
    """One word after another by the rows that are trained, known words as they were when they were filled."""
    _, model, sources, targets = by_heart(name, options)
    for source, target in zip(sources, targets, strict=True):
        end = len(target) - 1
        found = {0: target[0]} if name == "xlnet" else {0: target[0], end: target[end]}
        order = order_of([place for place in range(end + 1) if place not in found])
        k = len(found)
        for t, place in enumerate(order):
            rows = [(token, j) for j, token in found.items()]
            sees = [{*range(max(i + 1, k))} for i in range(len(rows))]
            if name == "xlnet":
                rows, sees = [*rows, (MASK, place - 1)], [*sees, {*range(k + t)}]
            else:
                masks = [*range(k + t, k + t + len(order))]
                sees = [{*own, *masks[max(i + 1 - k, 0) :]} for i, own in enumerate(sees)]
                rows, sees = rows + [(MASK, j) for j in order], sees + [{*range(k), *masks}] * len(order)
                rows, sees = [*rows, (MASK, place)], [*sees, {*range(k + t), *masks[t:]}]
            hidden = hidden_rows(model, source, rows, sees)
            found[place] = int((hidden[-1] @ model.output_weight.T).argmax())
        assert [found[place] for place in range(end + 1)] == target


def filled(model, source, length, order):
    """The words between bos and eos, one after another, and their log-probabilities: each of a query before its place,
    which sees what was known before, as that sees what was known before it."""
    found, scores = {0: 0, length - 1: 2}, {}
    while masked := [place for place in range(1, length - 1) if place not in found]:
        rows = [(token, place) for place, token in found.items()] + [(MASK, place - 1) for place in masked]
        sees = [{*range(min(i + 1, len(found)))} for i in range(len(rows))]
        logits = hidden_rows(model, source, rows, sees)[len(found) :] @ model.output_weight.T
        logits[:, [0, 1, 2, MASK]] = -math.inf
        best, words = logits.log_softmax(-1).max(-1)
        n = {"left_to_right": 0, "right_to_left": -1, "easy_first": int(best.argmax())}[order]
        found[masked[n]], scores[masked[n]] = int(words[n]), float(best[n])
    return [[values[place] for place in range(1, length - 1)] for values in (found, scores)]


@pytest.mark.parametrize("order", ["easy_first", "left_to_right", "right_to_left"])
@torch.no_grad()
def test_a_model_of_permuted_prediction_is_filled_by_its_queries(order):
    model, sources = make_random(permuted=True), make_sources(3)
    options = {"mode": "nar", "order": order, "length_beam": 3, "num_hypotheses": 3, "rerank": False}
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    for backend in ("torch", *([] if engine.missing() else ["engine"])):
        translator = Translator(model, backend=backend)
        together = translator.generate(sources, **options)
        for source, result in zip(sources, together, strict=True):
            assert len(result.hypotheses) == 3
            for ids_, scores, passes in zip(result.hypotheses, result.token_scores, result.iterations, strict=True):
                expected, log_probs = filled(model, source, len(ids_) + 2, order)
                assert ids_ == expected and passes == len(ids_), backend
                assert scores == pytest.approx(log_probs, abs=tolerance)
            (alone,) = translator.generate([source], **options)
            assert alone.hypotheses == result.hypotheses


def test_a_model_says_that_it_is_filled_word_after_word():
    config = make_random(permuted=True).config
    assert JanusConfig.from_json(config.to_json()) == config
    later = {"permuted", "decoder_autoreg", "trained_modes", "streams_ahead"}  # which earlier releases do not know
    assert not later & {*json.loads(make_random().config.to_json())}
    recurrent = JanusConfig(9, 9, two_stream=False, decoder_autoreg="ssru", trained_modes=())
    assert JanusConfig.from_json(recurrent.to_json()) == recurrent
    message = (
        "order must be easy_first, left_to_right or right_to_left with a model that was trained to fill word after"
    )
    with pytest.raises(ValueError, match=message):
        Translator(make_random(permuted=True), backend="torch").generate(make_sources(1), mode="nar")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"two_stream": False}, "two_stream must be True with permuted, as an ordinary Transformer .*, got False"),
        ({"mask_token_id": 3}, "mask_token_id must be another than unk_token_id with permuted, .*, got 3"),
    ],
)
def test_models_that_no_order_could_fill_are_refused(options, message):
    with pytest.raises(ValueError, match=f"JanusConfig: {message}"):
        make_random(permuted=True, **options)
    if options.get("two_stream", True):
        with pytest.raises(ValueError, match=f"JanusConfig: {message}"):
            OBJECTIVES["xlnet"](make_random(**options).config, partial_prediction=1)


def test_training_says_in_the_config_what_a_model_was_trained_for(tmp_path):
    model, data = make_model(), make_data(8)
    for name, options, permuted, modes in (
        ("xlnet", {"partial_prediction": 1}, True, ("ar", "nar")), ("cmlm", {}, False, ("nar",)),
    ):  # fmt: skip
        Trainer(model, data, tmp_path, options_of(objective=name, **options))
        assert (model.config.permuted, model.config.trained_modes) == (permuted, modes)


def test_xlnet_trains_lengths_and_the_mode_where_it_predicts_every_step():
    def trains(**options):
        objective = OBJECTIVES["xlnet"](make_random().config, **options)
        return objective.permuted, objective.predicts_length, objective.modes

    assert trains(partial_prediction=1) == trains(**ALL_RANKS) == (True, True, ("ar", "nar"))
    assert trains() == trains(partial_prediction=1, left_to_right_share=1.0) == (False, False, ("ar",))
    assert trains(left_to_right_share=0.0) == (False, False, ())
