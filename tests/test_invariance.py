"""Backend "torch" on the CPU: what a sentence becomes depends neither on its batch nor on threads, to the bit."""

import pytest
import torch
from test_decoding import MODES, make_model, make_sources

from janus_fast import Translator, linear, ops
from janus_fast.ops import _native

if _native.missing is not None:
    pytest.skip(_native.missing, allow_module_level=True)

MODELS = {
    "post-norm": {},
    "pre-norm, gelu": {"normalize_before": True, "activation": "gelu", "positions": "sinusoidal"},
    "sizes of no vector": {
        "d_model": 18, "attention_heads": 2, "encoder_ffn_dim": 27, "decoder_ffn_dim": 29, "activation": "quick_gelu",
        "output_bias": True,
    },
    "one stream": {"two_stream": False, "activation": "silu", "decoder_start_token_id": 2, "source_bos": False},
}  # fmt: skip
SAMPLING = {"beam_size": 1, "sampling_topk": 5, "sampling_temperature": 1.3, "num_hypotheses": 3, "seed": 11}
CASES = {
    **MODES,
    "sampling": SAMPLING,
    "no end": {"beam_size": 2, "min_decoding_length": 23, "max_decoding_length": 23},
    "given to other words": {"beam_size": 3, "renormalize_logits": True, "min_decoding_length": 3},
    "easy first": {"mode": "nar", "order": "easy_first", "num_hypotheses": 3},
}


@pytest.fixture(params=_native.isas())
def isa(request):
    with _native.use_isa(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_rows_of_a_layer_do_not_depend_on_each_other(activation, dtype, isa):
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((200, 70), (150, 70), (150,)))
    together = ops.linear_activation(x, weight, bias, activation, backend="cpp")
    for rows in (1, 2, 3, 4, 5, 6, 7, 13, 97, 199):
        for begin in (0, 200 - rows):
            part = x[begin : begin + rows]
            assert torch.equal(ops.linear_activation(part, weight, bias, activation), together[begin : begin + rows])
    some = torch.arange(149, 0, -7)  # outputs do not, either
    assert torch.equal(ops.linear_activation(x, weight[some], bias[some], activation), together[:, some])


# Options decide which rows a program has, the type how a row is computed: each case in float32, each mode in bfloat16.
NARROW = [
    *((name, case) for name in ("sizes of no vector", "post-norm", "pre-norm, gelu") for case in ("beam", "nar")),
    ("one stream", "beam"),
]
RUNS = [
    *((*run, "bfloat16") for run in NARROW),
    *((*run, "float32") for run in dict.fromkeys([*NARROW, *(("sizes of no vector", case) for case in CASES)])),
]


@pytest.mark.parametrize("name, case, compute_type", RUNS)
def test_neither_batch_nor_threads_change_a_bit(name, case, compute_type):
    model, sources = make_model(**MODELS[name]), make_sources(4)
    one, two = (Translator(model, compute_type=compute_type, intra_threads=n, backend="torch") for n in (1, 2))
    expected = [one.generate([source], first_number=n, **CASES[case])[0] for n, source in enumerate(sources)]
    for size, translator in ((2, one), (64, two)):
        assert translator.generate(sources, max_batch_size=size, **CASES[case]) == expected


def test_products_are_ours_where_no_gradients_are_wanted():
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    assert linear.runs_row_by_row(x, weight, None) and linear.runs_row_by_row(x.bfloat16(), weight.bfloat16(), None)
    assert not linear.runs_row_by_row(x.double(), weight.double(), None) and not linear.runs_row_by_row(
        x.to("meta"), weight, None
    )
    assert not linear.runs_row_by_row(x, weight.requires_grad_(), None)
    with torch.no_grad():
        assert linear.runs_row_by_row(x, weight, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert not linear.runs_row_by_row(x, weight, None)
