#!/bin/bash
# transformers 5.23.0: what a callable custom_generate names in its signature no longer reaches the encoder.
#
# generate(custom_generate=f) calls f with the prepared inputs. One would guess that a parameter which f names for itself
# is handed to it besides. But every keyword of generate() that f names is taken out first, as one of f's own, before the
# encoder runs. A decoder that names attention_mask, to know which source tokens are padding, thus has the encoder read the
# padding, and the encoder's states change without a word. Take such arguments from **model_kwargs instead.
#
# Seen: the encoder's states of the padded sentence differ (by 0.005, with small random weights) between a callable that
# takes it by name and one that takes it from **model_kwargs; for the first the encoder is called without a mask.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from transformers import BartConfig, BartForConditionalGeneration

torch.manual_seed(0)
config = BartConfig(
    vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=20, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    decoder_start_token_id=2, forced_eos_token_id=None,
)
model = BartForConditionalGeneration(config).eval()
ids = torch.tensor([[5, 6, 7, 2, 1, 1], [5, 6, 7, 8, 9, 2]])
mask = (ids != 1).long()
states, masked = {}, []
model.get_encoder().register_forward_pre_hook(
    lambda module, args, kwargs: masked.append(kwargs.get("attention_mask") is not None), with_kwargs=True
)


def by_name(model, input_ids, attention_mask=None, **model_kwargs):
    states["by name"] = model_kwargs["encoder_outputs"].last_hidden_state
    return input_ids


def by_keywords(model, input_ids, **model_kwargs):
    assert model_kwargs["attention_mask"] is not None
    states["by keywords"] = model_kwargs["encoder_outputs"].last_hidden_state
    return input_ids


for decode in (by_name, by_keywords):
    model.generate(ids, attention_mask=mask, custom_generate=decode, max_new_tokens=3)
difference = (states["by name"] - states["by keywords"])[0, :4].abs().max().item()
print("the encoder had a mask:", masked, "difference of its states:", round(difference, 3))
assert masked == [False, True] and difference > 1e-3
PYTHON
