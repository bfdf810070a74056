"""``attn_implementation="janus_fast"`` against transformers' own attention, and its masks against theirs."""

import pytest
import torch
from test_decoding import PAD

transformers = pytest.importorskip(
    "transformers", "5.23", reason="transformers 5.23 is not installed: make test-peers runs these tests"
)
hugging = pytest.importorskip("janus_fast.huggingface")
masking = pytest.importorskip("transformers.masking_utils")

pytestmark = pytest.mark.peers

SMALL = {"vocab_size": 60, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
DECODER = {
    **SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4,
}  # fmt: skip
BART = {
    **SMALL, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "decoder_start_token_id": 2, "init_std": 0.4, "dropout": 0.0,
}  # fmt: skip
BERT = {
    **SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.4, "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}  # fmt: skip
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 4}),
    "gemma": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**DECODER, "head_dim": 8, "sliding_window": 4}),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "modernbert": (
        "ModernBertForMaskedLM", "ModernBertConfig",
        {**SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
         "local_attention": 6, "global_attn_every_n_layers": 2, "initializer_range": 0.4},
    ),
}  # fmt: skip


def pair(name, **options):
    """The same random model with their attention and with ours."""
    model, config, values = MODELS[name]
    models = []
    for attention in ("sdpa", "janus_fast"):
        torch.manual_seed(1)
        made = getattr(transformers, config)(**{**values, **options})
        made._attn_implementation = attention
        models.append(getattr(transformers, model)(made).eval())
    models[1].load_state_dict(models[0].state_dict())
    assert models[1].config._attn_implementation == "janus_fast"
    return models


def batch(name, left=False):
    generator, rows = torch.Generator().manual_seed(2), (9, 3, 7, 1)
    ids = torch.full((len(rows), max(rows)), PAD)
    for row, length in zip(ids, rows, strict=True):
        row[-length:] if left else row[:length]
        (row[-length:] if left else row[:length])[:] = torch.randint(3, 60, (length,), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    if name == "bart":
        inputs["decoder_input_ids"] = torch.randint(3, 60, (len(rows), 6), generator=generator)
    return inputs


@pytest.mark.parametrize("left", [False, True], ids=["padding behind", "padding before"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_sdpa(name, left):
    theirs, ours = pair(name)
    inputs, logits, gradients = batch(name, left), [], []
    there = inputs["attention_mask"].bool() if name != "bart" else torch.ones(4, 6, dtype=torch.bool)
    weights = torch.randn(60, generator=torch.Generator().manual_seed(3))
    for model in (theirs, ours):
        found = model(**inputs).logits[there]
        (found.log_softmax(-1) @ weights).sum().backward()
        logits.append(found.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (logits[0] - logits[1]).abs().max() < 1e-5 * logits[0].abs().max().clamp(min=1)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[0].abs().max()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma", "bart"])
def test_generate_finds_the_same(name, beams):
    theirs, ours = pair(name)
    inputs = batch(name, left=name != "bart")
    inputs.pop("decoder_input_ids", None)
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12}
    assert ours.generate(**inputs, **options).tolist() == theirs.generate(**inputs, **options).tolist()


def test_generate_with_a_static_cache():
    theirs, ours = pair("llama")
    options = {"do_sample": False, "max_new_tokens": 8, "cache_implementation": "static", "disable_compile": True}
    inputs = batch("llama", left=True)
    assert ours.generate(**inputs, **options).tolist() == theirs.generate(**inputs, **options).tolist()


def test_packed_sequences_do_not_see_each_other():
    theirs, ours = pair("mistral")
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 60, (2, 10), generator=generator)
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]])
    found, expected = (model(input_ids=ids, position_ids=places, use_cache=False).logits for model in (ours, theirs))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    alone = ours(input_ids=ids[:1, 3:9]).logits
    assert (found[:1, 3:9] - alone).abs().max() < 1e-5 * expected.abs().max()


PATTERNS = {
    "causal": masking.causal_mask_function,
    "all": masking.bidirectional_mask_function,
    "window": masking.sliding_window_causal_mask_function(3),
    "wide window": masking.sliding_window_causal_mask_function(2**31),
    "window both ways": masking.sliding_window_bidirectional_mask_function(2),
    "chunks": masking.chunked_causal_mask_function(3, torch.tensor([0, 2])),
    "packed": masking.and_masks(
        masking.packed_sequence_mask_function(torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]])),
        masking.remap_positions_for_packed_sequence(
            masking.sliding_window_causal_mask_function(3), torch.tensor([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1]])
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("name", PATTERNS)
def test_intervals_are_their_masks(name, offset):
    """The last queries of a sequence over all of its keys, of which some are padding."""
    if name == "packed" and offset:
        pytest.skip("sequences are packed only where nothing is cached")
    padding = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    sizes = {"batch_size": 2, "q_length": 7 - offset, "kv_length": 7, "q_offset": offset, "kv_offset": 0}
    for mask in (None, padding):
        asked = {**sizes, "mask_function": PATTERNS[name], "attention_mask": mask}
        expected = masking.sdpa_mask(**asked, allow_is_causal_skip=False)
        found = hugging.visibility_mask(**asked)
        dense = found.visibility(1).dense()
        assert found.shape == (2, 1, 7 - offset, 7)
        for row in range(2):
            assert torch.equal(dense.view(2, 7 - offset, 2, 7)[row, :, row], expected[row, 0])


def test_what_is_no_interval_is_refused():
    theirs, ours = pair("llama")
    inputs = batch("llama")
    dense = torch.ones(4, 1, 9, 9, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"attention_mask must be 2-D, .* got \[4, 1, 9, 9\]"):
        ours(input_ids=inputs["input_ids"], attention_mask=dense)
    sizes = {"batch_size": 2, "q_length": 7, "kv_length": 7}
    groups = masking.blockwise_overlay(torch.zeros(2, 7, dtype=torch.long))
    for rule, name in (
        (masking.or_masks(masking.causal_mask_function, groups), "or_masks"),
        (masking.and_masks(masking.causal_mask_function, lambda b, h, q, k: q != k), "<lambda>"),
    ):
        with pytest.raises(NotImplementedError, match=f"the mask must be made of .* got .*{name}"):
            hugging.visibility_mask(**sizes, mask_function=rule)
    _, dropping = pair("llama", attention_dropout=0.1)
    dropping(**inputs)  # nothing is dropped here
    with pytest.raises(ValueError, match="^attn_implementation 'janus_fast': attention dropout must be 0 in training"):
        dropping.train()(**inputs)


def test_no_matrix_of_a_mask_is_made():
    """Memory of a mask grows with its sides, not with their product."""
    wide = hugging.visibility_mask(2, 30_000, 30_000, attention_mask=torch.ones(2, 30_000, dtype=torch.bool))
    assert sum(t.numel() for t in (wide.times, wide.visible_from, wide.visible_until)) == 5 * 30_000
