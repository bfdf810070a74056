#!/bin/bash
# ctranslate2 4.8.5: what is forbidden gives its probability to the rest, so scores of translations are not the model's.
#
# One would guess that an option which forbids tokens, such as no_repeat_ngram_size or min_decoding_length, leaves the
# log-probability of all others alone, so that the score of a translation is what score_batch gives for its tokens. Tokens
# are forbidden before the softmax: the likelier the forbidden ones, the better the score of what is left. The default
# min_decoding_length=1 forbids the end of sentence in the first step, so this concerns every translation. Scores with and
# without such options, or of another decoder, do not compare; score the outputs once more with score_batch.
#
# Seen, for a random model, greedy, length_penalty=0: score of translate_batch; sum of score_batch over the same tokens
#   min_decoding_length=0:   d f d f d f  -4.1697  -4.1697
#   the default:             d f d f d f  -4.1300  -4.1697
#   no_repeat_ngram_size=1:  d f e b a c  -3.6397  -9.8906
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

translator, source = ctranslate2.Translator(sys.argv[1], device="cpu", compute_type="float32"), [list("abcd")]
apart = []
for options in ({"min_decoding_length": 0}, {}, {"no_repeat_ngram_size": 1}):
    fixed = dict(beam_size=1, length_penalty=0, max_decoding_length=6, return_scores=True)
    (result,) = translator.translate_batch(source, **fixed, **options)
    tokens = result.hypotheses[0]
    (scored,) = translator.score_batch(source, [tokens])
    own = sum(scored.log_probs[: len(tokens)])  # without the end, which the length cut off
    print(options, *tokens, f"{result.scores[0]:.4f} {own:.4f}")
    apart.append(result.scores[0] - own)
assert abs(apart[0]) < 1e-3 and 0.01 < apart[1] < apart[2] and apart[2] > 3
PYTHON
