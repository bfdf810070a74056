"""Marian models in Hugging Face's format give the ids, logits and outputs that transformers gives.

Logits agree within 1e-4 (absolute), as those of the original JANUS code do.
"""

import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoding import translator_of

from janus_fast import Translator, Vocabulary, checkpoint, cli
from janus_fast.convert import marian
from janus_fast.decoding import AutoregressiveOptions
from janus_fast.objectives.streams import causal_streams, join
from janus_fast.packing import pack

DATA = Path(__file__).parent / "data" / "marian"  # record.py there says what it holds


@pytest.fixture(scope="module", params=["shared", "separate"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def cases(name):
    return json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["torch", "engine"])
def translator(request, name):
    model, vocabularies = marian.load(DATA / name)
    return translator_of(model, request.param, vocabularies=vocabularies)


@pytest.fixture
def directory(tmp_path):
    """A copy of a Marian model, to be changed."""
    return Path(shutil.copytree(DATA / "shared", tmp_path / "marian"))


def change(path, changes):
    """Sets keys of a JSON object; None takes one out."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def change_tensors(directory, changes):
    path = directory / "model.safetensors"
    save_file({key: value for key, value in (load_file(path) | changes).items() if value is not None}, path)


def logits(model, source, target):
    """Scores of the vocabulary behind every token of ``target`` but the last."""
    batch = join(*pack([source]), [causal_streams(*pack([target]))])
    with torch.no_grad():
        encoded = model.encode(batch.source, batch.source_offsets)
        return model.logits(model.decode(batch.tokens, batch.positions, batch.visibility, encoded, batch.cross))


# What transformers gives


def test_text_has_the_same_ids(translator, cases):
    for case in cases:
        tokens = translator.source_vocabulary.encode(case["text"])
        assert translator.config.source_ids(translator.source_vocabulary.ids(tokens)) == case["ids"]
    assert any(translator.source_vocabulary.unknown in case["ids"] for case in cases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_logits(name, cases, dtype):
    expected, model = load_file(DATA / name / "logits.safetensors"), marian.load(DATA / name)[0].to(dtype)
    for number, case in enumerate(cases):
        target = model.config.target_ids(case["searches"][0]["output"][:-1])
        actual = logits(model, case["ids"], target)
        assert actual.shape == expected[str(number)].shape
        words = torch.arange(actual.shape[1]) != model.config.pad_token_id
        assert (actual - expected[str(number)])[:, words].abs().max() <= 1e-4


def test_the_same_outputs_and_scores(translator, cases):
    for number in range(4):
        search = cases[0]["searches"][number]
        results = translator.generate(
            [case["ids"] for case in cases], beam_size=search["beam_size"], length_penalty=search["length_penalty"],
            min_decoding_length=0, max_decoding_length=36,
        )  # fmt: skip
        for case, result in zip(cases, results, strict=True):
            expected = case["searches"][number]
            assert result.hypotheses[0] + [translator.config.eos_token_id] == expected["output"]
            if expected["score"] is not None:
                assert result.scores[0] == pytest.approx(expected["score"], abs=1e-5)
    assert len({len(case["searches"][0]["output"]) for case in cases}) > 5


def test_the_same_text(translator, cases):
    options = {"beam_size": 1, "min_decoding_length": 0, "max_decoding_length": 36}
    results = translator.translate([case["text"] for case in cases], **options)
    assert [result.hypotheses[0] for result in results] == [case["translation"] for case in cases]


# What Marian gives, which has no pad

PROBABILITIES = {"▁ba": 0.5, "</s>": 0.3, "▁der": 0.1, "▁": 0.075, "<unk>": 0.025}  # of every token, at every step


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def steady(request, tmp_path_factory):
    """A model directory whose every step has these probabilities, where pad's logit is 0 and would get .8."""
    directory = Path(shutil.copytree(DATA / "shared", tmp_path_factory.mktemp("steady") / "marian"))
    index = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    tensors = {name: torch.zeros_like(tensor) for name, tensor in load_file(directory / "model.safetensors").items()}
    bias = torch.full((1, 45), -60.0)
    bias[0, 44] = 0.0
    for token, probability in PROBABILITIES.items():
        bias[0, index[token]] = math.log(0.2 * probability / 0.8)
    save_file({**tensors, "final_logits_bias": bias}, directory / "model.safetensors")
    converted = directory.parent / "converted"
    assert cli.main(["convert", str(directory), "--out", str(converted), "--quantization", request.param]) == 0
    return converted, request.param


@pytest.mark.parametrize("backend", ["torch", "engine"])
def test_pad_takes_no_probability_from_the_words(steady, backend):
    directory, stored = steady
    tolerance = 1e-4 if stored != "bfloat16" else 6 * 2**-8  # of the largest logit
    translator = translator_of(directory, backend, compute_type=stored if backend == "engine" else "float32")

    def near(*probabilities):
        return pytest.approx([math.log(p) for p in probabilities], abs=tolerance)

    scored = translator.score_batch([["▁ba"]], [["▁ba", "▁der"]])[0]
    assert scored.log_probs == near(0.5, 0.1, 0.3)
    greedy = translator.translate_batch([["▁ba"]], beam_size=1, max_decoding_length=3)[0]
    assert greedy.hypotheses == [["▁ba"] * 3] and greedy.token_scores[0] == near(0.5, 0.5, 0.5, 0.3)
    beams = translator.translate_batch(
        [["▁ba"]], beam_size=2, num_hypotheses=2, max_decoding_length=1, length_penalty=0.0
    )[0]
    assert beams.hypotheses == [["▁ba"], ["▁der"]] and beams.scores == near(0.5 * 0.3, 0.1 * 0.3)
    drawn = translator.translate_batch(
        [["▁ba"]], beam_size=1, sampling_topk=0, num_hypotheses=40, max_decoding_length=3
    )[0]
    for tokens, scores in zip(drawn.hypotheses, drawn.token_scores, strict=True):
        assert scores == near(*(PROBABILITIES[token] for token in [*tokens, "</s>"]))
    assert len({token for tokens in drawn.hypotheses for token in tokens}) > 2


# What it makes


def test_a_converted_model_has_marians_shape(name):
    model, (source, target) = marian.load(DATA / name)
    config, shared = model.config, name == "shared"
    assert (config.two_stream, config.source_bos, config.output_bias, config.activation) == (False, False, True, "silu")
    assert config.decoder_start_token_id == config.pad_token_id == target.index["<pad>"]
    assert (config.eos_token_id, config.unk_token_id) == (0, 1)
    assert (config.share_all_embeddings, config.share_decoder_embeddings) == (shared, True)
    assert (source.tokens == target.tokens) == shared and not model.training
    assert config.max_source_positions == config.max_target_positions == 40


def test_it_survives_saving(name, translator, cases, tmp_path):
    vocabularies = translator.source_vocabulary, translator.target_vocabulary
    checkpoint.save(marian.load(DATA / name)[0], tmp_path, vocabularies)
    assert {f"{side}{suffix}" for side in ("source", "target") for suffix in (".model", ".json")} < set(
        os.listdir(tmp_path)
    )
    texts, options = [case["text"] for case in cases], {"beam_size": 2, "max_decoding_length": 36}
    expected = [(result.hypotheses, result.scores) for result in translator.translate(texts, **options)]
    again = Translator(tmp_path, backend=translator.backend).translate(texts, **options)
    assert [(result.hypotheses, result.scores) for result in again] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_in_pytorchs_own_format(directory, dtype):
    """The older files hold every alias of the embeddings and the position tables, too."""
    state = {name: tensor.to(dtype) for name, tensor in load_file(directory / "model.safetensors").items()}
    table = state["model.shared.weight"]
    state |= dict.fromkeys(("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"), table)
    state["lm_head.weight"] = table
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = marian.position_table(40, 16).to(dtype)
    expected = marian.load(directory)[0]
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    model, _ = marian.load(directory)
    assert model.config == expected.config
    for (parameter, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(dtype).float()), parameter


def test_an_output_of_its_own_and_no_bias(directory):
    weight = torch.randn(45, 16)
    change_tensors(directory, {"lm_head.weight": weight, "final_logits_bias": None})
    model, _ = marian.load(directory)
    assert torch.equal(model.output_weight, weight)
    assert model.output_bias.tolist() == [0.0] * 44 + [marian.NEVER]  # pad alone has one
    assert not model.config.share_all_embeddings and not model.config.share_decoder_embeddings


def test_position_tables_are_marians():
    table = marian.position_table(7, 6)
    angle = 5 / 10000 ** (2 * 2 / 6)  # position 5, the third frequency of three
    assert table.shape == (7, 6)
    assert table[5, 2] == pytest.approx(torch.tensor(angle).sin()) and table[5, 5] == pytest.approx(
        torch.tensor(angle).cos()
    )


def test_pieces_that_the_target_side_does_not_know():
    _, (source, target) = marian.load(DATA / "shared")
    assert target.decode(["▁ba", "ke", "▁der"]) == "bake der"  # of the source's sentencepiece model
    assert source.encode(">>deu<< ba") == [">>deu<<", "▁ba"]
    assert ">>fra<<" not in source.encode(">>fra<< ba")
    assert target.encode("") == [] and target.decode([]) == ""


def test_the_command_converts_what_it_is_given(directory, tmp_path, capsys):
    out = tmp_path / "model"
    assert cli.main(["convert", str(directory), "--out", str(out)]) == 0
    said, generate, longest = capsys.readouterr().out.splitlines()
    assert said == f"{out}: 10,165 parameters, 45 target tokens" and "generate would search with" in generate
    assert longest == (
        f"{out}: no longest length is there: generate stops behind 20 tokens then, calls here behind "
        "max_decoding_length, 256 unless it is given"
    )
    (tmp_path / "text").write_text("mo\nnunu\n")
    assert cli.main(["translate", str(out), str(tmp_path / "text"), "--max-decoding-length", "36"]) == 0
    assert capsys.readouterr().out == "kip\nshushu\n"
    assert cli.main(["convert", str(directory), "--out", str(tmp_path / "new"), "--source-dict", "x"]) == 2
    assert "--source-dict must be left out with a model directory" in capsys.readouterr().err
    assert cli.main(["translate", str(out), str(tmp_path / "text"), "--mode", "nar"]) == 2
    assert "mode must be 'ar', 'speculative' or 'auto' with an ordinary Transformer" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files(directory, suffix):
    expected, state = marian.load(directory)[0], load_file(directory / "model.safetensors")
    name, places = ("model" if suffix == "safetensors" else "pytorch_model"), {}
    for number in range(3):
        part = {key: state[key] for key in sorted(state)[number::3]}
        file = f"{name}-{number}.{suffix}"
        save_file(part, directory / file) if suffix == "safetensors" else torch.save(part, directory / file)
        places |= dict.fromkeys(part, file)
    (directory / "model.safetensors").unlink()
    index = directory / f"{name}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    model, _ = marian.load(directory)
    assert model.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    (directory / f"{name}-1.{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}-1\.{suffix} must be a file that exists"):
        marian.load(directory)
    for other, got in (({"x": "../elsewhere.bin"}, r"\['../elsewhere.bin'\]"), ({"x": 1}, r"\[1\]"), ([], r"\[\]")):
        index.write_text(json.dumps({"weight_map": other}))
        with pytest.raises(ValueError, match=rf"index\.json must name files beside it in 'weight_map', got {got}"):
            marian.load(directory)


def test_added_tokens(directory):
    """As ``add_tokens`` and ``resize_token_embeddings`` leave them: numbers behind those of pad."""
    change(directory / "config.json", {"vocab_size": 47, "decoder_vocab_size": 47})
    table = load_file(directory / "model.safetensors")["model.shared.weight"]
    longer = torch.cat([table, torch.ones(2, 16)])
    change_tensors(directory, {"model.shared.weight": longer, "final_logits_bias": torch.zeros(1, 47)})
    (directory / "added_tokens.json").write_text('{">>fra<<": 45, "TAG": 46}')
    with pytest.warns(
        UserWarning, match=r"added_tokens\.json: text is not searched .* so 'TAG' can be given as a token"
    ):
        model, (source, target) = marian.load(directory)
    assert source.ids(source.encode(">>fra<< ba")) == [45, 33]  # what transformers 5.23 gives, too
    assert target.tokens[44:] == ["<pad>", ">>fra<<", "TAG"]
    assert model.output_bias.nonzero().tolist() == [[44]]


def test_settings_of_generation(directory):
    plain = {"pad_token_id": 44, "eos_token_id": 0, "forced_eos_token_id": 0, "bad_words_ids": [[44]]}
    (directory / "generation_config.json").write_text(json.dumps(plain | {"decoder_start_token_id": 43}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = marian.load(directory)
    assert model.config.decoder_start_token_id == 43 and model.config.trained_modes == ("ar",)
    never = {"bad_words_ids": [[44], [7]], "suppress_tokens": [5], "forced_bos_token_id": 9}
    (directory / "generation_config.json").write_text(json.dumps(plain | never))
    model, vocabularies = marian.load(directory)
    source, target = vocabularies
    assert (model.config.suppress_tokens, model.config.forced_bos_token_id) == ((5, 7, 44), 9)
    for backend in ("torch", "engine"):
        translator = translator_of(model, backend, vocabularies=vocabularies)
        for result in translator.translate_batch(
            [source.tokens_of([5, 6, 7]), source.tokens_of([8])], beam_size=3, num_hypotheses=3
        ):
            hypotheses = [target.ids(tokens) for tokens in result.hypotheses]
            assert all(ids[0] == 9 and not {5, 7} & {*ids} for ids in hypotheses)


SEARCHES = {  # what a model is told, the options that do it, and what is lacking
    "nothing": ({}, "beam_size=1", ""),
    "of OPUS-MT": ({"num_beams": 6, "max_length": 512, "forced_eos_token_id": 0, "length_penalty": 1.0},
                   "beam_size=6, early_stopping=False, forced_eos=True, max_decoding_length=510", ""),
    "of summaries": ({"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "min_length": 56,
                      "max_length": 142, "no_repeat_ngram_size": 3, "diversity_penalty": 0.5},
                     "beam_size=4, length_penalty=2.0, no_repeat_ngram_size=3, forced_eos=False, "
                     "max_decoding_length=141, min_decoding_length=55", "diversity_penalty = 0.5"),
    "drawing": ({"do_sample": True, "top_p": 0.9, "num_return_sequences": 2, "max_new_tokens": 9, "min_p": 0.1,
                 "top_k": 7},
                "beam_size=1, sampling_topk=7, sampling_topp=0.9, num_hypotheses=2, forced_eos=False, "
                "max_decoding_length=9", "min_p = 0.1"),
    "words": ({"bad_words_ids": [[44], [7, 8]], "repetition_penalty": 1.5},
              "beam_size=1, repetition_penalty=1.5, renormalize_logits=True, suppress_sequences=[[7, 8]]", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", SEARCHES)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])  # transformers 4 and before had the latter
def test_how_transformers_would_search_is_said(directory, tmp_path, capsys, case, file):
    told, options, lacking = SEARCHES[case]
    if file == "generation_config.json":
        (directory / file).write_text("{}")
    change(directory / file, told)
    assert cli.main(["convert", str(directory), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"would search with {options}: each call must" in lines[1]
    more = [] if "max_decoding_length" in options else ["no longest length is there: generate stops behind 20 tokens"]
    more += [f"nothing here does its {lacking}"] if lacking else []
    assert len(more) == len(lines[2:]) and all(said in line for said, line in zip(more, lines[2:], strict=True))
    given = {name: json.loads(value.replace("True", "true").replace("False", "false"))
             for name, value in (option.split("=") for option in re.split(r", (?=[a-z])", options))}  # fmt: skip
    AutoregressiveOptions(**given)  # which they are


# What it refuses


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "source.spm", "target.spm", "vocab.json"])
def test_missing_files(directory, name):
    (directory / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} must be a file that exists"):
        marian.load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, r"""config\.json must hold "model_type": "marian", got 'bart'"""),
        ({"d_model": None}, r"config\.json must hold every setting of the model, got no 'd_model'"),
        ({"normalize_before": True}, r"normalize_before must be off .it is not part of JanusModel., got True"),
        ({"decoder_attention_heads": 4}, r"encoder and decoder must have the same attention_heads, got \[2, 4\]"),
        ({"activation_function": "tanh"}, "activation must be one of .* got 'tanh'"),
        ({"vocab_size": 10**9}, r"vocab\.json must number the model's 1000000000 tokens from 0 on, got 45"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings must be at most 131072, got 1000000000"),
        ({"d_model": 10**9}, "d_model must be what the configuration says, 1000000000, got 16"),
        ({"eos_token_id": 10**9}, "the number eos_token_id = 1000000000, got None"),
        ({"activation_function": [1]}, r"activation_function must be a name, got \[1\]"),
        ({"vocab_size": 46}, r"vocab\.json must number the model's 46 tokens from 0 on, got 45"),
        ({"eos_token_id": 2}, r"vocab\.json must give '</s>' the number eos_token_id = 2, got '>>deu<<'"),
        ({"decoder_ffn_dim": 25}, "decoder_ffn_dim must be what the configuration says, 25, got 24"),
        ({"decoder_layers": 10**9}, "decoder_layers must be what the configuration says, 1000000000, got 2"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be an integer of at least 1, got 0"),
    ],
)
def test_settings_that_are_refused(directory, changes, message):
    change(directory / "config.json", changes)
    with pytest.raises(ValueError, match=message):
        marian.load(directory)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forced_decoder_ids": [[1, 7]]}, r"forced_decoder_ids must be off .nothing here does it., got \[\[1, 7\]\]"),
        ({"begin_suppress_tokens": [7]}, r"begin_suppress_tokens must be off .nothing here does it., got \[7\]"),
        ({"bad_words_ids": [[44], 7]}, r"bad_words_ids must be lists of token ids, got \[\[44\], 7\]"),
        ({"num_beams": 0}, "num_beams must be an integer of at least 1, got 0"),
        ({"length_penalty": "x"}, "length_penalty must be a finite number, got 'x'"),
        ({"forced_eos_token_id": 7}, "forced_eos_token_id must be 0 or null, got 7"),
    ],
)
def test_settings_of_generation_that_are_refused(directory, file, changes, message):
    if file == "generation_config.json":
        (directory / file).write_text("{}")
    change(directory / file, changes)
    with pytest.raises(ValueError, match=rf"{file}: {message}"):
        marian.load(directory)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "added_tokens.json"])
