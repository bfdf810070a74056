#!/bin/bash
# ctranslate2 4.8.5: with use_vmap, a target prefix is another token in the second call than in the first.
#
# One would guess that an output begins with the target_prefix that it is given. With use_vmap the words of a batch get
# numbers of its own, and where a Translator has decoded another batch before, words keep the numbers that they had in
# that one: a prefix then stands for the word that has this number now. The output begins with that word, or is searched
# behind it, and nothing is said. A new Translator for each batch, or no use_vmap beside prefixes, is right.
#
# Seen, for a random model of 26 words, each of which may become six drawn ones, eight sources with a prefix, one at a time:
#   a new Translator for each: 8 of 8 outputs begin with their prefix
#   one Translator for all: 6 of 8 outputs begin with their prefix
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 numpy==2.3.5
mkdir "$work/model"
"$work/venv/bin/python" - "$work/model" <<'PYTHON'
import random, sys
import ctranslate2, numpy
from ctranslate2.specs import TransformerSpec

generator, words, width = numpy.random.default_rng(1), ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"], 16

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

draw, letters = random.Random(0), words[3:]
becomes = {word: draw.sample(letters, 6) for word in letters}
with open(sys.argv[1] + "/vmap.txt", "w") as map:
    map.writelines(f"{word}\t{' '.join(others)}\n" for word, others in becomes.items())

def translator():
    return ctranslate2.Translator(sys.argv[1], device="cpu", compute_type="float32", intra_threads=1)

def begins(translator, source, prefix):
    result, = translator.translate_batch([[source]], [[prefix]], use_vmap=True, beam_size=1, max_decoding_length=3)
    return result.hypotheses[0][:1] == [prefix]

calls = [(word, becomes[word][2]) for word in letters[:8]]
one = translator()
anew, again = (sum(begins(make(), *call) for call in calls) for make in (translator, lambda: one))
print(f"a new Translator for each: {anew} of 8 outputs begin with their prefix")
print(f"one Translator for all: {again} of 8 outputs begin with their prefix")
assert (anew, again) == (8, 6)
PYTHON
