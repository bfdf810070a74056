"""Decoding that never waits for the host, run eagerly on the CPU, against what is run where the host may look; what a
GPU would be asked to do, on tensors without contents; and, where there is a GPU, recorded graphs.
"""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import emulated
import pytest
import torch
from gpu import launches
from gpu.launches import Recorded
from test_decoding import make_model, make_sources, rounding_error
from torch.utils._python_dispatch import TorchDispatchMode

from janus_fast import JanusConfig, JanusModel, Translator, ops, torch_backend
from janus_fast.decoding import AutoregressiveOptions, NonAutoregressiveOptions, SpeculativeOptions, beam_search
from janus_fast.decoding import decoder as on_device
from janus_fast.decoding.fused import FusedModel
from janus_fast.decoding.modes import MODES
from janus_fast.decoding.runtime import Eager, Graphs
from janus_fast.inputs import option
from janus_fast.ops._operation import Operation

pytestmark = pytest.mark.gpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: no CUDA device is found here")


MODELS = {
    "post-norm": {},
    "pre-norm": {"normalize_before": True, "activation": "gelu", "positions": "sinusoidal"},
    "mask is unk": {"mask_token_id": 3, "output_bias": True},
    "separate embeddings": {"share_all_embeddings": False, "share_decoder_embeddings": False, "attention_heads": 2},
}
NAR = {
    "defaults": {},
    "all candidates": {"iterations": 6, "num_hypotheses": 3, "return_history": True},
    "one length": {"length_beam": 1, "iterations": 3},
    "one pass": {"iterations": 1, "length_beam": 2},
    "fixed": {"iterations": 5, "adaptive": False, "return_history": True, "num_hypotheses": 2},
    "likely lengths": {"length_candidates": "topk", "length_beam": 5, "num_hypotheses": 5, "score": "canvas"},
    "many passes": {"iterations": 12, "num_hypotheses": 3},
    "their own ranking": {"iterations": 6, "num_hypotheses": 3, "rerank": False},
    "one length, read": {"length_beam": 1, "rerank": True},
}
AR = {
    "greedy": {"beam_size": 1, "max_decoding_length": 22},
    "defaults": {"max_decoding_length": 12},
    "three": {"beam_size": 3, "num_hypotheses": 3, "length_penalty": 0.6, "max_decoding_length": 9},
    "five": {"beam_size": 5, "num_hypotheses": 5, "length_penalty": 0.0, "min_decoding_length": 5},
    "longest at once": {"beam_size": 2, "max_decoding_length": 1},
    "more than words": {"beam_size": 25, "num_hypotheses": 4, "max_decoding_length": 4},
    "from the first": {"beam_size": 4, "min_decoding_length": 0, "max_decoding_length": 10},
}
OPTIONS = {"nar": NonAutoregressiveOptions, "ar": AutoregressiveOptions}


def decoders(model):
    """One that works as with graphs, and one that lets the host look."""
    fused = FusedModel(model)
    return on_device.Decoder(fused, Recorded()), on_device.Decoder(fused, Eager())


def batches(count=3):
    """Ragged batches; those behind the first find buffers that others have used."""
    return [make_sources(size, seed=seed) for seed, size in enumerate((4, 2, 6)[:count])]


def assert_same(results, expected, tolerance):
    for group, definition in zip(results, expected, strict=True):
        assert [h.ids for h in group] == [h.ids for h in definition]
        assert [h.iterations for h in group] == [h.iterations for h in definition]
        assert [(h.history, h.predictions) for h in group] == [(h.history, h.predictions) for h in definition]
        for one, other in zip(group, definition, strict=True):
            assert one.token_scores == pytest.approx(other.token_scores, abs=tolerance)
            for certain, by_definition in zip(one.prediction_scores, other.prediction_scores, strict=True):
                assert certain == pytest.approx(by_definition, abs=tolerance)
            # a score sums up to as many errors as there are tokens
            assert one.score == pytest.approx(other.score, abs=24 * tolerance)


