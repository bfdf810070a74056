"""What the original computes, we compute: data, masks, logits, losses and gradients against recorded tensors.

Logits agree within 1e-4 (absolute), terms of the loss within 1e-5 (relative). A gradient's error is the largest
absolute difference in a tensor, relative to the tensor's largest absolute value: at most 1e-3.
"""

import golden
import pytest
import torch
import torch.nn.functional as F

from janus_fast import ops
from janus_fast.convert import fairseq
from janus_fast.objectives import OBJECTIVES
from janus_fast.objectives.masking import span_length_probabilities, span_mask
from janus_fast.packing import offsets_of
from janus_fast.visibility import Visibility

LOSSES = {
    "ar_ce": "ar_ce", "ar_nll": "ar_nll", "nar_ce": "content_ce", "nar_nll": "content_nll", "aux_ce": "query_ce",
    "aux_nll": "query_nll", "kl_ar_nar": "kl_ar_content", "kl_ar_aux": "kl_ar_query",
    "kl_nar_aux": "kl_content_query", "length": "length",
}  # fmt: skip


def assert_close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= tolerance


def assert_gradient(actual, expected, name):
    assert actual.shape == expected.shape, name
    error, size = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert error <= 1e-3 * size, f"{name}: error {error} of {size}"


def forward(model, data):
    """Encoded rows, length logits, and the logits of every AR query, NAR content and AUX row, packed."""
    _, batch = golden.objective(model.config, data)
    with torch.no_grad():
        encoded = model.encode(batch.source, batch.source_offsets)
        lengths = model.length_logits(encoded, batch.source_offsets)
        hidden = model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross)
        ar, nar, aux = (sum(rows) for rows in golden.sizes(data))
        _, nar_logits, ar_logits, aux_logits = model.logits(hidden).split([ar, nar, ar, aux])
    return encoded, lengths, ar_logits, nar_logits, aux_logits


# Data and masks


def test_span_lengths_have_the_originals_probabilities():
    assert torch.equal(span_length_probabilities(), golden.tensors("units")["span_length_probs"])


@pytest.mark.parametrize("row", range(24))
def test_span_masks_follow_the_originals_random_stream(row):
    units = golden.tensors("units")
    length = int(units["span_mask/length"][row])
    mask = span_mask(length, 0.7, torch.Generator().manual_seed(row))
    assert torch.equal(mask, units["span_mask/mask"][row, :length])


def test_items_drawn_one_after_another():
    items = [golden.group("data", f"item{j}/") for j in range(6)]
    objective = OBJECTIVES["janus"](golden.model().config)
    sources, targets = [item["source"] for item in items], [item["target"] for item in items]
    batch = objective.pack(sources, targets, torch.Generator().manual_seed(1234))

    lengths = [[len(item[name]) for item in items] for name in ("ar_content_w", "nar_content_w", "nar_query_w")]
    ar, nar, aux = map(sum, lengths)
    tokens = batch.tokens.split([ar, nar, ar, aux])
    positions = batch.positions.split([ar, nar, ar, aux])

    def joined(name):
        return torch.cat([item[name] for item in items])

    assert torch.equal(batch.source, torch.cat(sources))
    assert torch.equal(tokens[0], joined("ar_content_w"))
    assert torch.equal(tokens[1], joined("nar_content_w"))
    assert torch.equal(positions[1], joined("nar_content_p"))
    assert (tokens[2] == golden.UNK).all()
    assert torch.equal(positions[2], positions[0])
    assert torch.equal(tokens[3], joined("nar_query_w"))
    assert torch.equal(positions[3], joined("nar_query_p"))
    assert torch.equal(batch.targets["ar"], joined("ar_target"))
    assert torch.equal(batch.targets["nar"], joined("nar_target"))
    assert torch.equal(batch.targets["aux"], joined("nar_target"))
    assert torch.equal(batch.compared["ar"], (~joined("ar_mask")).nonzero().flatten())
    content_m = joined("nar_content_m")
    assert torch.equal(batch.rows[batch.parts["nar"]], (~content_m).nonzero().flatten() + ar)


@pytest.mark.parametrize("file", ["data", "small_batch"])
def test_collated_batches(file):
    data = golden.tensors(file)
    _, batch = golden.objective(golden.model().config, data)
    ar, nar, aux = golden.sizes(data)
    content, masked_content, _, query = batch.tokens.split([sum(ar), sum(nar), sum(ar), sum(aux)])
    _, masked_positions, _, query_positions = batch.positions.split([sum(ar), sum(nar), sum(ar), sum(aux)])
    assert torch.equal(batch.source_offsets.diff().long(), data["src_lengths"])
    assert torch.equal(content, golden.packed(data["ar_content_w"], ar))
    assert torch.equal(batch.targets["ar"], golden.packed(data["ar_target"], ar))
    assert torch.equal(masked_content, golden.packed(data["nar_content_w"], nar))
    assert torch.equal(masked_positions, golden.packed(data["nar_content_p"], nar))
    assert torch.equal(query, golden.packed(data["nar_query_w"], aux))
    assert torch.equal(query_positions, golden.packed(data["nar_query_p"], aux))
    assert torch.equal(batch.targets["aux"], golden.packed(data["nar_target"], aux))
    if file == "data":
        assert torch.equal(batch.lengths, golden.tensors("forward")["length_target"])


