"""Which backend decodes: what recorded programs refuse and leave to torch, what torch lacks, which type is fastest."""

import contextlib
import re
from dataclasses import dataclass

import pytest
import torch
from gpu.launches import Recorded
from test_decoding import make_model, make_sources
from torch._subclasses import FakeTensorMode

from janus_fast import JanusConfig, Translator, backend, torch_backend
from janus_fast import translator as translator_module
from janus_fast.decoding import AutoregressiveOptions, NonAutoregressiveOptions, SpeculativeOptions
from janus_fast.decoding import decoder as on_device
from janus_fast.decoding.modes import MODES
from janus_fast.inputs import option
from janus_fast.ops import _native, _triton
from janus_fast.ops._operation import Operation

pytestmark = pytest.mark.gpu


REFUSED = [
    ({"beam_size": 1, "sampling_topk": 5}, "sampling draws its random numbers on the host"),
    ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size looks for repeated n-grams on the host"),
    ({"mode": "speculative", "draft": [[7]]}, "texts are searched for drafts by the host"),
    ({"mode": "speculative", "drafter": "source"}, "texts are searched for drafts by the host"),
    ({"target_prefix": [[7]]}, "target_prefix is put into hypotheses by the host"),
    ({"beam_size": 33}, "a step of beam search takes at most 32 hypotheses, not 33"),
]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The CUDA backend with nothing recorded, on the CPU."""
    refuse = backend.refusal
    monkeypatch.setattr(
        backend,
        "refusal",
        lambda name, *rest: None if name == "cuda" else "not here" if name == "engine" else refuse(name, *rest),
    )
    monkeypatch.setattr(torch_backend, "Graphs", lambda device: Recorded())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


@pytest.mark.parametrize("kind", [AutoregressiveOptions, NonAutoregressiveOptions, SpeculativeOptions])
def test_an_option_that_does_not_say_that_the_gpu_has_it_is_refused(kind):
    @dataclass
    class More(kind):
        novelty: float = option(0.0, None, "a new option")

        def __post_init__(self):
            pass

    config = JanusConfig(8, 8)
    assert on_device.refusal(More(), config) is None
    assert on_device.refusal(More(novelty=0.5), config) == "it has no novelty"
    assert all("torch" in field.metadata["on"] for mode in MODES.values() for field in mode.fields.values())


def test_auto_leaves_to_torch_what_cannot_stay_on_the_device_and_says_why(as_on_a_gpu):
    model, sources = make_model(), make_sources(2)
    auto, torchs = Translator(model), Translator(model, backend="torch")
    insisting = Translator(model, backend="cuda")
    assert auto.backend == insisting.backend == "cuda" and auto.model.config == model.config
    for options in ({"mode": "nar"}, {"beam_size": 2}, {"mode": "speculative"}):
        expected = [r.hypotheses for r in torchs.generate(sources, **options)]
        for translator in (auto, insisting):
            assert [r.hypotheses for r in translator.generate(sources, **options)] == expected
            assert "cuda: chosen\n  torch: can run" in translator.explain(**options)
    for options, reason in REFUSED:
        expected = [r.hypotheses for r in torchs.generate(sources[:1], **options)]
        assert [r.hypotheses for r in auto.generate(sources[:1], **options)] == expected
        assert f"cuda: no: {reason}\n  torch: chosen" in auto.explain(**options)
        assert f"cuda: no: {reason}\n  torch: can run" in insisting.explain(**options)
        with pytest.raises(NotImplementedError, match=f"got 'cuda': {re.escape(reason)}"):
            insisting.generate(sources[:1], **options)


@pytest.mark.parametrize("kind", [AutoregressiveOptions, NonAutoregressiveOptions])
def test_an_option_that_torch_does_not_have_is_refused(kind, as_on_a_gpu, monkeypatch):
    @dataclass
    class More(kind):
        novelty: float = option(0.0, None, "a new option", on=("engine",))

    model, sources, refused = make_model(), make_sources(2), "got '{}': it has no novelty"
    auto, insisting, torchs = (Translator(model, backend=name) for name in ("auto", "cuda", "torch"))
    monkeypatch.setattr(translator_module, "options_of", lambda mode, given, *_: More(**given))
    for translator, name in ((auto, "torch"), (insisting, "cuda"), (torchs, "torch")):
        assert translator.generate(sources, novelty=0.0) == translator.generate(sources)
        with pytest.raises(NotImplementedError, match=f"^generate: backend must .*, {refused.format(name)}$"):
            translator.generate(sources, novelty=0.5)
        assert translator._backend.refusal(More(novelty=0.5)) == "it has no novelty"
        explained = translator.explain(novelty=0.5)
        assert explained.endswith("  cuda: no: it has no novelty\n  torch: no: it has no novelty")


def test_who_insists_on_cuda_where_there_is_none_gets_an_error():
    with pytest.raises(NotImplementedError, match="cuda: it runs on CUDA devices alone, not on 'cpu'"):
        Translator(make_model(), backend="cuda")
    with pytest.raises(NotImplementedError, match="cuda: it has no float64"):
        Translator(make_model(), device="cuda", backend="cuda", compute_type="float64")
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="cuda: torch cannot use 'cuda'"):
            Translator(make_model(), device="cuda", backend="cuda")
        with pytest.raises(ValueError, match="device must be usable by this torch, got 'cuda'"):
            Translator(make_model(), device="cuda")
    assert Translator(make_model(), backend="torch").explain(mode="nar").endswith("torch: chosen")


@pytest.mark.parametrize("compute_type, gpu, cpu", [("default", "float32", "float32"), ("auto", "bfloat16", "float32")])
def test_auto_is_the_fastest_type_of_the_device(compute_type, gpu, cpu):
    assert torch_backend.resolved(compute_type, "cuda:0") == gpu
    assert Translator(make_model(), backend="torch", compute_type=compute_type).compute_type == cpu


@pytest.mark.skipif(_native.cuda_missing is not None, reason=f"needs the CUDA kernels: {_native.cuda_missing}")
def test_a_type_that_attention_has_no_kernel_for_is_refused(monkeypatch):
    config = JanusConfig(100, 100, d_model=64, attention_heads=2)
    with FakeTensorMode():  # needs no GPU
        assert torch_backend.missing("cuda", "bfloat16", config) is None
        monkeypatch.setattr(Operation, "candidates", lambda self, device: ("reference",))
        reason = torch_backend.missing("cuda", "bfloat16", config)
    assert reason == "attention has no kernel for heads of 32 in torch.bfloat16, and its definition waits for the GPU"


@pytest.mark.skipif(_native.cuda_missing is not None, reason=f"needs the CUDA kernels: {_native.cuda_missing}")
@pytest.mark.skipif(_triton.missing is not None, reason=f"needs Triton: {_triton.missing}")
def test_float32_is_decoded_with_triton_s_attention(monkeypatch):
    config, large = (JanusConfig(100, 100, d_model=size, attention_heads=2) for size in (64, 320))
    without = "attention has no kernel for heads of {} in torch.float32, and its definition waits for the GPU"
    with FakeTensorMode():  # needs no GPU
        assert torch_backend.missing("cuda", "float32", config) is None
        assert torch_backend.missing("cuda", "float32", large) == without.format(160)
        monkeypatch.setattr(_triton, "missing", "Triton is not installed")
        assert torch_backend.missing("cuda", "float32", config) == without.format(32)
        assert torch_backend.missing("cuda", "bfloat16", config) is None