@pytest.fixture(scope="module", params=["float64", "float32"])
def case(request):
    """Model after model, in one type, with the tolerance of scores: each of the two may err as full forwards do."""

    def make(name):
        if name not in made:
            model = make_model(**MODELS[name])
            tolerance = 4 * rounding_error(model, request.param) + 2e-6  # scores are handed out in float32
            model = model.to(getattr(torch, request.param)).requires_grad_(False)
            made[name] = *decoders(model), tolerance
        return made[name]

    made = {}
    return make


CASES = [*(("nar", label) for label in NAR), *(("ar", label) for label in AR)]


def options_of(mode, label):
    return OPTIONS[mode](**(NAR if mode == "nar" else AR)[label])


@pytest.mark.parametrize("mode, label", CASES, ids=[" ".join(case) for case in CASES])
@pytest.mark.parametrize("name", MODELS)
def test_results_are_those_of_a_host_that_looks(name, mode, label, case):
    recorded, eager, tolerance = case(name)
    options = options_of(mode, label)
    for sources in batches():
        assert_same(recorded.decode(sources, options), eager.decode(sources, options), tolerance)


@pytest.mark.parametrize("label", ["greedy", "three"])
def test_an_ordinary_transformer_is_searched(label):
    model = make_model(two_stream=False, decoder_start_token_id=1, output_bias=True).double().requires_grad_(False)
    model.output_bias.normal_(generator=torch.Generator().manual_seed(0))
    model.output_bias[model.config.pad_token_id] = -1e4  # as in converted models
    recorded, eager = decoders(model)
    options = options_of("ar", label)
    for sources in batches():
        assert_same(recorded.decode(sources, options), eager.decode(sources, options), 2e-6)


