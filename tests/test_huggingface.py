"""Our models, tokenizers and attention in transformers, compared with our Translator and with transformers' own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_decoding import BOS, EOS, MASK, PAD, make_model, make_sources

from janus_fast import JanusConfig, Translator, Vocabulary, checkpoint, cli, save

transformers = pytest.importorskip(
    "transformers", "5.23", reason="transformers 5.23 is not installed: make test-peers runs these tests"
)
hugging = pytest.importorskip("janus_fast.huggingface")

pytestmark = pytest.mark.peers

MODELS = {
    "two streams": {"output_bias": True},
    "pre-norm, sines": {"output_bias": True, "normalize_before": True, "positions": "sinusoidal", "position_offset": 2},
    "one stream, silu": {"two_stream": False, "activation": "silu", "output_bias": True},
    "separate": {"share_all_embeddings": False, "two_stream": False, "source_bos": False, "output_bias": True},
    "forced, norms": {
        "two_stream": False,
        "output_bias": True,
        "forced_bos_token_id": 9,
        "suppress_tokens": (0, 1, 12),
        "source_prefix_ids": (4,),
        "source_suffix_ids": (3, 4),
        "add_source_eos": False,
        "layernorm_embedding": True,
    },
    "untied": {"share_all_embeddings": False, "share_decoder_embeddings": False},
}
TOLERANCE = 1e-5  # scores are handed out in float32, computed in float64
WORDS = Vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(5, 40))])


@pytest.fixture(scope="module", params=MODELS)
def directory(request, tmp_path_factory):
    """A model directory as ``janus_fast.save`` writes it, which knows nothing of transformers."""
    folder = tmp_path_factory.mktemp("models") / "model"
    model = make_model(**MODELS[request.param])
    if model.output_bias is not None:
        model.output_bias.data[EOS] = 6.0  # or it would hardly ever end
    save(model, folder, (WORDS, WORDS))
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "shipped"
    assert cli.main(["convert", "en-de-small", "--to", "huggingface", "--out", str(folder)]) == 0
    return folder


def load(folder, **options):
    options.setdefault("dtype", torch.float32)
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, **options).eval()


def padded(sources, left=False):
    """Ids and their mask, padding behind the sources, or before them."""
    most = max(map(len, sources))
    gaps = [[PAD] * (most - len(ids)) for ids in sources]
    rows = [gap + ids if left else ids + gap for ids, gap in zip(sources, gaps, strict=True)]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def begun(translator, sources):
    """The prefixes that stand for what ``generate`` of transformers forces."""
    forced = translator.config.forced_bos_token_id
    return None if forced is None else [[forced]] * len(sources)


def words(rows):
    return [[t for t in row if t not in (BOS, PAD, EOS)] for row in rows.tolist()]


@pytest.mark.parametrize("beam", [1, 4])
def test_generate_finds_what_the_translator_does(directory, beam):
    model, sources = load(directory, dtype=torch.float64), make_sources(60)
    translator = Translator(directory, compute_type="float64", backend="torch")
    expected = translator.generate(sources, begun(translator, sources), beam_size=beam, max_decoding_length=22)
    for left in (False, True):
        found = model.generate(
            **padded(sources, left), num_beams=beam, max_length=24, return_dict_in_generate=True, output_scores=True
        )
        # to a beam, an end that transformers forces costs nothing
        ended = [n for n, row in enumerate(words(found.sequences)) if beam == 1 or len(row) < 22]
        assert len(ended) >= 10
        assert [words(found.sequences)[n] for n in ended] == [expected[n].hypotheses[0] for n in ended]
    if beam > 1:
        best = found.sequences_scores[ended].tolist()
        assert best == pytest.approx([expected[n].scores[0] for n in ended], abs=TOLERANCE)


def test_defaults_are_the_translators(directory):
    model, translator = load(directory), Translator(directory)
    texts = [" ".join(WORDS.tokens_of(ids[1:-1])) for ids in make_sources(60)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert [tokenizer(text).input_ids for text in texts] == [
        translator.config.source_ids(WORDS.ids(text.split())) for text in texts
    ]
    found = model.generate(**tokenizer(texts, return_tensors="pt", padding=True))
    pairs = [
        (ids, result.tokens[0])
        for ids, result in zip(words(found), translator.translate(texts), strict=True)
        if len(ids) < 23
    ]
    assert len(pairs) >= 10 and all(WORDS.tokens_of(one) == other for one, other in pairs)


def test_logits_are_those_of_the_model_cached_or_not(directory):
    model, native = load(directory, dtype=torch.float64), checkpoint.load(directory)[0]
    sources = [native.config.source_ids(ids[1:-1]) for ids in make_sources(4)]
    inputs, decoder = padded(sources), torch.randint(5, 40, (4, 7), generator=torch.Generator().manual_seed(1))
    decoder[:, 0] = BOS
    with torch.no_grad():
        whole = model(**inputs, decoder_input_ids=decoder).logits
        past, steps = None, []
        for start, end in ((0, 1), (1, 4), (4, 7)):
            step = model(**inputs, decoder_input_ids=decoder[:, start:end], past_key_values=past, use_cache=True)
            past = step.past_key_values
            steps.append(step.logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=TOLERANCE)
    scores = Translator(native, compute_type="float64", vocabularies=(WORDS, WORDS)).score_batch(
        [WORDS.tokens_of([t for t in ids if t > 4]) for ids in sources],
        [WORDS.tokens_of(row[1:].tolist()) for row in decoder],
    )
    expected = torch.tensor([result.log_probs[:-1] for result in scores], dtype=torch.float64)
    found = whole.log_softmax(-1)[:, :-1].gather(2, decoder[:, 1:, None])[..., 0]
    assert torch.allclose(found, expected, atol=TOLERANCE)


def test_labels_train_it(directory):
    model, sources = load(directory).train(), make_sources(3)
    labels = torch.tensor([[7, 8, EOS], [9, EOS, -100], [10, 11, EOS]])
    output = model(**padded(sources), labels=labels)
    output.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "embed_length" not in name}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    plain = load(directory)
    shifted = torch.tensor([[BOS, 7, 8], [BOS, 9, EOS], [BOS, 10, 11]])
    shifted[:, 0] = plain.config.decoder_start_token_id
    logits = plain(**padded(sources), decoder_input_ids=shifted).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert plain(**padded(sources), labels=labels).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_samples_and_looked_up_drafts_run_over_the_same_step(directory):
    model, inputs = load(directory), padded(make_sources(5))
    torch.manual_seed(1)
    first = model.generate(**inputs, do_sample=True, num_beams=1, top_k=5, max_length=12)
    torch.manual_seed(1)
    assert model.generate(**inputs, do_sample=True, num_beams=1, top_k=5, max_length=12).tolist() == first.tolist()
    without_cache = model.generate(**inputs, num_beams=3, use_cache=False, max_length=12)
    assert model.generate(**inputs, num_beams=3, max_length=12).tolist() == without_cache.tolist()
    one = {name: value[:1] for name, value in inputs.items()}
    greedy = model.generate(**one, num_beams=1, max_length=20)
    looked_up = model.generate(**one, num_beams=1, max_length=20, prompt_lookup_num_tokens=3)  # refuses, so cuts caches
    assert looked_up.tolist() == greedy.tolist()


def test_our_decoders_decode_in_generate(directory):
    model, translator, sources = load(directory), Translator(directory), make_sources(8)
    inputs = padded(sources)
    greedy = model.generate(**inputs, num_beams=1, max_length=20)
    options = {"draft_length": 3, "adaptive_drafts": False}
    drafted = model.generate(**inputs, max_length=20, custom_generate=hugging.speculative, **options)
    assert words(drafted) == words(greedy)
    prefix = torch.tensor([[model.config.decoder_start_token_id, 7]] * len(sources))
    begun = model.generate(
        **inputs, decoder_input_ids=prefix, num_beams=4, max_length=20, custom_generate=hugging.speculative
    )
    wanted = translator.generate(sources, [[7]] * len(sources), beam_size=1, max_decoding_length=18)
    assert words(begun) == [r.hypotheses[0] for r in wanted]
    if not translator.config.two_stream:
        with pytest.raises(
            ValueError, match="^mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer"
        ):
            model.generate(**inputs, custom_generate=hugging.mask_predict)
        return
    options = {"iterations": 3, "length_beam": 4}
    found = model.generate(
        **inputs, num_return_sequences=2, custom_generate=hugging.mask_predict, return_dict_in_generate=True, **options
    )
    expected = translator.generate(sources, mode="nar", num_hypotheses=2, **options)
    assert words(found.sequences) == [ids for r in expected for ids in r.hypotheses]
    bias = model.encoder.layers[0].fc1.bias
    for written in (bias.detach(), bias.data):  # what was made for other parameters is not used again
        written += 1.0
        changed = model.generate(**inputs, custom_generate=hugging.mask_predict, **options)
        expected = Translator(model.native()).generate(sources, mode="nar", **options)
        assert words(changed) == [r.hypotheses[0] for r in expected]


def test_what_our_decoders_lack_is_refused(directory):
    model, inputs = load(directory), padded(make_sources(2))
    with pytest.raises(ValueError, match="must go with .* alone, got RepetitionPenaltyLogitsProcessor"):
        model.generate(**inputs, repetition_penalty=1.5, custom_generate=hugging.speculative)
    with pytest.raises(ValueError, match="^generate: num_return_sequences must be 1 in mode 'speculative', got 2"):
        model.generate(**inputs, num_return_sequences=2, custom_generate=hugging.speculative)
    with pytest.raises(ValueError, match="^forward: output_attentions must be false"):
        model(**inputs, decoder_input_ids=inputs["input_ids"], output_attentions=True)
    with pytest.raises(ValueError, match="^forward: decoder_input_ids must have at most 24 positions, got 25"):
        model(**inputs, decoder_input_ids=torch.full((2, 25), 7))


def test_what_transformers_saves_both_libraries_read(directory, tmp_path):
    model, sources = load(directory), make_sources(6)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    again = load(tmp_path)
    for (name, one), (other_name, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name and torch.equal(one, other)
    assert JanusConfig.from_json((tmp_path / "config.json").read_text()) == Translator(directory).config
    expected = Translator(directory).generate(sources)
    assert Translator(tmp_path).generate(sources) == expected
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, hugging.JanusFastTokenizer)
    assert Translator(tmp_path).source_vocabulary.same_as(WORDS)
    found = again.generate(**padded(sources))
    assert words(found) == words(model.generate(**padded(sources)))


@pytest.mark.parametrize("quantization", ["bfloat16", "int8"])
def test_small_files_are_read(tmp_path, quantization):
    model, sources = make_model(positions="sinusoidal"), make_sources(6)
    save(model, tmp_path, (WORDS, WORDS), quantization=quantization)
    loaded = load(tmp_path)
    expected = Translator(tmp_path, compute_type="float32").generate(sources, beam_size=1, max_decoding_length=10)
    assert words(loaded.generate(**padded(sources), num_beams=1, max_length=12)) == [r.hypotheses[0] for r in expected]
    as_stored = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert as_stored.dtype == (torch.bfloat16 if quantization == "bfloat16" else torch.float32)
    assert torch.isfinite(as_stored.encoder.embed_positions.weight.float()).all()


def test_a_converted_directory_needs_no_import(shipped, tmp_path):
    """With ``trust_remote_code`` the line of code in it leads here; and the shipped model translates as ever."""
    names = {file.name for file in shipped.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer_config.json", "modeling_janus_fast.py"} <= names
    config = json.loads((shipped / "config.json").read_text())
    assert config["model_type"] == "janus_fast" and config["architectures"] == ["JanusFastForConditionalGeneration"]
    assert config["auto_map"]["AutoConfig"] == "modeling_janus_fast.JanusFastConfig"
    assert json.loads((shipped / "tokenizer_config.json").read_text())["tokenizer_class"] == "JanusFastTokenizer"
    texts = ["The cell is empty.", "Delete the </s> file & go."]
    code = f"""
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder = {str(shipped)!r}
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
found = model.generate(**tokenizer({texts!r}, return_tensors="pt", padding=True))
print(repr(tokenizer.batch_decode(found, skip_special_tokens=True)))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment, check=True
    )
    expected = [result.hypotheses[0] for result in Translator("en-de-small").translate(texts)]
    assert done.stdout.strip().splitlines()[-1] == repr(expected)
    assert [result.hypotheses[0] for result in Translator(shipped).translate(texts)] == expected