def test_files_without_an_object(directory, file, content):
    (directory / file).write_bytes(content.encode("latin-1"))
    rule = "be UTF-8 text" if content == "\xff" else "hold a JSON object"
    with pytest.raises(ValueError, match=rf"{file} must {rule}, got "):
        marian.load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.shared.weight": None}, "every parameter of the model, got no 'encoder.embed_tokens.weight'"),
        ({"model.decoder.layers.1.fc2.bias": None}, "every parameter of the model, got no 'decoder.layers.1.fc2.bias'"),
        ({"model.encoder.layer_norm.weight": torch.ones(16)}, "both sides or neither must have a final norm, got one"),
        ({"final_logits_bias": torch.ones(1, 44)}, r"projection\.bias must have shape \[45\], got \[44\]"),
        ({"final_logits_bias": torch.full((1, 45), float("nan"))}, r"projection\.bias must hold finite numbers alone"),
    ],
)
def test_weights_that_are_refused(directory, changes, message):
    change_tensors(directory, changes)
    with pytest.raises(ValueError, match=message):
        marian.load(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"vocab\.json must hold a JSON object of tokens and numbers, got "),
        ('["a"]', r"vocab\.json must hold a JSON object of tokens and numbers, got "),
        ('{"</s>": 0, "<unk>": "1"}', r"vocab\.json must hold a JSON object of tokens and numbers, got "),
        ('{"</s>": 0, "<unk>": 0}', r"vocab\.json must number the model's 45 tokens from 0 on, got 2"),
    ],
)
def test_vocabularies_that_are_refused(directory, content, message):
    (directory / "vocab.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        marian.load(directory)


def test_vocabularies_without_an_unknown_token(directory):
    change(directory / "vocab.json", {"<unk>": None, "<unknown>": 1})
    with pytest.raises(ValueError, match=r"vocab\.json: Vocabulary: tokens must hold the unknown token '<unk>'"):
        marian.load(directory)


def test_unsafe_pickles_are_refused_and_run_nothing(directory, tmp_path):
    class Call:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    (directory / "model.safetensors").unlink()
    torch.save({"model.shared.weight": Call()}, directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"tensors and plain values alone, got \w+\.mkdir \(nothing was executed\)"):
        marian.load(directory)
    assert not (tmp_path / "trace").exists()


def test_a_list_may_number_the_pieces_of_a_model_anew(tmp_path):
    _, (source, _) = marian.load(DATA / "shared")
    assert source.renumbered and not Vocabulary.from_sentencepiece(DATA / "shared" / "source.spm").renumbered
    source.save(tmp_path, "source")
    again = Vocabulary.read(tmp_path, "source")
    assert again.renumbered and again.tokens == source.tokens and again.encode("ba ke") == source.encode("ba ke")
    assert Vocabulary.read(tmp_path, "target") is None