def test_attention_masks_of_the_batch():
    data, forward_data = golden.tensors("data"), golden.tensors("forward")
    for row, (content, query) in enumerate(zip(*golden.sizes(data)[1:], strict=True)):
        dense = Visibility.janus(torch.tensor([content - 2 * query]), torch.tensor([query])).dense()
        assert torch.equal(dense[:content], forward_data["content_attn_mask"][row, :content, :content] == 0)
        assert torch.equal(dense[content:], forward_data["query_attn_mask"][row, :query, :content] == 0)


def test_attention_masks_of_many_sizes():
    units = golden.group("units", "attn_mask/")
    for row in range(len(units["content_pad"])):
        content, query = int((~units["content_pad"][row]).sum()), int((~units["query_pad"][row]).sum())
        dense = Visibility.janus(torch.tensor([content - 2 * query]), torch.tensor([query])).dense()
        assert torch.equal(dense[:content], units["content_mask"][row, :content, :content] == 0)
        assert torch.equal(dense[content:], units["query_mask"][row, :query, :content] == 0)


def test_tokens_masked_again():
    units = golden.group("units", "skeptical/")
    lengths = units["nonpad"].sum(1)
    scores = golden.packed(units["scores"], lengths.tolist())
    tokens, nothing = torch.full(scores.shape, 7), torch.empty(0, dtype=torch.int64)
    for p, expected in zip(units["p"].tolist(), units["out"], strict=True):
        _, _, rows, changed = ops.update_mask(
            tokens, scores, nothing, nothing, scores[:0], offsets_of(lengths), ratio=p, mask_token=golden.UNK
        )
        assert torch.equal(rows, golden.packed(expected, lengths.tolist()).nonzero().flatten())
        assert not changed.any()


# Forward


def test_logits():
    data, expected = golden.tensors("data"), golden.tensors("forward")
    encoded, lengths, ar, nar, aux = forward(golden.model(), data)
    real = ~expected["encoder_padding_mask"]
    assert_close(encoded, torch.cat([expected["encoder_out"][:, i][real[i]] for i in range(len(real))]))
    assert_close(lengths, expected["length_logits"])
    for actual, name, rows in zip(
        (ar, nar, aux), ("ar_logits", "nar_content_logits", "nar_query_logits"), golden.sizes(data), strict=True
    ):
        assert_close(actual, golden.packed(expected[name], rows))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sinusoidal", {"max_source_positions": 64, "max_target_positions": 64}),
        ("separate_embeddings", {"activation": "gelu"}),
    ],
)
def test_variants(name, options):
    data, expected = golden.tensors("small_batch"), golden.group("variants", f"{name}/")
    model = fairseq.from_state_dict(golden.group("variants", f"{name}/weights/"), attention_heads=2, **options)
    assert (model.config.positions, model.config.share_all_embeddings) == (
        ("sinusoidal", True) if name == "sinusoidal" else ("learned", False)
    )
    _, lengths, ar, nar, aux = forward(model, data)
    rows = golden.sizes(data)
    assert_close(lengths, expected["length_logits"])
    assert_close(ar, golden.packed(expected["ar_logits"], rows[0]))
    assert_close(nar, golden.packed(expected["nar_content_logits"], rows[1]))
    assert_close(aux, golden.packed(expected["nar_query_logits"], rows[2]))
    objective, batch = golden.objective(model.config, data)
    assert objective.loss(model, batch)[0].item() == pytest.approx(expected["loss_total"].item(), rel=1e-5)


def test_prenorm_variant():
    """All but AR: the original's pre-norm AR stream enters cross-attention without its norm, ours does not."""
    data, expected = golden.tensors("small_batch"), golden.group("variants", "prenorm/")
    model = fairseq.from_state_dict(
        golden.group("variants", "prenorm/weights/"), attention_heads=2, allow_prenorm=True
    )  # fmt: skip
    _, lengths, ar, nar, aux = forward(model, data)
    rows = golden.sizes(data)
    assert_close(lengths, expected["length_logits"])
    assert_close(nar, golden.packed(expected["nar_content_logits"], rows[1]))
    assert_close(aux, golden.packed(expected["nar_query_logits"], rows[2]))
    assert (ar - golden.packed(expected["ar_logits"], rows[0])).abs().max() > 1e-2


# Losses and gradients


def test_losses():
    model, expected = golden.model(), golden.group("forward", "loss/")
    objective, batch = golden.objective(model.config, golden.tensors("data"))
    total, terms = objective.loss(model, batch)
    assert total.item() == pytest.approx(expected["total"].item(), rel=1e-5)
    assert terms.keys() == LOSSES.keys()
    for ours, theirs in LOSSES.items():
        assert terms[ours].item() == pytest.approx(expected[theirs].item(), rel=1e-5), ours


