"""Makes tiny random models as CTranslate2's converters store them, and records what it says they translate.

    python record.py WHEELS        in an environment with ctranslate2 4.8.5 and sentencepiece

``WHEELS`` holds the releases 1.20.1 and 2.24.0, unpacked, each in a folder of that name: their ``specs`` write the
files of versions 4 and 5. ``expected.json`` holds sources, and for greedy search and a beam of 4 the best output and
its score, of those that end by themselves.
"""

import importlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import sentencepiece

HERE = Path(__file__).parent
WIDTH, INNER, WORDS, POSITIONS = 16, 24, 26, 24
OPENNMT, FAIRSEQ, MARIAN = ["<unk>", "<blank>", "<s>", "</s>"], ["<s>", "<pad>", "</s>", "<unk>"], ["</s>", "<unk>"]
EOS = {"add_source_eos": True, "decoder_start_token": "</s>"}
# release; what its spec is made with; how weights are stored; special tokens; a vocabulary of its own for targets;
# the rest of what the files say
MODELS = {
    "first": ("1.20.1", {}, "int8", OPENNMT, False, {}),
    "second": ("2.24.0", {"activation": "GELU"}, "float16", FAIRSEQ, True, EOS),
    "opennmt": ("4.8.5", {}, "int8", OPENNMT, False, {}),
    "marian": ("4.8.5", {"pre_norm": False, "activation": "SWISH"}, "float16", MARIAN, True, {**EOS, "zero": True}),
    "bart": (
        "4.8.5", {"pre_norm": False, "activation": "GELU", "layernorm_embedding": True}, "bfloat16", FAIRSEQ, False,
        {"decoder_start_token": "</s>", "scale": False, "layer_norm_epsilon": 1e-4, "untied": True},
    ),
}  # fmt: skip


