#!/bin/bash
# ctranslate2 4.8.5: with a beam, a sentence's first token has the attention of another sentence of the batch.
#
# One would guess that return_attention, and replace_unknowns and coverage_penalty with it, do not depend on what else is
# in a batch. On the CPU, with beam_size 2 or more, the attention of the first token of sentence i is that of sentence
# i // beam_size, so the second and later sentences have a row of another one; greedy search and batches of one sentence
# have their own. With replace_unknowns an unknown first token becomes a word by somebody else's attention.
#
# Seen, for a random model and the sources "a b c" and "e f d", the attention of the first token of the second:
#   beam_size 1: 0.534 0.36 0.106, alone and in a batch
#   beam_size 2: 0.534 0.36 0.106 alone, 0 1 0 in a batch, which is that of the first source
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 numpy==2.3.5
mkdir "$work/model"
"$work/venv/bin/python" - "$work/model" <<'PYTHON'
import sys
import ctranslate2, numpy
from ctranslate2.specs import TransformerSpec

generator, words, width = numpy.random.default_rng(1), ["<unk>", "<s>", "</s>", *"abcdef"], 16

def drawn(*shape):
    return 0.5 * generator.normal(size=shape).astype(numpy.float32)

def fill(linear, rows, columns):
    linear.weight, linear.bias = drawn(rows, columns), numpy.zeros(rows, numpy.float32)

def block(attention, *outputs):
    for linear, rows in zip(attention.linear, outputs):
        fill(linear, rows, width)
    norm(attention.layer_norm)

def norm(norm):
    norm.gamma, norm.beta = numpy.ones(width, numpy.float32), numpy.zeros(width, numpy.float32)

spec = TransformerSpec.from_config((1, 1), 2, pre_norm=False)
spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = drawn(len(words), width)
spec.decoder.projection.weight = drawn(len(words), width)
for stack in (spec.encoder, spec.decoder):
    stack.position_encodings.encodings = drawn(64, width)
    for layer in stack.layer:
        block(layer.self_attention, 3 * width, width)
        if stack is spec.decoder:
            block(layer.attention, width, 2 * width, width)
        fill(layer.ffn.linear_0, 32, width)
        fill(layer.ffn.linear_1, width, 32)
        norm(layer.ffn.layer_norm)
spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
spec.config.decoder_start_token = "<s>"
spec.register_source_vocabulary(words)
spec.register_target_vocabulary(words)
spec.validate()
spec.optimize()
spec.save(sys.argv[1])

translator, sources = ctranslate2.Translator(sys.argv[1], device="cpu", compute_type="float32"), [list("abc"), list("efd")]

def rows(batch, beam):
    """The attention of the first two tokens of each sentence."""
    results = translator.translate_batch(batch, beam_size=beam, max_decoding_length=3, return_attention=True)
    return [numpy.round(result.attention[0][:2], 3) for result in results]

for beam in (1, 2):
    alone, together = [rows([source], beam)[0] for source in sources], rows(sources, beam)
    print(f"beam_size {beam}, alone:", *(row for one in alone for row in one))
    print(f"beam_size {beam}, in a batch:", *(row for one in together for row in one))
    assert numpy.allclose(alone[0], together[0], atol=0.01) and numpy.allclose(alone[1][1], together[1][1], atol=0.01)
    own, other = (numpy.allclose(one[0], together[1][0], atol=0.01) for one in (alone[1], alone[0]))
    assert (own, other) == ((True, False) if beam == 1 else (False, True))
PYTHON