def test_gradients_of_parameters():
    model, expected = golden.model(), golden.group("grads", "wrt_param/")
    objective, batch = golden.objective(model.config, golden.tensors("data"))
    objective.loss(model, batch)[0].backward()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    ours = dict(model.named_parameters())
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        if name.endswith("embed_positions.weight"):
            assert not gradient[: fairseq.POSITION_OFFSET].any()
            gradient = gradient[fairseq.POSITION_OFFSET :]
        if name.endswith("k_proj.bias"):  # moves all scores of a row alike: 0 but for rounding
            assert max(ours[name].grad.abs().max().item(), gradient.abs().max().item()) <= 1e-6 * largest, name
        else:
            assert_gradient(ours[name].grad, gradient, name)


class Outputs:
    """Stands for a model: its outputs are given, so that the loss's gradients for them can be read."""

    def __init__(self, ar, nar, aux, lengths):
        self.logits, self.lengths = torch.cat([nar, ar, aux]).requires_grad_(), lengths.clone().requires_grad_()
        self.output_weight = torch.eye(ar.shape[1])  # hidden rows are logits

    def encode(self, tokens, offsets):
        return None

    def decode(self, tokens, positions, visibility, encoded, cross, rows):
        return self.logits

    def length_logits(self, encoded, offsets):
        return self.lengths


def test_loss_and_gradients_of_outputs():
    """The loss alone, on the original's own logits."""
    data, forward_data = golden.tensors("data"), golden.tensors("forward")
    expected = golden.group("grads", "wrt_output/")
    objective, batch = golden.objective(golden.model().config, data)
    ar, nar, aux = golden.sizes(data)
    selected = batch.rows[batch.parts["nar"]] - sum(ar)
    outputs = Outputs(
        golden.packed(forward_data["ar_logits"], ar), golden.packed(forward_data["nar_content_logits"], nar)[selected],
        golden.packed(forward_data["nar_query_logits"], aux), forward_data["length_logits"],
    )  # fmt: skip
    in_order = sorted(batch.parts, key=lambda name: batch.parts[name].start)
    assert in_order == ["nar", "ar", "aux"]  # the order of Outputs.logits
    total, _ = objective.loss(outputs, batch)
    total.backward()
    assert total.item() == pytest.approx(forward_data["loss/total"].item(), rel=1e-5)
    gradients = {name: outputs.logits.grad[rows] for name, rows in batch.parts.items()}
    assert_gradient(gradients["ar"], golden.packed(expected["ar_logits"], ar), "ar")
    assert_gradient(gradients["nar"], golden.packed(expected["nar_content_logits"], nar)[selected], "nar")
    assert_gradient(gradients["aux"], golden.packed(expected["nar_query_logits"], aux), "aux")
    assert_gradient(outputs.lengths.grad, expected["length_logits"], "length")


@pytest.mark.parametrize(
    ("name", "kind", "term"), [("ar_loss", "autoregressive", "ar_nll"), ("cmlm_loss", "cmlm", "nar_nll")]
)
def test_one_distribution_alone(name, kind, term):
    model, expected = golden.model(), golden.group("forward", f"loss/{name}")
    objective, batch = golden.objective(model.config, golden.tensors("data"), OBJECTIVES[kind])
    total, terms = objective.loss(model, batch)
    total.backward()
    assert total.item() == pytest.approx(expected[""].item(), rel=1e-5)
    assert terms[term].item() == pytest.approx(expected["_nll"].item(), rel=1e-5)
    embeddings = "encoder.embed_tokens.weight"
    assert_gradient(model.get_parameter(embeddings).grad, golden.tensors("grads")[f"{name}/{embeddings}"], embeddings)
    squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(expected["_gradnorm"].item(), rel=1e-3)


# The checkpoint of the original's training command


def test_converted_checkpoint():
    model, _ = fairseq.load(golden.CHECKPOINT)
    data, expected = golden.tensors("small_batch"), golden.tensors("checkpoint/expected")
    encoded, lengths, ar, _, _ = forward(model, data)
    sources = data["src_lengths"].tolist()
    assert_close(encoded, torch.cat([expected["encoder_out"][-n:, i] for i, n in enumerate(sources)]))
    assert_close(lengths, expected["length_logits"])
    assert_close(ar, golden.packed(expected["ar_logits"], golden.sizes(data)[0]))

    targets = golden.unpad(data["target"])
    target_lengths = torch.tensor([len(target) for target in targets])
    inputs = torch.cat([F.pad(torch.full((n - 2,), golden.UNK), (1, 1)) for n in target_lengths.tolist()])
    ends = target_lengths.cumsum(0)
    inputs[ends - 1] = 2
    offsets = offsets_of(target_lengths)
    positions = torch.cat([torch.arange(n) for n in target_lengths.tolist()])
    with torch.no_grad():
        cross = Visibility.bidirectional(offsets, offsets_of(data["src_lengths"]))
        hidden = model.decode(inputs, positions, Visibility.bidirectional(offsets), encoded, cross)
    assert_close(model.logits(hidden), golden.packed(expected["nar_logits"], target_lengths.tolist()))