def specs_of(release: str, wheels: Path):
    """CTranslate2's module of that release that lays models out, without the rest of the package."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ctranslate2"]:
        del sys.modules[name]
    if release == "4.8.5":
        return importlib.import_module("ctranslate2.specs")
    package = type(sys)("ctranslate2")
    package.__path__ = [str(wheels / release / "ctranslate2")]
    sys.modules["ctranslate2"] = package
    return importlib.import_module("ctranslate2.specs")


def fill(spec, draw, sizes: list[int], shared: bool, rest: dict) -> None:
    def numbers(*shape: int, scale: float = 0.1) -> np.ndarray:
        return (draw.standard_normal(shape) * scale).astype(np.float32)

    def linear(layer, outputs: int, inputs: int, scale: float = 1.5) -> None:
        layer.weight, layer.bias = numbers(outputs, inputs, scale=scale / inputs**0.5), numbers(outputs)

    def norm(layer) -> None:
        signs = draw.choice([-1, 1], WIDTH)  # so that a token's own embedding is not what its row predicts
        layer.gamma, layer.beta = (draw.uniform(0.7, 1.3, WIDTH) * signs).astype(np.float32), numbers(WIDTH)

    source = numbers(sizes[0], WIDTH, scale=0.25)
    target = source if shared else numbers(sizes[1], WIDTH, scale=0.25)
    first = spec.encoder.embeddings
    (first[0] if isinstance(first, list) else first).weight = source
    spec.decoder.embeddings.weight = target
    spec.decoder.projection.weight = numbers(*target.shape, scale=0.25) if rest.get("untied") else target
    spec.decoder.projection.bias = numbers(len(target), scale=0.3)
    spec.decoder.projection.bias[rest["eos"]] += 1.5
    for stack in (spec.encoder, spec.decoder):
        stack.position_encodings.encodings = numbers(POSITIONS, WIDTH, scale=0.3)
        for name in ("layer_norm", "layernorm_embedding"):
            if not isinstance(getattr(stack, name, ""), str):
                norm(getattr(stack, name))
        if hasattr(stack, "scale_embeddings"):
            stack.scale_embeddings = rest.get("scale", True)
        for layer in stack.layer:
            attentions = [(layer.self_attention, [3, 1])]
            if stack is spec.decoder:
                attentions.append((layer.attention, [1, 2, 1]))
            for attention, parts in attentions:
                for part, times in zip(attention.linear, parts, strict=True):
                    linear(part, times * WIDTH, WIDTH)
                norm(attention.layer_norm)
            linear(layer.ffn.linear_0, INNER, WIDTH)
            linear(layer.ffn.linear_1, WIDTH, INNER)
            norm(layer.ffn.layer_norm)


def pieces(directory: Path) -> list[str]:
    """Writes a sentencepiece model; returns its pieces."""
    syllables, draw = "ba ke li mo nu ta".split(), random.Random(0)
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(900)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(words[i : i + 3]) for i in range(0, 900, 3)),
        model_prefix=str(directory / "sentencepiece"), vocab_size=WORDS + 3, hard_vocab_limit=False,
        normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    (directory / "sentencepiece.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "sentencepiece.model"))
    return [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]


def make(name: str, wheels: Path, seed: int) -> None:
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    release, made_with, stored, specials, separate, rest = MODELS[name]
    specs = specs_of(release, wheels)
    if "activation" in made_with:
        activation = importlib.import_module("ctranslate2.specs.common_spec").Activation
        made_with = {**made_with, "activation": activation[made_with["activation"]]}
    kind = specs.TransformerSpec
    spec = getattr(kind, "from_config", kind)((1, 2), 2, **made_with)
    words = pieces(directory) if name == "opennmt" else [f"w{i}" for i in range(WORDS)]
    source = specials + words
    target = specials + [f"v{i}" for i in range(WORDS - 3)] if separate else source
    rest = {**rest, "eos": target.index("</s>")}
    fill(spec, np.random.default_rng(seed), [len(source), len(target)], not separate, rest)
    if hasattr(spec, "register_vocabulary"):
        spec.register_vocabulary("source", source), spec.register_vocabulary("target", target)
    else:
        spec.register_source_vocabulary(source), spec.register_target_vocabulary(target)
    if hasattr(spec, "config"):
        spec.decoder.start_from_zero_embedding = rest.get("zero", False)
        for key in ("add_source_eos", "decoder_start_token", "layer_norm_epsilon"):
            if key in rest:
                setattr(spec.config, key, rest[key])
    elif release == "2.24.0":
        spec.with_source_eos, spec.with_target_bos = rest["add_source_eos"], False
    spec.validate()
    spec.optimize(stored)
    spec.save(str(directory))


def record(name: str, translator) -> bool:
    """Whether there is enough to see in what it says."""
    draw, words = random.Random(0), [f"w{i}" for i in range(WORDS)]
    if name == "opennmt":
        words = json.loads((HERE / name / "shared_vocabulary.json").read_text(encoding="utf-8"))[4:]
    sources = [draw.choices(words, k=draw.randint(1, 8)) for _ in range(12)]
    searches = []
    for beam in (1, 4):
        results = translator.translate_batch(
            sources, beam_size=beam, max_decoding_length=POSITIONS - 1, min_decoding_length=0, return_scores=True
        )
        searches.append([
            [number, result.hypotheses[0], result.scores[0]] for number, result in enumerate(results)
            if len(result.hypotheses[0]) < POSITIONS - 1
        ])  # fmt: skip
    expected = {"sources": sources, "greedy": searches[0], "beam": searches[1]}
    text = json.dumps(expected, ensure_ascii=False)
    (HERE / name / "expected.json").write_text(text + "\n", encoding="utf-8")
    return all(len({str(output) for _, output, _ in found}) > 7 for found in searches)


def main(wheels: Path) -> None:
    left, seed = set(MODELS), 0
    while left:
        for name in left:
            make(name, wheels, seed)
        for name in [name for name in sys.modules if name.partition(".")[0] == "ctranslate2"]:
            del sys.modules[name]
        ctranslate2 = importlib.import_module("ctranslate2")
        left -= {n for n in left if record(n, ctranslate2.Translator(str(HERE / n), compute_type="float32"))}
        seed += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