def test_text_becomes_what_the_vocabulary_makes_of_it(shipped, tmp_path):
    tokenizer, vocabulary = transformers.AutoTokenizer.from_pretrained(shipped), Translator(shipped).source_vocabulary
    texts = ["A cell.", "", "  two  spaces ", "</s> is text", "<mask>", "Ünïcode ½ 漢字 \u2028 x", "a\nb\tc"]
    for text in texts:
        ids = vocabulary.ids(vocabulary.encode(text))
        assert tokenizer(text).input_ids == [BOS, *ids, EOS]
        assert tokenizer(text_target=text).input_ids == [*ids, EOS]
        assert tokenizer.decode(ids) == vocabulary.decode(vocabulary.tokens_of(ids)) or "<unk>" in tokenizer.decode(ids)
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert (again.mask_token_id, again.pad_token_id, len(again)) == (MASK, PAD, len(vocabulary))
    assert again.decode([BOS, 40, EOS]) == f"<s> {vocabulary.decode(vocabulary.tokens_of([40]))} </s>"


def test_a_model_of_the_other_janus_is_still_theirs():
    theirs = transformers.JanusConfig()
    again = transformers.AutoConfig.for_model("janus").__class__
    assert issubclass(again, transformers.PreTrainedConfig)
    assert type(hugging.configuration.NativeConfig.from_dict(theirs.to_dict())) is transformers.JanusConfig


@pytest.mark.parametrize("family", ["ctranslate2", "huggingface"])
def test_converted_models_keep_what_stands_around_a_source(tmp_path, family):
    data, name = Path(__file__).parent / "data", {"ctranslate2": "opennmt", "huggingface": "nllb"}[family]
    assert cli.main(["convert", str(data / family / name), "--to", "huggingface", "--out", str(tmp_path / "out")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    config = JanusConfig.from_json((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert tokenizer("").input_ids == config.source_ids([])
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert (model.generation_config.suppress_tokens or []) == config.suppressed
