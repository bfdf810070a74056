#!/bin/bash
# ctranslate2 4.8.5: prefix_bias_beta forgets which outputs of a beam have left their prefix when they change places.
#
# One would guess that an output is biased towards the next token of a target prefix as long as it has begun with that
# prefix. With a beam, it is remembered by places of the beam and not by outputs whether the prefix has been left, and
# outputs change places from step to step: one that has left its prefix is biased towards it again where it takes the
# place of one that has not, if it says the prefix's token there; one that follows is biased no more where it takes the
# place of one that has left it. So scores and outputs are others with prefixes of three tokens and more. The search below
# computes both rules from CTranslate2's own logits.
#
# Seen, for a random model, 300 sources and prefixes of three tokens, a beam of two, and prefix_bias_beta 0.3:
#   of 300 lists, by places 300 are those of CTranslate2, by outputs 254
#   source cgeh, prefix faa: CTranslate2 fahah -0.6955, fahaa -0.7894, by outputs faaha -0.7226, faaah -0.7796
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 numpy==2.3.5
mkdir "$work/model"
"$work/venv/bin/python" - "$work/model" <<'PYTHON'
import sys
import ctranslate2, numpy
from ctranslate2.specs import TransformerSpec

generator, words, width = numpy.random.default_rng(1), ["<unk>", "<s>", "</s>", *"abcdefgh"], 16

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

translator = ctranslate2.Translator(sys.argv[1], device="cpu", compute_type="float32", intra_threads=1)
steps, beam, beta, known = 5, 2, 0.3, {}

def log_probs(source, said):
    """Of what may follow ``said``; nothing ends here."""
    if (source, said) not in known:
        options = dict(beam_size=1, max_decoding_length=len(said) + 1, min_decoding_length=0, return_logits_vocab=True)
        result, = translator.translate_batch([[*source]], [[*said]], **options)
        logits = numpy.asarray(result.logits[0][-1]).astype(float)
        logits[words.index("</s>")] = -numpy.inf
        known[source, said] = logits - numpy.logaddexp.reduce(logits)
    return known[source, said]

def search(source, prefix, by_places):
    outputs = [((), 0.0, True)]  # what is said, its score, and whether it has begun with the prefix
    places = [True] * beam
    for step in range(steps):
        candidates, wanted = [], prefix[step] if step < len(prefix) else None
        for place, (said, score, follows) in enumerate(outputs):
            probabilities = numpy.exp(log_probs(source, said))
            if wanted and (places[place] if by_places else follows):
                probabilities *= 1 - beta
                probabilities[words.index(wanted)] += beta
            with numpy.errstate(divide="ignore"):
                scores = score + numpy.log(probabilities)
            for n in numpy.argsort(-scores)[:beam]:
                candidates.append(((*said, words[n]), scores[n], follows and words[n] == wanted))
        outputs = sorted(candidates, key=lambda candidate: -candidate[1])[:beam]
        places = [followed and said[-1] == wanted for followed, (said, _, _) in zip(places, outputs)]
    return [("".join(said), round(score / steps, 4)) for said, score, _ in outputs]

def alike(one, other):
    return all(a == b and abs(x - y) < 2e-3 for (a, x), (b, y) in zip(one, other))

counts, shown = {True: 0, False: 0}, None
for _ in range(300):
    source, prefix = ("".join(generator.choice([*"abcdefgh"], size)) for size in (4, 3))
    options = dict(beam_size=beam, num_hypotheses=beam, prefix_bias_beta=beta, return_scores=True)
    options |= dict(max_decoding_length=steps, min_decoding_length=steps)
    result, = translator.translate_batch([[*source]], [[*prefix]], **options)
    found = [("".join(tokens), round(score, 4)) for tokens, score in zip(result.hypotheses, result.scores)]
    for by_places in counts:
        expected = search(source, prefix, by_places)
        counts[by_places] += alike(expected, found)
        if not (by_places or shown or alike(expected, found)):
            lists = [", ".join(f"{said} {score}" for said, score in one) for one in (found, expected)]
            shown = "source {}, prefix {}: CTranslate2 {}, by outputs {}".format(source, prefix, *lists)
print(f"of 300 lists, by places {counts[True]} are those of CTranslate2, by outputs {counts[False]}")
print(shown)
assert counts[True] >= 297 and counts[False] <= 285
PYTHON
