"""ProphetNet and BANG: losses and gradients beside those of one prefix and one dense mask at a time; decoding."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_objectives import log_probs, pack
from test_training import make_data, make_model, options_of

from janus_fast import JanusConfig, Translator, engine, reference
from janus_fast.decoding.modes import options_of as decoding_options
from janus_fast.objectives import OBJECTIVES
from janus_fast.reference.beam_search import follow
from janus_fast.reference.linear_activation import ACTIVATIONS
from janus_fast.training.data import ParallelData
from janus_fast.training.options import TrainingOptions
from janus_fast.training.trainer import Trainer, objective_of
from janus_fast.training.validation import Validation

MASK, CASES = 4, [
    ("prophetnet", {}), ("prophetnet", {"ngram": 1}), ("prophetnet", {"ngram": 4, "attenuation": 0.5}),
    ("bang", {}), ("bang", {"bridge_length": 1}), ("bang", {"bridge_length": 12}),
]  # fmt: skip


def attend(attention, x, memory, mask=None):
    split = (attention.shape[1], -1)
    q, k, v = (
        F.linear(rows, layer.weight, layer.bias).unflatten(-1, split).transpose(0, 1)
        for rows, layer in ((x, attention.q_proj), (memory, attention.k_proj), (memory, attention.v_proj))
    )
    attended = F.scaled_dot_product_attention(q, k, v, mask).transpose(0, 1).flatten(1)
    return F.linear(attended, attention.out_proj.weight, attention.out_proj.bias)


def predictions(model, source, tokens, places, mask):
    """log P [rows, V] by a post-norm decoder of which row i sees row j where ``mask[i][j]``, and by length."""
    encoded = model.encode(torch.tensor(source), torch.tensor([0, len(source)], dtype=torch.int32))
    table = model.decoder
    x = table.scale * table.embed_tokens.weight[tokens] + table.embed_positions.weight[places]
    if table.layernorm_embedding is not None:
        x = table.layernorm_embedding(x)
    for layer in table.layers:
        x = layer.self_attn_layer_norm(x + attend(layer.self_attn, x, x, torch.tensor(mask)))
        x = layer.encoder_attn_layer_norm(x + attend(layer.encoder_attn, x, encoded))
        hidden = ACTIVATIONS[layer.activation](F.linear(x, layer.fc1.weight, layer.fc1.bias))
        x = layer.final_layer_norm(x + F.linear(hidden, layer.fc2.weight, layer.fc2.bias))
    length = F.linear(encoded.mean(0), table.embed_length.weight).float().log_softmax(-1)
    return F.linear(x, model.output_weight).log_softmax(-1), length


def ahead(model, source, target, known, further):
    """log P of the token ``further`` behind the next one, by one mask behind which nothing stands."""
    mask = [[j <= i for j in range(known)] + [False] for i in range(known)] + [[True] * known + [False]]
    tokens, places = [*target[:known], MASK], [*range(known), known - 1 + further]
    return predictions(model, source, tokens, places, mask)[0][-1]


def chain(model, source, target, known, masks):
    """log P of the tokens behind ``known`` ones, by masks of which each sees those before it."""
    rows = known + masks
    mask = [[j <= i for j in range(rows)] for i in range(rows)]
    return predictions(model, source, [*target[:known], *[MASK] * masks], [*range(rows)], mask)[0][known:]


def losses_by_definition(model, data, objective):
    """The weighted sum of all terms, and -log P by stream."""
    found = {name: [] for name in (*objective.streams, "length")}
    for source, target in ((s.tolist(), t.tolist()) for s, t in zip(data.sources, data.targets, strict=True)):
        n = len(target)
        for known in range(1, n):
            for name in objective.streams:
                further = 0 if name == "ar" else int(name[5:]) if name.startswith("ahead") else n
                if known + further < n:
                    log_p = ahead(model, source, target, known, further)
                    found[name].append((log_p, target[known + further]))
            if "bridge" in found:
                masks = min(objective.bridge_length, n - known)
                rows = chain(model, source, target, known, masks)
                found["bridge"] += zip(rows, target[known : known + masks], strict=True)
        if "nar" in found:
            canvas = [target[0], *[MASK] * (n - 2), target[-1]]
            log_p, length = predictions(model, source, canvas, [*range(n)], [[True] * n] * n)
            found["nar"] += zip(log_p[1:-1], target[1:-1], strict=True)
            found["length"].append(-length[n])
    total, nll = 0.0, {}
    for name in objective.streams:
        nll[name] = torch.stack([-log_p[token] for log_p, token in found[name]] or [torch.zeros(()).double()]).mean()
        uniform = torch.stack([-log_p.mean() for log_p, _ in found[name]] or [torch.zeros(()).double()]).mean()
        total = total + objective.cross_entropy[name] * (0.9 * nll[name] + 0.1 * uniform)
    if found["length"]:
        nll["length"] = torch.stack(found["length"]).mean()
        total = total + 0.1 * nll["length"]
    return total, nll


def gradients(model, loss):
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True, materialize_grads=True)
    return {name: gradient for (name, _), gradient in zip(model.named_parameters(), found, strict=True)}


@pytest.mark.parametrize("seed", [0, 1, None])
@pytest.mark.parametrize("name, options", CASES)
def test_losses_and_gradients_are_those_of_the_definition(name, options, seed):
    model = make_model(dropout=0.0).double()
    words = [np.array([0, 7, 2])]  # fewer than some of the streams look ahead
    data = ParallelData(words, words, [0]) if seed is None else make_data(5, seed)
    assert model.config.mask_token_id == MASK
    objective = objective_of(TrainingOptions(objective=name, **options), model.config)
    expected, nll = losses_by_definition(model, data, objective)
    found, terms = objective.loss(model, pack(objective, data))
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7)  # the lengths' loss is in float32
    for stream, value in nll.items():
        own = terms[stream if stream == "length" else f"{stream}_nll"]
        torch.testing.assert_close(own.double(), value.detach().double(), atol=1e-6, rtol=1e-6)
    wanted = gradients(model, expected)
    for parameter, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, wanted[parameter], atol=1e-7, rtol=1e-6, msg=parameter)
    shares = [objective.loss(model, pack(objective, data, share=(rank, 2)))[0] for rank in range(2)]
    torch.testing.assert_close(sum(shares), expected, atol=1e-7, rtol=1e-7)
    single = make_model(dropout=0.0)  # by the kernels, in float32
    own = gradients(single, objective.loss(single, pack(objective, data))[0])
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for parameter, gradient in own.items():
        error = float((gradient.double() - wanted[parameter]).abs().max())
        assert error <= 64 * torch.finfo(torch.float32).eps * largest, parameter


@pytest.mark.parametrize("name, options", CASES)
def test_the_rows_that_decode_left_to_right_are_trained(name, options):
    """Those of ``autoregressive``, and what follows each prefix as a decoder without a cache has it."""
    data, model = make_data(5), make_model(dropout=0.0).double()
    found = log_probs(model, pack(OBJECTIVES[name](model.config, **options), data))["ar"]
    alone = log_probs(model, pack(OBJECTIVES["autoregressive"](model.config), data))["ar"]
    torch.testing.assert_close(found, alone, atol=1e-12, rtol=1e-12)
    decoded = []
    for source, target in zip(data.sources, data.targets, strict=True):
        offsets = torch.tensor([0, len(source)], dtype=torch.int32)
        encoded = model.encode(torch.tensor(source), offsets)
        decoded += [follow(model, encoded, offsets, target[1:known].tolist()) for known in range(1, len(target))]
    torch.testing.assert_close(found.float(), torch.stack(decoded))


def test_weights_are_those_of_the_original():
    config = make_model().config
    weights = OBJECTIVES["prophetnet"](config).cross_entropy
    assert weights == {"ar": 0.5, "ahead1": 0.5}
    weights = OBJECTIVES["prophetnet"](config, ngram=3, attenuation=0.5).cross_entropy
    assert weights == pytest.approx({"ar": 4 / 7, "ahead1": 2 / 7, "ahead2": 1 / 7})
    for options, message in [
        ({"objective": "prophetnet", "ngram": 9}, "train: ngram must be at most 8, got 9"),
        (
            {"objective": "prophetnet", "attenuation": 0.0},
            r"train: attenuation must be a finite number in \(0, 1\], got 0.0",
        ),
        ({"objective": "bang", "bridge_length": 0}, "train: bridge_length must be an integer of at least 1, got 0"),
        ({"objective": "bang", "ngram": 3}, "train: ngram must be left out with objective 'bang', got 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            TrainingOptions(**options)


def test_training_validates_with_what_an_objective_trains(monkeypatch):
    asked = {}

    class Decoder:
        def __init__(self, *_, **__):
            pass

        def translate(self, sources, mode, **options):
            asked[mode] = options
            return [SimpleNamespace(hypotheses=["a b"]) for _ in sources]

    monkeypatch.setattr("janus_fast.translator.Translator", Decoder)
    model, validation = make_model(), Validation(make_data(1), ["a"], ["a b"], ())
    for name, own in (("bang", {"iterations": 1}), ("janus", {})):
        assert [*validation.bleu(model, OBJECTIVES[name](model.config))] == ["bleu_ar", "bleu_nar"]
        assert asked == {"ar": {"beam_size": 1}, "nar": {**own, "rerank": False}}


def sentences():
    """Twelve pairs that differ in length and order, so that nothing but reading the source tells the target."""
    data = make_data(12, seed=5)
    assert len({tuple(target) for target in data.targets}) == 12
    return ParallelData(data.sources, data.targets, data.kept)


def test_a_model_says_how_far_ahead_its_streams_look(tmp_path):
    model, data = make_model(), make_data(8)
    assert "streams_ahead" not in json.loads(model.config.to_json())  # which earlier releases do not know
    for name, options, ahead, modes in (
        ("prophetnet", {}, 1, ("ar", "speculative")), ("prophetnet", {"ngram": 4}, 3, ("ar", "speculative")),
        ("prophetnet", {"ngram": 1}, 0, ("ar",)), ("bang", {}, 0, ("ar", "nar", "semi_nar", "speculative")),
    ):  # fmt: skip
        Trainer(model, data, tmp_path, options_of(objective=name, **options))
        assert (model.config.streams_ahead, model.config.trained_modes) == (ahead, modes)
        assert JanusConfig.from_json(model.config.to_json()) == model.config
    for options, message in (
        ({"streams_ahead": 8}, "streams_ahead must be at most 7, got 8"),
        ({"streams_ahead": -1}, "streams_ahead must be an integer of at least 0, got -1"),
        ({"streams_ahead": 1, "two_stream": False},
         "two_stream must be True with streams_ahead, as an ordinary Transformer .*, got False"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^JanusConfig: {message}"):
            make_model(**options)
    with pytest.raises(ValueError, match="must be .*ar.* for a one-stream model"):
        OBJECTIVES["prophetnet"](make_model(two_stream=False).config)


@pytest.mark.parametrize("name, streams", [("prophetnet", {}), ("prophetnet", {"ngram": 4}), ("bang", {})])
def test_a_small_corpus_is_learned_by_heart_and_decoded_in_each_mode(tmp_path, name, streams):
    data, model = sentences(), make_model(dropout=0.0, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64)
    options = options_of(
        objective=name, **streams, max_updates=200, max_tokens=400, learning_rate=1e-2, warmup_updates=20,
        decay_updates=80, label_smoothing=0.0, weight_decay=0.0, save_interval=200, precision="float32",
    )  # fmt: skip
    trainer = Trainer(model, data, tmp_path, options)
    trainer.train()
    model.eval()
    with torch.no_grad():
        _, terms = trainer.objective.loss(model, pack(trainer.objective, data))
    terms = {term: float(value) for term, value in terms.items() if term.endswith("_nll") or term == "length"}
    assert terms["ar_nll"] < 0.05 and max(terms.values()) < 0.1, terms
    sources, targets = ([side.tolist() for side in sides] for sides in (data.sources, data.targets))
    modes = {
        "ar": {"beam_size": 1},
        "nar": {"iterations": 1, "length_beam": 1},
        "semi_nar": {"block_length": 4},
        "speculative": {"drafter": "model", "draft_length": 3},
    }
    backends = ["torch"] if engine.missing() else ["torch", "engine"]
    for mode, own in ((mode, modes[mode]) for mode in trainer.objective.modes):
        definition = {"ar": "beam_search", "nar": "mask_predict"}.get(mode, mode)
        by_definition = getattr(reference, definition)(model, sources, decoding_options(mode, own, model.config))
        assert [found[0].ids for found in by_definition] == [target[1:-1] for target in targets], mode
        for translator in (Translator(model, backend=backend) for backend in backends):
            results = translator.generate(sources, mode=mode, **own)
            assert [result.hypotheses[0] for result in results] == [target[1:-1] for target in targets], mode
            passes = sum(result.iterations[0] for result in results)
            if mode == "semi_nar":
                assert passes == sum(-(-(len(target) - 1) // 4) for target in targets)
            if (mode, translator.backend) == ("speculative", "torch"):  # drafts that are right save passes
                words = [len(target) - 1 for target in targets]
                if ahead := model.config.streams_ahead:  # all but the first pass check as many words
                    assert passes == sum(1 + -(-(n - 1) // (1 + ahead)) for n in words) < 0.7 * sum(words)
                else:
                    assert passes < 0.6 * sum(words)
            for source, result in zip(sources, results, strict=True):
                assert translator.generate([source], mode=mode, **own)[0].hypotheses == result.hypotheses
