"""The joint loss: its definition, gradients through its front page, autocast, compilation, errors."""

from importlib import import_module

import interpreted
import pytest
import torch
import torch.nn.functional as F
from errors import assert_refused

from janus_fast import joint_loss, ops
from janus_fast.ops import _native

PAIRS = (("ar", "nar"), ("ar", "aux"), ("nar", "aux"))
BACKENDS = ops.backends("joint_loss")


def case(dtype=torch.float64, vocabulary=11, channels=6, ar=7, masked=3):
    torch.manual_seed(0)
    weight = (torch.randn(vocabulary, channels, dtype=torch.float64) * channels**-0.5).to(dtype).requires_grad_()
    counts = {"ar": ar, "nar": masked, "aux": masked}
    hidden = {name: torch.randn(n, channels).to(dtype).requires_grad_() for name, n in counts.items()}
    targets = {name: torch.randint(vocabulary, (n,)) for name, n in counts.items()}
    return hidden, weight, targets, torch.randperm(ar)[:masked]


def gradients(total, hidden, weight):
    return torch.autograd.grad(total, [*hidden.values(), weight], materialize_grads=True)


def test_it_is_the_paper_s_objective():
    hidden, weight, targets, ar_masked = case()
    total, terms = joint_loss(hidden, weight, targets, ar_masked)
    p = {name: (rows @ weight.T).softmax(-1) for name, rows in hidden.items()}

    def ce(name):
        nll = -p[name][range(len(p[name])), targets[name]].log().mean()
        return 0.9 * nll - 0.1 * p[name].log().mean()

    def kl(a, b):
        a, b = (p[name][ar_masked] if name == "ar" else p[name] for name in (a, b))
        return sum(F.kl_div(q.log(), r, reduction="sum") / 3 for q, r in ((a, b), (b, a))) / 2

    expected = {f"{name}_ce": ce(name) for name in p} | {f"kl_{a}_{b}": kl(a, b) for a, b in PAIRS}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach())
        assert not terms[name].requires_grad
    sum_of_terms = ce("ar") + 0.5 * (ce("nar") + ce("aux")) + kl("ar", "nar") + 3 * kl("ar", "aux") + kl("nar", "aux")
    torch.testing.assert_close(total, sum_of_terms)
    found = gradients(total, hidden, weight)
    torch.testing.assert_close(found, gradients(sum_of_terms, hidden, weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_rows_give_zero(backend):
    hidden, weight, targets, ar_masked = case(torch.float32)
    empty = {name: rows[:0] for name, rows in hidden.items()}
    none = {name: t[:0] for name, t in targets.items()}
    total, terms = joint_loss(empty, weight, none, ar_masked[:0], backend=backend)
    assert total.item() == 0.0 and all(value.item() == 0.0 for value in terms.values())
    assert not any(gradient.any() for gradient in gradients(total, hidden, weight))


def test_a_frozen_weight_s_gradient_is_not_kept():
    hidden, weight, targets, ar_masked = case(torch.float32)
    for frozen in (weight.detach(), weight):
        total, _ = joint_loss(hidden, frozen, targets, ar_masked, backend="cpp")
        kept = [t.shape for t in total.grad_fn.saved_tensors if t is not None]
        assert (weight.shape in kept) == frozen.requires_grad
    rows = list(hidden.values())
    expected = torch.autograd.grad(total, rows)
    total, _ = joint_loss(hidden, weight.detach(), targets, ar_masked, backend="cpp")
    torch.testing.assert_close(torch.autograd.grad(total, rows), expected, rtol=0, atol=0)
    by_function = torch.func.grad(lambda h: joint_loss(h, weight.detach(), targets, ar_masked, backend="cpp")[0])(
        hidden
    )
    torch.testing.assert_close(tuple(by_function.values()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("detach", [{}, {("ar", "aux"): "ar"}, {("ar", "nar"): "nar", ("nar", "aux"): "aux"}])
def test_gradients_reach_rows_and_weight_but_no_detached_side(detach):
    hidden, weight, targets, ar_masked = case(torch.float32, 300, 40, 50, 21)
    exact = {name: rows.detach().double().requires_grad_() for name, rows in hidden.items()}
    exact_weight = weight.detach().double().requires_grad_()
    total, _ = joint_loss(hidden, weight, targets, ar_masked, detach=detach, backend="cpp")
    truth, _ = joint_loss(exact, exact_weight, targets, ar_masked, detach=detach)
    torch.testing.assert_close(total.double(), truth, atol=1e-6, rtol=1e-6)
    # 3 * total: the gradient that comes from above counts
    found, expected = gradients(3 * total, hidden, weight), gradients(3 * truth, exact, exact_weight)
    for gradient, true_gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), true_gradient, atol=1e-6, rtol=1e-5)
    if ("ar", "aux") in detach:  # a divergence alone, one side detached, moves the other one
        alone = {"cross_entropy": {}, "divergence": {("ar", "aux"): 1.0}, "detach": detach}
        total, _ = joint_loss(hidden, weight, targets, ar_masked, **alone)
        ar, nar, aux, _ = gradients(total, hidden, weight)
        assert not ar.any() and not nar.any() and aux.any()


def test_only_what_wants_a_gradient_gets_one():
    hidden, weight, targets, ar_masked = case(torch.float32)
    fixed = {name: rows.detach() for name, rows in hidden.items()}
    joint_loss(fixed, weight, targets, ar_masked)[0].backward()
    by_weight = weight.grad
    total, _ = joint_loss(hidden, weight, targets, ar_masked)
    for _ in range(2):  # twice through one graph
        weight.grad = None
        total.backward(retain_graph=True)
        assert torch.equal(weight.grad, by_weight)
    with torch.no_grad():
        alone, _ = joint_loss(hidden, weight, targets, ar_masked)
    assert torch.equal(alone, total) and not alone.requires_grad
    assert not joint_loss(fixed, weight.detach(), targets, ar_masked)[0].requires_grad


@pytest.mark.parametrize("streams", [("ar",), ("nar",), ("ar", "nar")])
def test_streams_that_are_left_out(streams):
    whole, weight, targets, ar_masked = case(torch.float32, 300, 40, 50, 21)
    hidden = {name: whole[name] for name in streams}
    total, terms = joint_loss(hidden, weight, targets, ar_masked)
    expected, all_terms = joint_loss(whole, weight, targets, ar_masked)
    assert set(terms) < set(all_terms)
    for name, value in terms.items():
        torch.testing.assert_close(value, all_terms[name], atol=1e-6, rtol=1e-6)
    weights = {"ar_ce": 1.0, "nar_ce": 0.5, "kl_ar_nar": 1.0}
    torch.testing.assert_close(total, sum(weights[name] * terms[name] for name in terms if name in weights))


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_have_the_names_and_the_pairs_of_the_caller(backend):
    """Five streams, two divergences of other rows than all, one of them without gradient on one side; plain torch."""
    make = torch.Generator().manual_seed(4)
    counts, vocabulary = {"one": 9, "two": 14, "three": 6, "four": 9, "five": 4}, 37
    weight = torch.randn(vocabulary, 8, generator=make).requires_grad_()
    hidden = {s: torch.randn(n, 8, generator=make).requires_grad_() for s, n in counts.items()}
    targets = {s: torch.randint(vocabulary, (n,), generator=make) for s, n in counts.items()}
    chosen = {"two": torch.randperm(14, generator=make)[:9]}
    weights = {"one": 0.3, "two": 1.0, "four": 2.0, "five": 0.7}
    divergence, detach = {("two", "one"): 1.5, ("one", "four"): 0.4}, {("two", "one"): "one"}
    options = {"cross_entropy": weights, "divergence": divergence, "label_smoothing": 0.2}
    total, terms = joint_loss(hidden, weight, targets, chosen, detach=detach, backend=backend, **options)
    found = gradients(total, hidden, weight)

    exact = {s: rows.detach().double().requires_grad_() for s, rows in hidden.items()}
    exact_weight = weight.detach().double().requires_grad_()
    logits = {s: rows @ exact_weight.T for s, rows in exact.items()}
    expected = sum(w * F.cross_entropy(logits[s], targets[s], label_smoothing=0.2) for s, w in weights.items())
    log_p = {s: (x[chosen[s]] if s in chosen else x).log_softmax(-1) for s, x in logits.items()}
    for (s, t), w in divergence.items():
        p, q = log_p[s], log_p[t].detach() if (s, t) in detach else log_p[t]
        both = [F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p))]
        torch.testing.assert_close(terms[f"kl_{s}_{t}"].double(), sum(both).detach() / 2, atol=1e-5, rtol=1e-5)
        expected = expected + w * sum(both) / 2
    torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(found, gradients(expected, exact, exact_weight), strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-4)
    assert set(terms) == {f"{s}_{kind}" for s in weights for kind in ("nll", "ce")} | {"kl_two_one", "kl_one_four"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_takes_rows_and_weight_in_its_dtype(backend):
    hidden, weight, targets, ar_masked = case(torch.float32, 300, 40, 50, 21)
    hidden["nar"] = hidden["nar"].detach().bfloat16().requires_grad_()  # as another operation under autocast made it
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = joint_loss(hidden, weight, targets, ar_masked, backend=backend)
    cast = {name: rows.bfloat16() for name, rows in hidden.items()}
    explicit, _ = joint_loss(cast, weight.bfloat16(), targets, ar_masked, backend=backend)
    assert total.dtype == torch.float32 and torch.equal(total, explicit)
    found = gradients(total, hidden, weight)
    assert [g.dtype for g in found] == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(explicit, hidden, weight), strict=True))


