#!/bin/bash
# ctranslate2 4.8.5: return_alternatives reads a prefix of Marian models without the factor of its embeddings.
#
# One would guess that the alternatives behind a target prefix are the tokens that the model finds likely there. Models
# that start from a zero embedding, which converted Marian models do, get all tokens of a prefix but the last at once as
# the first step, and that step is not multiplied by the square root of the model's width. So with a prefix of two tokens
# or more scores, order and tokens are those of another network; without return_alternatives the prefix is read rightly,
# and so it is in models that start from a token.
#
# Seen, for random models and the prefix "a b c": scores of three alternatives of one token, and what score_batch says
#   start from a token: -0.8051 -1.4958 -2.2687   -0.8051 -1.4958 -2.2687
#   start from zero:    -0.9561 -1.3876 -2.2155   -2.2546 -0.9176 -1.4657
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 numpy==2.3.5
"$work/venv/bin/python" - "$work" <<'PYTHON'
import os, sys
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

for zero in (False, True):
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
    spec.decoder.start_from_zero_embedding = zero
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.decoder_start_token = "<s>"
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.validate()
    spec.optimize()
    directory = f"{sys.argv[1]}/{zero}"
    os.mkdir(directory)
    spec.save(directory)
    translator, source, prefix = ctranslate2.Translator(directory, compute_type="float32"), list("abcd"), list("abc")
    options = dict(return_alternatives=True, num_hypotheses=3, return_scores=True, max_decoding_length=4)
    (result,) = translator.translate_batch([source], [prefix], beam_size=1, **options)
    scored = translator.score_batch([source] * 4, [*result.hypotheses, prefix])
    end = 1 - numpy.exp(scored[-1].log_probs[3])  # which may not come first
    own = [one.log_probs[3] - numpy.log(end) for one in scored[:3]]
    print("start from", "zero:" if zero else "a token:", numpy.round(result.scores, 4), numpy.round(own, 4))
    assert numpy.allclose(result.scores, own, atol=1e-3) != zero
PYTHON