WHOLE = {  # searches, and how many of their batches have few enough rows for one operation
    "post-norm": ({"two_stream": False}, AutoregressiveOptions(beam_size=1, max_decoding_length=9), 3),
    "pre-norm": (
        {"two_stream": False, **MODELS["pre-norm"]},
        AutoregressiveOptions(beam_size=2, max_decoding_length=9),
        2,
    ),
    "two streams": ({}, AutoregressiveOptions(beam_size=1, max_decoding_length=9), 2),
    "drafts": ({}, SpeculativeOptions(max_decoding_length=9, draft_length=1), 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_steps_decode_what_layers_do(name, monkeypatch):
    changes, options, few = WHOLE[name]
    model = make_model(d_model=64, **changes).double().requires_grad_(False)  # heads of 16
    (layers, _), steps = decoders(model), []
    expected = [layers.decode(sources, options) for sources in batches()]
    whole = on_device.Decoder(FusedModel(model, whole_steps=True), Recorded())
    run = ops.decoder_step
    monkeypatch.setattr(ops, "decoder_step", lambda *given, **options: steps.append(given) or run(*given, **options))
    ran = []
    for sources, results in zip(batches(), expected, strict=True):
        before = len(steps)
        assert_same(whole.decode(sources, options), results, 2e-6)
        ran.append(len(steps) > before)
    assert sum(ran) == few


def test_whole_steps_hold_no_parameter_twice():
    model = make_model(d_model=64).requires_grad_(False)
    expected = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fused = FusedModel(model, whole_steps=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    own = {p.untyped_storage().data_ptr() for p in model.decoder.layers[1].self_attn.out_proj.parameters()}
    assert own == {fused.packed.untyped_storage().data_ptr()}
    assert {p.untyped_storage().data_ptr() for p in fused.projections[model.decoder.layers[1]]} == own
    sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(sizes.values()) == sum(p.nbytes for p in model.parameters())


def test_canvases_that_find_no_room_are_given_more(monkeypatch):
    monkeypatch.setattr(on_device, "FIRST_GUESS", 0.1)
    model = make_model().double().requires_grad_(False)
    decoder, eager = decoders(model)
    options = NonAutoregressiveOptions()
    (sources,) = batches(1)
    assert_same(decoder.decode(sources, options), eager.decode(sources, options), 2e-6)
    rooms = [key[2] for key in decoder._programs]
    assert len(rooms) == 2 and rooms[0] < rooms[1]
    decoder.decode(sources, options)
    assert [key[2] for key in decoder._programs] == rooms, "a second time, enough room is taken at once"


def test_programs_are_forgotten_when_there_are_too_many_and_caches_grow(monkeypatch):
    monkeypatch.setattr(on_device, "MOST_PROGRAMS", 2)
    model = make_model().double().requires_grad_(False)
    decoder, eager = decoders(model)
    for mode, beams in (("nar", 1), ("ar", 1), ("nar", 2), ("ar", 3), ("ar", 2), ("ar", 4)):
        options = OPTIONS[mode](**{"length_beam" if mode == "nar" else "beam_size": beams})
        (sources,) = batches(1)
        assert_same(decoder.decode(sources, options), eager.decode(sources, options), 2e-6)
        assert len(decoder._programs) <= 2


def settings_of(decoder):
    """What its programs depend on besides sizes."""
    return {key[3:] if key[0] == "mask_predict" else key[2:] for key in decoder._programs}


READ_BY_THE_HOST = {
    "ar": {
        "num_hypotheses": 3, "length_penalty": 0.2, "min_decoding_length": 3, "seed": 7,
        "max_decoding_length": 10**6,  # more than the model can
    },
    "nar": {"num_hypotheses": 2, "score": "canvas", "remove_repeats": True, "return_history": True},
}  # fmt: skip
READ_BY_PROGRAMS = {
    "ar": {"beam_size": 3, "max_decoding_length": 7},
    "nar": {"iterations": 3, "length_beam": 2, "length_candidates": "topk", "adaptive": False, "rerank": True},
}


@pytest.mark.parametrize("mode", OPTIONS)
def test_a_program_serves_all_calls_whose_options_it_does_not_read(mode):
    decoder, eager = decoders(make_model().double().requires_grad_(False))
    (sources,), host, own = batches(1), READ_BY_THE_HOST[mode], READ_BY_PROGRAMS[mode]
    fields = {name for name, field in MODES[mode].fields.items() if "cuda" in field.metadata["on"]}
    assert fields == {*host, *own}
    plain = {"rerank": False} if mode == "nar" else {}  # by which ``score`` ranks
    for number, given in enumerate([plain, *({**plain, name: value} for name, value in own.items())]):
        free = {k: v for k, v in host.items() if k not in ("score", "remove_repeats") or not given["rerank"]}
        for more in ({}, *({name: value} for name, value in free.items() if name not in given), {}):
            options = OPTIONS[mode](**{**more, **given})
            assert_same(decoder.decode(sources, options), eager.decode(sources, options), 2e-6)
            assert len(settings_of(decoder)) == number + 1


@pytest.mark.parametrize("kind", OPTIONS.values())
def test_a_new_option_is_another_program_unless_the_host_alone_reads_it(kind):
    @dataclass
    class More(kind):
        read: float = option(0.0, None, "a new option", on=("cuda", "torch"))
        unread: float = option(0.0, None, "another", on=("cuda", "torch"), recorded=False)

    decoder, (sources,) = decoders(make_model().requires_grad_(False))[0], batches(1)
    for options, count in ((More(), 1), (More(unread=0.5), 1), (More(read=0.5), 2), (More(), 2)):
        decoder.decode(sources, options)
        assert len(settings_of(decoder)) == count


@pytest.mark.parametrize("label", ["greedy", "five", "sampling", "host"])
def test_caches_of_what_is_not_recorded_grow_with_the_outputs(label, monkeypatch):
    """And give what caches of one size do, to the bit."""
    more = {
        "sampling": {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 3, "seed": 1},
        "host": {"beam_size": 3, "no_repeat_ngram_size": 2, "min_decoding_length": 6},
    }
    options = AutoregressiveOptions(**{**AR, **more}[label])
    decoder, (sources,), results = decoders(make_model().requires_grad_(False))[1], batches(1), []
    for first in (10**6, 1, 2, 7):
        monkeypatch.setattr(on_device, "FIRST_POSITIONS", first)
        results.append(decoder.decode(sources, options, range(len(sources))))
    assert max(len(h.ids) for group in results[0] for h in group) > 5
    assert results[1:] == results[:1] * 3


@pytest.mark.parametrize("first, most", [(1, 4), (16, 16)])
def test_a_short_output_takes_no_caches_for_the_longest(first, most, monkeypatch):
    monkeypatch.setattr(on_device, "FIRST_POSITIONS", first)
    model = make_model(output_bias=True, max_target_positions=600).requires_grad_(False)
    model.output_bias[model.config.eos_token_id] = 100.0
    decoder, searches, (sources,) = decoders(model)[1], [], batches(1)
    search = decoder.search
    monkeypatch.setattr(decoder, "search", lambda *rest: searches.append(search(*rest)) or searches[-1])
    results = decoder.decode(
        sources, AutoregressiveOptions(beam_size=4, min_decoding_length=2, max_decoding_length=500)
    )
    assert all(len(group[0].ids) == 2 for group in results)
    config, caches = model.config, searches[0][0].caches
    assert caches.nbytes <= config.decoder_layers * len(sources) * most * 4 * 2 * config.d_model * 4
    assert caches.untyped_storage().nbytes() == caches.nbytes


def test_nothing_finite_is_an_error():
    model = make_model().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(1e18)  # finite weights, infinite products
    for decoder in decoders(model):
        for options, what in ((AutoregressiveOptions(), "source"), (NonAutoregressiveOptions(), "length")):
            with pytest.raises(FloatingPointError, match=f"generate: every {what} must have"):
                decoder.decode(make_sources(3), options)
    model = make_model().requires_grad_(False)
    model.decoder.layers[-1].fc2.bias.fill_(3e38)  # only what the decoder predicts is infinite
    for decoder in decoders(model):
        with pytest.raises(FloatingPointError, match="generate: every prediction must have"):
            decoder.decode(make_sources(3), NonAutoregressiveOptions())


def test_the_host_looks_at_a_search_every_few_steps():
    """And when it looks, it has asked for more steps: it need not wait for the last one."""
    events = []

    class Watched(Recorded):
        def record(self, function):
            return lambda: events.append(function.__name__) or function()

        def download(self, *tensors):
            wait, number = super().download(*tensors), len(events)
            events.append("copy")
            return lambda: events.append(f"see {number}") or wait()

    model = make_model().double().requires_grad_(False)
    options = AutoregressiveOptions(beam_size=2, max_decoding_length=20)
    on_device.Decoder(FusedModel(model), Watched()).decode(make_sources(3), options)
    *loop, results, _ = events  # the last copy is the results'
    looks = [event.split()[1] for event in loop if event.startswith("see")]
    assert loop[0] == "begin" and results == "copy" and looks
    for copied in map(int, looks):
        steps = loop[copied : loop.index(f"see {copied}")].count("step")
        assert steps == beam_search.STEPS_BETWEEN_LOOKS, "nobody waits for a copy before more steps have been asked for"


# ------------------------------------------------------------- what a GPU is asked to do, on tensors without contents


class StaysOnTheDevice(TorchDispatchMode):
    """Fails where an operator goes between the device and the host, besides what fails for want of data."""

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        results = operator(*arguments, **(options or {}))
        tensors = [
            t for t in torch.utils._pytree.tree_leaves((arguments, options, results)) if isinstance(t, torch.Tensor)
        ]
        devices = {t.device.type for t in tensors}
        if len(devices) > 1:
            raise AssertionError(f"{operator} goes between {sorted(devices)}")
        return results


class Host(Recorded):
    """Of what is downloaded, numbers that stand for unfinished sentences."""

    def upload(self, buffer, values):
        pass

    def download(self, *tensors):
        return lambda: [self] * len(tensors)

    def item(self):
        return 1


@pytest.fixture
def programs(monkeypatch):
    """A refinement and a search whose tensors hold nothing, so that nothing can wait for what they hold.

    Operations choose their native kernels, as on a GPU.
    """
    monkeypatch.setattr(Operation, "candidates", lambda self, device: ("cpp", "reference"))
    config = JanusConfig(100, 100, d_model=32, encoder_layers=2, decoder_layers=3)
    with torch.no_grad(), torch.device("meta"):
        decoder = on_device.Decoder(FusedModel(JanusModel(config).eval().requires_grad_(False)), Host())
        refinement, _ = decoder.refinement((4, 80), 256, NonAutoregressiveOptions(4, 3, rerank=True))
        search, *parts = decoder.search((4, 80), AutoregressiveOptions(3, max_decoding_length=20))
        with StaysOnTheDevice():
            yield {
                "refinement": (refinement, refinement.run),
                "search": (search, lambda: search.run(Host(), *parts, AutoregressiveOptions())),
            }


@pytest.mark.parametrize("name", ["refinement", "search"])
def test_nothing_waits_for_the_host(name, programs):
    _, run = programs[name]
    run()


def test_lengths_that_no_kernel_takes_do_not_wait_either(programs, monkeypatch):
    """Of more classes and channels than shared memory holds they are the definition's."""
    operation, refinement = ops.OPERATIONS["predict_lengths"], programs["refinement"][0]
    monkeypatch.setattr(Operation, "candidates", lambda self, _: ("cpp", "reference")[self is operation :])
    refinement.begin()


MESSAGES = "meta|Meta|goes between"
PLANTED = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "boolean index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "data as repeats": lambda x: x.repeat_interleave(x.long()),
    "cpu": lambda x: x.cpu(),
    "from the host": lambda x: torch.tensor([1.0], device="cpu").to(x.device),
    "size from data": lambda x: torch.arange(int(x[0])),
}


@pytest.mark.parametrize("name", ["refinement", "search"])
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_wait_is_found(planted, name, programs, monkeypatch):
    program, run = programs[name]
    decoder = program.model.model.decoder
    finish = decoder.finish

    def waits(x):
        PLANTED[planted](x[:, 0])
        return finish(x)

    monkeypatch.setattr(decoder, "finish", waits)
    with pytest.raises((AssertionError, RuntimeError, TypeError), match=MESSAGES):
        run()


# ------------------------------------------------------------------------------------------------------ launches


def documented_launches(title):
    """A section of the documentation, and the operators that its table counts."""
    text = (emulated.ROOT / "docs/gpu-kernels.md").read_text()
    table = text.split(f"## {title}\n")[1].split("\n## ")[0]
    documented = Counter()
    for count, operators in re.findall(r"^\| (\d+) \| (`.*?`) \|", table, re.M):
        names = re.findall(r"`(\w+)`", operators)
        documented.update(dict.fromkeys(names, int(count) // len(names)))
    return table, documented


def test_launches_of_a_pass_are_those_of_the_documentation():
    table, documented = documented_launches("Launches of a refinement pass")
    assert documented == launches.refinement()[1]
    assert f"That is {documented.total()}." in table
    assert f"A step of a search has {launches.search()[1].total()}" in table


def test_launches_of_a_greedy_step_are_those_of_the_documentation():
    table, documented = documented_launches("Launches of a step of greedy search")
    begin, step = launches.search(1, 1, two_stream=False)
    assert documented == step
    assert f"That is {documented.total()};" in table and f"the beginning ({begin.total()} operators)" in table
    whole = launches.search(1, 1, whole_steps=True, two_stream=False)[1]
    assert f"a step then has {whole.total()} operators" in table and whole["decoder_step"] == 1


def test_launches_of_a_pass_do_not_depend_on_settings_but_layers():
    six, seven = (launches.refinement(decoder_layers=layers)[1] for layers in (6, 7))
    assert dict(seven - six) == {"addmm": 5, "attention": 2, "add_layer_norm": 3, "_addmm_activation": 1}
    assert launches.refinement(encoder_layers=1)[1] == six
    assert launches.refinement(adaptive=False)[1] == six
    x = torch.ones(3)
    assert launches.launches_of(lambda: torch.empty_like(x.view(1, 3)).copy_(x)) == Counter(copy_=1)


# ------------------------------------------------------------------------------------------------------ on a GPU


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mode, label", CASES, ids=[" ".join(case) for case in CASES])
def test_recorded_graphs_decode_what_the_same_programs_do_eagerly(mode, label, dtype):
    model = make_model(d_model=64).to("cuda", dtype).requires_grad_(False)  # heads of 16
    if (reason := torch_backend.missing("cuda", str(dtype).removeprefix("torch."), model.config)) is not None:
        pytest.skip(reason)
    fused, runtimes = FusedModel(model), (Graphs(torch.device("cuda")), Recorded())
    recorded, eager = (on_device.Decoder(fused, runtime) for runtime in runtimes)
    options = options_of(mode, label)
    for sources in batches() + batches():  # recorded, and replayed
        assert_same(recorded.decode(sources, options), eager.decode(sources, options), 0.0)


@needs_gpu
def test_translators_in_several_threads_decode_what_they_do_alone():
    """Recording included: each sees shapes for the first time while the other decodes."""
    model = make_model(d_model=64)

    def decode(mode: str) -> list:
        translator = Translator(model, device="cuda", compute_type="bfloat16", backend="cuda")
        return [r.hypotheses for sources in batches() + batches() for r in translator.generate(sources, mode=mode)]

    modes = ["nar", "ar"] * 2
    alone = {mode: decode(mode) for mode in set(modes)}
    with ThreadPoolExecutor(len(modes)) as pool:
        together = list(pool.map(decode, modes))
    for mode, found in zip(modes, together, strict=True):
        assert found == alone[mode]


@needs_gpu
def test_programs_are_recorded_again_when_all_have_been_forgotten(monkeypatch):
    monkeypatch.setattr(on_device, "MOST_PROGRAMS", 1)
    model = make_model(d_model=64).to("cuda", torch.bfloat16).requires_grad_(False)
    fused, runtimes = FusedModel(model), (Graphs(torch.device("cuda")), Recorded())
    recorded, eager = (on_device.Decoder(fused, runtime) for runtime in runtimes)
    for mode, label in CASES[:2] + CASES[-7:]:
        options = options_of(mode, label)
        (sources,) = batches(1)
        assert_same(recorded.decode(sources, options), eager.decode(sources, options), 0.0)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_steps_are_recorded(name, dtype):
    """And in float32 decode what layers do."""
    changes, options, _ = WHOLE[name]
    model = make_model(d_model=64, **changes)
    tolerance = 4 * rounding_error(model, "float32") + 2e-6
    model = model.to("cuda", dtype).requires_grad_(False)
    layers = on_device.Decoder(FusedModel(model), Eager())
    expected = [layers.decode(sources, options) for sources in batches()]
    fused, runtimes = FusedModel(model, whole_steps=True), (Graphs(torch.device("cuda")), Recorded())
    recorded, eager = (on_device.Decoder(fused, runtime) for runtime in runtimes)
    for sources, by_layers in zip(batches() * 2, expected * 2, strict=True):
        assert_same(results := recorded.decode(sources, options), eager.decode(sources, options), 0.0)
        if dtype == torch.float32:
            assert_same(results, by_layers, tolerance)


@needs_gpu
def test_whole_steps_are_asked_for_by_the_environment(monkeypatch):
    model = make_model(d_model=64, two_stream=False)
    (sources,) = batches(1)
    decode = lambda: Translator(model, device="cuda", backend="cuda").generate(sources, beam_size=1)  # noqa: E731
    expected, steps, run = decode(), [], ops.decoder_step
    monkeypatch.setattr(ops, "decoder_step", lambda *given, **options: steps.append(given) or run(*given, **options))
    monkeypatch.setenv("JANUS_FAST_WHOLE_STEPS", "1")
    assert [r.hypotheses for r in decode()] == [r.hypotheses for r in expected] and steps