@pytest.mark.parametrize("autocast", [False, True])
def test_it_compiles_without_a_graph_break(autocast):
    hidden, weight, targets, ar_masked = case(torch.float32)

    def loss(hidden, weight):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return joint_loss(hidden, weight, targets, ar_masked)

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        total, terms = function(hidden, weight)
        results.append([total, *terms.values(), *gradients(total.sin(), hidden, weight)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("isa", _native.isas())
def test_not_a_number_shows(isa):
    for where in ("hidden", "weight"):
        hidden, weight, targets, ar_masked = case(torch.float32, 300, 40, 50, 21)
        with torch.no_grad():
            (hidden["nar"] if where == "hidden" else weight)[13, 5] = float("nan")
        with _native.use_isa(isa):
            total, terms = joint_loss(hidden, weight, targets, ar_masked, backend="cpp")
        ar, nar, aux, by_weight = gradients(total, hidden, weight)
        assert total.isnan() and terms["kl_nar_aux"].isnan() and nar[13].isnan().all() and by_weight.isnan().all()
        untouched = nar[torch.arange(21) != 13] if where == "hidden" else ar.new_zeros(0)
        assert untouched.isfinite().all() and terms["ar_ce"].isfinite().all() == (where == "hidden")


@pytest.fixture
def by_triton():
    """The Triton kernel's results, on the CPU, for flat arguments."""
    if interpreted.missing() and not torch.cuda.is_available():
        pytest.skip(interpreted.missing())
    kernel = import_module("janus_fast.kernels.joint_loss").joint_loss
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def compute(arguments, **options):
        results = kernel(*(a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments), **options)
        return [result.cpu() for result in results]

    return compute


SAMPLES = dict(ops.OPERATIONS["joint_loss"].samples())


@pytest.mark.gpu
def test_triton_kernel_takes_the_vocabulary_in_blocks(by_triton):
    whole = by_triton(SAMPLES["two_streams"])
    blocks = by_triton(SAMPLES["two_streams"], gradient_bytes=1)
    for one, other in zip(whole[:2] + whole[3:], blocks[:2] + blocks[3:], strict=True):
        assert torch.equal(one, other)
    # Rows of hidden get a sum over blocks, which rounds elsewhere.
    torch.testing.assert_close(blocks[2], whole[2], atol=1e-6 * whole[2].abs().max().item(), rtol=0)


@pytest.mark.gpu
def test_triton_kernel_lets_not_a_number_show(by_triton):
    hidden, *rest = SAMPLES["two_divergences"]
    hidden = hidden.clone()
    hidden[43, 5] = float("nan")  # the fourth row of nar
    total, terms, grad_hidden, grad_weight = by_triton((hidden, *rest))
    wrong = [False, True, False] * 2 + [False, True]  # ar, nar and aux twice; aux with ar, ar with nar
    assert total.isnan() and terms.isnan().tolist() == wrong
    assert grad_hidden[43].isnan().all() and grad_weight.isnan().all()
    position = [int(rest[2][3]), 43, 55]
    assert grad_hidden[[row for row in range(64) if row not in position]].isfinite().all()


@pytest.mark.gpu
def test_triton_kernel_refuses_what_is_no_token_and_no_row(by_triton):
    if torch.cuda.is_available():
        pytest.skip("the error ends the use of the GPU; it is read where Triton interprets its kernels, without one")
    hidden, weight, targets, ar_masked, *rest = SAMPLES["two_divergences"]
    with pytest.raises(RuntimeError, match=r"joint_loss: targets must be in \[0, V = 300\)"):
        by_triton((hidden, weight, targets + 300, ar_masked, *rest))
    for wrong in (-1, 40, ar_masked[1]):
        rows = ar_masked.clone()
        rows[0] = wrong
        with pytest.raises(RuntimeError, match=r"joint_loss: ar_masked must be distinct rows in \[0, 40\)"):
            by_triton((hidden, weight, targets, rows, *rest))
    hidden, weight, targets, ar_masked, *rest = SAMPLES["masked_streams"]  # 12 rows of each of three streams
    for stream, size in enumerate((20, 30, 25)):
        rows = ar_masked.clone()
        rows[12 * stream] = rows[12 * stream + 1]
        with pytest.raises(RuntimeError, match=rf"joint_loss: ar_masked must be distinct rows in \[0, {size}\)"):
            by_triton((hidden, weight, targets, rows, *rest))


H, W = torch.zeros(4, 8), torch.zeros(10, 8)
T = torch.zeros(4, dtype=torch.int64)
ROWS = torch.arange(4)


def call(hidden=None, weight=W, targets=None, ar_masked=ROWS, **options):
    hidden = dict.fromkeys(("ar", "nar", "aux"), H) if hidden is None else hidden
    return joint_loss(hidden, weight, dict.fromkeys(hidden, T) if targets is None else targets, ar_masked, **options)


ERRORS = {
    "logits": (
        lambda: joint_loss(H, W, T), TypeError,
        "joint_loss: hidden must be a dict from streams to [N, C] rows, not logits, "
        "got a tensor [4, 8]",
    ),
    "targets without streams": (
        lambda: call(targets=T), TypeError,
        "joint_loss: targets must be a dict from streams to [N] tokens, got a tensor [4]",
    ),
    "no streams": (
        lambda: call({}), ValueError,
        "joint_loss: hidden must hold from 1 to 8 streams, got 0",
    ),
    "streams": (
        lambda: call(dict.fromkeys("abcdefghi", H)), ValueError,
        "joint_loss: hidden must hold from 1 to 8 streams, got 9",
    ),
    "tied streams": (
        lambda: call(dict.fromkeys("abcd", H), divergence={("a", "b"): 1.0, ("c", "d"): 1.0}), ValueError,
        "joint_loss: divergence must tie at most 3 streams, got 4",
    ),
    "ar_masked that is a list": (
        lambda: call({"ar": H, "nar": H}, ar_masked=[3, 2, 1, 0]), TypeError,
        "joint_loss: ar_masked must be a tensor or a dict from streams to [M] rows, got list",
    ),
    "ar_masked of no stream": (
        lambda: call({"ar": H}, ar_masked={"nar": ROWS}), ValueError,
        "joint_loss: ar_masked must be of streams of hidden, got 'nar'",
    ),
    "term": (
        lambda: call({"ar": H}, cross_entropy={"nar": 1.0}), ValueError,
        "joint_loss: hidden must hold every stream that a term names, got no 'nar'",
    ),
    "hidden shape": (
        lambda: call({"ar": H[:, :5]}), ValueError,
        "joint_loss: hidden['ar'] must have shape [N, C] = [*, 8], got [4, 5]",
    ),
    "weight shape": (
        lambda: call(weight=W[0]), ValueError,
        "joint_loss: weight must have shape [V, C], got [8]",
    ),
    "no vocabulary": (
        lambda: call(weight=W[:0]), ValueError,
        "joint_loss: weight must have at least one row, got shape [0, 8]",
    ),
    "dtype": (
        lambda: call({"ar": H.double()}), TypeError,
        "joint_loss: hidden['ar'] must have the dtype of weight, torch.float32, got torch.float64",
    ),
    "device": (
        lambda: call({"ar": H.to("meta")}), ValueError,
        "joint_loss: hidden['ar'] must be on the device of weight, cpu, got meta",
    ),
    "no targets": (
        lambda: call({"ar": H}, targets={}), ValueError,
        "joint_loss: targets must hold every stream of cross_entropy, got no 'ar'",
    ),
    "targets of other rows": (
        lambda: call({"ar": H}, targets={"ar": T[:3]}), ValueError,
        "joint_loss: targets['ar'] must have shape [4], got shape [3]",
    ),
    "targets dtype": (
        lambda: call({"ar": H}, targets={"ar": T.int()}), TypeError,
        "joint_loss: targets['ar'] must be torch.int64, got torch.int32",
    ),
    "target that is no token": (
        lambda: call({"ar": H}, targets={"ar": T + 10}, backend="cpp"), RuntimeError,
        "joint_loss: targets must be in [0, V = 10), got 10",
    ),
    "no ar_masked": (
        lambda: call(ar_masked=None), ValueError,
        "joint_loss: ar_masked must be given when a divergence names 'ar', got None",
    ),
    "ar_masked dtype": (
        lambda: call(ar_masked=T.int()), TypeError,
        "joint_loss: ar_masked must be torch.int64, got torch.int32",
    ),
    "ar_masked of other rows": (
        lambda: call(ar_masked=T[:2]), ValueError,
        "joint_loss: streams 'ar' and 'nar' must predict the same rows, got 2 and 4",
    ),
    "ar_masked that is no row": (
        lambda: call(ar_masked=T.new_tensor([0, 1, 2, 4]), backend="cpp"), RuntimeError,
        "joint_loss: ar_masked must be distinct rows in [0, 4), got 4",
    ),
    "ar_masked twice": (
        lambda: call(ar_masked=T.new_tensor([0, 1, 2, 2]), backend="cpp"), RuntimeError,
        "joint_loss: ar_masked must be distinct rows in [0, 4), got 2",
    ),
    "pair twice": (
        lambda: call(divergence={("ar", "nar"): 1.0, ("nar", "ar"): 1.0}), ValueError,
        "joint_loss: divergence must name pairs of streams once, got ('ar', 'nar')",
    ),
    "pair of one": (
        lambda: call(divergence={("ar", "ar"): 1.0}), ValueError,
        "joint_loss: divergence must name pairs of streams once, got ('ar', 'ar')",
    ),
    "detach": (
        lambda: call(detach={("ar", "nar"): "aux"}), ValueError,
        "joint_loss: detach must name a stream of a divergence's pair, got ('ar', 'nar'): 'aux'",
    ),
    "backend without the dtype": (
        lambda: call({"ar": H.double()}, W.double(), backend="cpp"), NotImplementedError,
        "joint_loss: backend must be able to run this call, got 'cpp': it takes float32, bfloat16, not torch.float64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_what_is_wrong(name):
    assert_refused(*ERRORS[name])
