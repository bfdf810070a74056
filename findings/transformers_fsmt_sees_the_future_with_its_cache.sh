#!/bin/bash
# transformers 5.23.0: FSMT's forward lets a target's tokens see later ones, unless use_cache=False is given.
#
# One would guess that use_cache, which is on by default, changes how fast logits come and not what they are, and that
# without past_key_values forward(input_ids, decoder_input_ids=...) scores a whole target from left to right. BART's does.
# FSMT's makes its causal mask only where use_cache is off: with it, every token attends to those behind it. So scores of
# a given target, with a prefix of several tokens among them, are wrong by default; labels turn the cache off.
#
# Seen, on random models of one layer, whose last target token is exchanged for another:
#   FSMT, default: logits of the places before it change (by more than 0.1)
#   FSMT, use_cache=False: they stay as they were (within 1e-4), and differ from the default's
#   BART, default: they stay as they were (within 1e-4)
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cat > "$work/run.py" <<'PYTHON'
import torch
from transformers import BartConfig, BartForConditionalGeneration, FSMTConfig, FSMTForConditionalGeneration

SIZES = dict(
    d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, init_std=0.3,
)
torch.manual_seed(0)
fsmt = FSMTForConditionalGeneration(FSMTConfig(langs=["en", "de"], src_vocab_size=40, tgt_vocab_size=40, **SIZES)).eval()
bart = BartForConditionalGeneration(BartConfig(vocab_size=40, **SIZES)).eval()

@torch.no_grad()
def logits(model, last, **options):
    target = torch.tensor([[2, 8, 9, last]])
    return model(input_ids=torch.tensor([[5, 6, 7, 2]]), decoder_input_ids=target, **options).logits

def change(model, **options):
    return (logits(model, 10, **options) - logits(model, 30, **options))[:, :-1].abs().max().item()

found = change(fsmt), change(fsmt, use_cache=False), change(bart)
apart = (logits(fsmt, 10) - logits(fsmt, 10, use_cache=False))[:, :-1].abs().max().item()
print(f"change of earlier logits: FSMT {found[0]:.3f}, FSMT without a cache {found[1]:.1e}, BART {found[2]:.1e}")
print(f"FSMT with and without a cache apart: {apart:.3f}")
assert found[0] > 0.1 and found[1] < 1e-4 and found[2] < 1e-4 and apart > 0.1
PYTHON
"$work/venv/bin/python" "$work/run.py" 2> /dev/null
