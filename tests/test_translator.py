"""The public face of decoding: text, tokens, files, streams, threads."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_decoding import make_model, translator_of

from janus_fast import JanusConfig, ScoringResult, Translator, Vocabulary, evaluate, load, save

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{i}" for i in range(5, 40))]
TEXTS = ["w7 w8", "", "w30 w31 w32 w33", "w5", "w9 never-seen w11"]


@pytest.fixture(scope="module", params=[("torch", "float64"), ("engine", "float32")], ids=["torch", "engine"])
def translator(request):
    backend, compute_type = request.param
    vocabulary = Vocabulary(TOKENS)
    return translator_of(make_model(), backend, compute_type=compute_type, vocabularies=(vocabulary, vocabulary))


def test_scores_can_be_left_out(translator):
    with_scores, without = (translator.translate(TEXTS, return_scores=wanted) for wanted in (True, False))
    assert without == [dataclasses.replace(result, scores=[]) for result in with_scores] != with_scores
    with pytest.raises(ValueError, match="return_scores must be one of True, False, got 'no'"):
        translator.translate(TEXTS, return_scores="no")


@pytest.mark.parametrize("mode", ["ar", "nar"])
def test_text_tokens_and_ids_agree(translator, mode):
    texts = translator.translate(TEXTS, mode=mode, num_hypotheses=2)
    tokens = translator.translate_batch([text.split() for text in TEXTS], mode=mode, num_hypotheses=2)
    index = {token: i for i, token in enumerate(TOKENS)}
    ids = translator.generate(
        [[0, *(index.get(t, 3) for t in x.split()), 2] for x in TEXTS], mode=mode, num_hypotheses=2
    )
    for text, token, one in zip(texts, tokens, ids, strict=True):
        assert text.hypotheses == [" ".join(h) for h in token.hypotheses]
        assert token.hypotheses == [[TOKENS[i] for i in h] for h in one.hypotheses]
        assert text.scores == token.scores == one.scores
    assert texts[1].hypotheses == [""] and texts[1].scores == [0.0]


@pytest.mark.parametrize("mode", ["ar", "nar"])
def test_who_asks_hears_of_every_batch(translator, mode):
    heard = []
    translator.translate(TEXTS, mode=mode, max_batch_size=3, on_batch=heard.append)
    assert heard == [3, 1]  # the empty text is in none


def test_a_stream_is_translated_lazily_and_in_order(translator):
    taken = []

    def source():
        for text in TEXTS * 20:
            taken.append(text)
            yield text

    stream = translator.translate_iterable(source(), max_batch_size=2, read_batch_size=6, beam_size=2)
    first = next(stream)
    assert len(taken) == 6
    expected = [r.hypotheses for r in translator.translate(TEXTS, beam_size=2)] * 20
    assert [first.hypotheses, *(r.hypotheses for r in stream)] == expected


def test_a_file_is_translated_line_by_line_and_what_is_done_stays(translator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes("w7 w8\r\n\nw5\u2028w6\nw9".encode())
    assert translator.translate_file(source, output, mode="nar") == 4
    lines = ["w7 w8", "", "w5\u2028w6", "w9"]  # a line feed alone ends a line
    assert output.read_text().split("\n") == [*(r.hypotheses[0] for r in translator.translate(lines, mode="nar")), ""]

    source.write_text("w7 w8\n" * 4 + "w5 " * 40 + "\n")
    message = (
        "source 4 must have at most 32 tokens, bos and eos included, got 42; max_input_length=30 cuts such sources"
    )
    with pytest.raises(ValueError, match=message):
        translator.translate_file(source, output)
    assert len(output.read_text().splitlines()) == 4  # what comes before the mistake is translated
    for existing in (output, tmp_path / "new"):
        with pytest.raises(FileNotFoundError, match=f"source_path must be a file that exists, got {tmp_path}/missing$"):
            translator.translate_file(tmp_path / "missing", existing)
    assert not (tmp_path / "new").exists() and len(output.read_text().splitlines()) == 4
    with pytest.raises(
        ValueError, match="^translate_file: output_path must be in a folder that exists, got .*/no/out: "
    ):
        translator.translate_file(source, tmp_path / "no" / "out")
    with pytest.raises(ValueError, match="output_path must be another file than source_path"):
        translator.translate_file(source, source)
    assert source.read_text().startswith("w7 w8")
    assert translator.translate_file(source, output, max_input_length=30) == 5
    cut = translator.translate_batch([["w5"] * 40, ["w5"] * 30], max_input_length=30)
    assert output.read_text().splitlines()[4] == " ".join(cut[0].hypotheses[0]) == " ".join(cut[1].hypotheses[0])
    source.write_text("w7 w8\n" * 3)
    assert translator.translate_file(source, output, max_batch_size=0) == 3


def test_an_interrupted_stream_keeps_what_came_before(translator):
    def source():
        yield from TEXTS
        raise OSError("the line is dead")

    stream = translator.translate_iterable(source(), beam_size=1)
    assert [r.hypotheses for r in translator.translate(TEXTS, beam_size=1)] == [next(stream).hypotheses for _ in TEXTS]
    with pytest.raises(OSError, match="the line is dead"):
        next(stream)


def test_samples_do_not_depend_on_how_a_stream_is_cut(translator):
    options = {"beam_size": 1, "sampling_topk": 0, "max_decoding_length": 6, "num_hypotheses": 2, "seed": 3}
    texts = ["w7 w8"] * 7
    whole = [r.hypotheses for r in translator.translate(texts, **options)]
    for size in (1, 2, 5):
        stream = translator.translate_iterable(texts, max_batch_size=size, read_batch_size=size, **options)
        assert [r.hypotheses for r in stream] == whole
    assert len({tuple(h) for h in whole}) > 1


def test_ids_may_be_arrays(translator):
    expected = translator.generate([[0, 7, 9, 2]])[0].hypotheses
    for ids in (torch.tensor([[0, 7, 9, 2]]), [torch.tensor([0, 7, 9, 2])], torch.tensor([[0, 7, 9, 2]]).numpy()):
        assert translator.generate(ids)[0].hypotheses == expected


def test_prefixes_as_tokens_and_as_text(translator):
    text = translator.translate(["w7 w8"], target_prefix=["w9 w10"], beam_size=2, max_decoding_length=6)[0]
    tokens = translator.translate_batch([["w7", "w8"]], [["w9", "w10"]], beam_size=2, max_decoding_length=6)[0]
    assert text.hypotheses[0].startswith("w9 w10") and text.hypotheses[0].split() == tokens.hypotheses[0]


@pytest.mark.parametrize("backend", ["engine", "torch"])
@pytest.mark.parametrize("forced", [0, 9])
def test_the_forced_token_begins_every_output(backend, forced):
    model, words = make_model(seed=4, two_stream=False, forced_bos_token_id=forced), Vocabulary(TOKENS)
    translator = translator_of(model, backend, vocabularies=(words, words))
    source, begin = [["w7", "w8"], ["w9"], []], words.tokens_of([forced])
    options = {"beam_size": 2, "max_decoding_length": 6}
    plain = translator.translate_batch(source, **options)
    raw = translator.generate([[0, 7, 8, 2], [0, 9, 2]], [[forced]] * 2, **options)
    assert [words.ids(r.hypotheses[0]) for r in plain[:2]] == [r.hypotheses[0] for r in raw]
    assert plain[2].hypotheses == [[]]
    said = [
        (r.hypotheses, pytest.approx(r.scores, rel=1e-5)) for r in plain
    ]  # torch rounds a row by how many others there are
    for prefixes in ([[], [], []], [None, [], begin], [begin, None, []]):
        given = translator.translate_batch(source, prefixes, **options)
        assert [(r.hypotheses, r.scores) for r in given[:2]] == said[:2]
    for prefixes in ([["w10"], None, []], [[*begin, "w10"], [], None]):
        given = translator.translate_batch(source, prefixes, **options)
        assert given[0].hypotheses[0][:2] == [*begin, "w10"]
        assert [(r.hypotheses, r.scores) for r in given[1:]] == said[1:]
    texts = translator.translate(["w7 w8"], target_prefix=["w10"], **options)[0]
    assert texts.tokens == given[0].hypotheses and texts.hypotheses[0].startswith("w10")
    for result in translator.translate_batch(source, return_alternatives=True, num_hypotheses=2, **options)[:2]:
        assert all(tokens[:1] == begin for tokens in result.hypotheses)
        assert result.hypotheses[0][1:2] != result.hypotheses[1][1:2]
    draft = [r.hypotheses[0][1:] for r in plain]
    greedy = translator.translate_batch(source, beam_size=1, max_decoding_length=6)
    drafted = translator.translate_batch(source, draft=draft, mode="speculative", max_decoding_length=6)
    assert [r.hypotheses for r in drafted] == [r.hypotheses for r in greedy]
    free = translator.generate([[0, 7, 8, 2]], **options)[0].hypotheses
    assert free == translator.generate([[0, 7, 8, 2]], [[]], **options)[0].hypotheses != raw[0].hypotheses
    with pytest.raises(ValueError, match="target_prefix must have one entry a source = 3, got 1"):
        translator.translate_batch(source, [[]], **options)


@pytest.mark.parametrize("source_bos", [False, True])
def test_unknown_words_become_those_of_the_source_that_they_look_at(source_bos):
    words, source = Vocabulary(TOKENS), ["w7", "w30", "w12", "w9"]
    model = make_model(source_bos=source_bos, source_prefix_ids=(4, 4), source_suffix_ids=(3,))
    translator = Translator(model, vocabularies=(words, words))
    options = {"beam_size": 1, "max_decoding_length": 6, "target_prefix": [["never-seen"] * 5]}
    seen = translator.translate_batch([source], return_attention=True, **options)[0]
    ids = translator.config.source_ids(words.ids(source))
    options["target_prefix"] = [[words.unknown] * 5]
    every = translator.generate([ids], return_attention=True, **options)[0].attention[0]
    begin = source_bos + 2
    assert seen.attention[0] == [row[begin : begin + 4] for row in every] and seen.hypotheses[0][:5] == ["<unk>"] * 5
    options["target_prefix"] = [["never-seen"] * 5]
    replaced = translator.translate_batch([source], replace_unknowns=True, **options)[0].hypotheses[0]
    looked = [source[int(np.argmax(row[begin : begin + 4]))] for row in every[:5]]
    assert replaced[:5] == looked
    with pytest.raises(ValueError, match="draft must be None in mode 'ar'"):
        translator.translate_batch([source], draft=[["w7"]], replace_unknowns=True)


def test_scores_of_given_translations(translator):
    best = translator.translate_batch([["w7", "w8"]], beam_size=4, max_decoding_length=12)[0]
    result = translator.score_batch([["w7", "w8"], ["w9"]], [best.hypotheses[0], []])
    assert result[0].tokens == [*best.hypotheses[0], "</s>"] and result[1].tokens == ["</s>"]
    assert result[0].log_probs == pytest.approx(best.token_scores[0], abs=1e-4)
    assert translator.score_batch([], []) == []
    with pytest.raises(ValueError, match="target must have one entry a source = 1, got 2"):
        translator.score_batch([["w7"]], [["w7"], ["w8"]])
    with pytest.raises(ValueError, match="target 0 must have at most 24 tokens, bos and eos included, got 32"):
        translator.score_batch([["w7"]], [["w7"] * 30])


def test_threads_of_torch_are_used_and_put_back():
    before, seen = torch.get_num_threads(), []
    one = Translator(make_model(), intra_threads=before + 1, backend="torch")
    assert one.intra_threads == before + 1
    finish = one.model.encoder.finish
    one.model.encoder.finish = lambda x: seen.append(torch.get_num_threads()) or finish(x)
    one.generate([[0, 7, 2]])
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_a_saved_model_translates_alike(translator, tmp_path):
    vocabularies = (translator.source_vocabulary, translator.target_vocabulary)
    save(translator.reference, tmp_path / "model", vocabularies)
    expected = [r.hypotheses for r in translator.translate(TEXTS)]
    assert [
        r.hypotheses for r in Translator(tmp_path / "model", backend=translator.backend).translate(TEXTS)
    ] == expected
    model, vocabularies = load(str(tmp_path / "model"))
    assert [
        r.hypotheses for r in Translator(model, vocabularies=vocabularies, backend=translator.backend).translate(TEXTS)
    ] == expected
    # a Translator works on a copy: what is done to the model afterwards does not reach it
    copy = Translator(model, vocabularies=vocabularies, backend=translator.backend)
    with torch.no_grad():
        model.output_weight.zero_()
    assert [r.hypotheses for r in copy.translate(TEXTS)] == expected


MISTAKES = [
    ("translate", ("w7",), {}, "texts must be a list of sentences, got str"),
    ("translate", ([["w7"]],), {}, "texts 0 must be a sentence as one string, got list"),
    ("translate", (["w7", "w8 \ud83d"],), {}, "texts 1 must be text without lone surrogates, got '\\ud83d' at"),
    ("translate", (["w7", "w8"],), {"target_prefix": "w9"}, "target_prefix must be a list of sentences, got str"),
    ("translate", (["w7"],), {"target_prefix": [["w9"]]}, "target_prefix 0 must be a sentence as one string, got list"),
    ("translate", (["w7"],), {"target_prefix": []}, "target_prefix must have one entry a source = 1, got 0"),
    ("translate_batch", ("w7",), {}, "source must be a list of token lists, got str"),
    ("translate_batch", (["w7"],), {}, "source 0 must be a list of tokens, got str"),
    ("translate_batch", ([[7, 8]],), {}, "source 0 must hold tokens, which are text, got 7"),
    ("translate_batch", ([["w7"]] * 2, "w9"), {}, "target_prefix must be a list of token lists, got str"),
    ("translate_batch", ([["w7"]], ["w9"]), {}, "target_prefix 0 must be a list of tokens, got str"),
    ("translate_batch", ([["w7"]], [[9]]), {}, "target_prefix 0 must hold tokens, which are text, got 9"),
    ("translate_batch", ([["w7"]],), {"max_input_length": True}, "max_input_length must be an integer of at least 0"),
    ("generate", ("abc",), {}, "source must be a list of id lists, got str"),
    ("generate", (["abc"],), {}, "source 0 must be a list of ids, got str"),
    ("generate", ([["7"]],), {}, "source 0 must hold ids in [0, 40), got '7'"),
    ("generate", ([[7]], "9"), {}, "target_prefix must be a list of id lists, got str"),
    ("generate", ([[7]], ["9"]), {}, "target_prefix 0 must be a list of ids, got str"),
    ("generate", ([[7]], [["9"]]), {}, "target_prefix 0 must hold ids in [0, 40), got '9'"),
    ("generate", ([[7]],), {"first_number": -1}, "first_number must be an integer of at least 0, got -1"),
    ("generate", ([[7]],), {"batch_type": "words"}, "batch_type must be one of 'examples', 'tokens', got 'words'"),
    ("generate", ([],), {"batch_type": "tokens"}, "max_batch_size must be at least 1 with batch_type 'tokens', got 0"),
    ("generate", ([],), {"on_batch": 3}, "on_batch must be a function or None, got 3"),
    ("generate", ([],), {"mode": "nar", "length_beam": 23}, "length_beam must be at most the number of target lengths"),
    ("score", ("w7", ["w8"]), {}, "texts must be a list of sentences, got str"),
    ("score", (["w7"], "w8"), {}, "targets must be a list of sentences, got str"),
    ("score", (["w7"], ["w8"]), {"batch_type": "words"}, "batch_type must be one of 'examples', 'tokens', got 'words'"),
    ("score_batch", (["w7"], ["w8"]), {}, "source 0 must be a list of tokens, got str"),
    ("score_batch", ([["w7"]], [[8]]), {}, "target 0 must hold tokens, which are text, got 8"),
    ("score_batch", ([["w7"]], [["w8"]]), {"batch_type": "tokens"}, "max_batch_size must be at least 1 with batch"),
    ("score_ids", ("ab", [[7]]), {}, "source must be a list of id lists, got str"),
    ("score_ids", ([[7]], [7]), {}, "target 0 must be a list of ids, got int"),
    ("score_ids", ([[7]], []), {}, "target must have one entry a source = 1, got 0"),
    ("translate_file", (None, "x"), {}, "translate_file: source_path must be a path, got NoneType"),
    ("translate_file", (__file__, 3), {}, "translate_file: output_path must be a path, got int"),
    ("translate_file", (__file__, "a\0"), {}, "translate_file: output_path must be a path, which holds no NUL"),
    ("translate_file", ("\ud800", "x"), {}, "translate_file: source_path must be a path that the system can spell"),
    ("translate_file", (b"a", "x"), {}, "translate_file: source_path must be a path, got bytes"),
    ("translate_file", (__file__, "x"), {"resume": "no"}, "translate_file: resume must be one of True, False"),
    ("translate_iterable", ("w7 w8",), {}, "texts must be an iterable of sentences, got str"),
    ("translate_iterable", (["w7"],), {"beam_size": 0}, "beam_size must be an integer of at least 1, got 0"),
    ("translate_iterable", (["w7"],), {"on_batch": "print"}, "on_batch must be a function or None, got 'print'"),
    ("translate_iterable", (["w7"],), {"read_batch_size": 1.5}, "read_batch_size must be an integer of at least 0"),
]  # fmt: skip


@pytest.mark.parametrize("method, arguments, options, message", MISTAKES, ids=[message for *_, message in MISTAKES])
def test_what_is_no_list_is_not_taken_letter_by_letter(translator, method, arguments, options, message):
    with pytest.raises((TypeError, ValueError)) as error:
        getattr(translator, method)(*arguments, **options)
    assert str(error.value).startswith(message)


KEYWORDS = [
    ("score", {"texts": ["w7"], "target": ["w8"]},
     "score: arguments must be among 'texts', 'targets', 'max_batch_size', 'batch_type', got 'target'; did you mean"),
    ("score", {"texts": ["w7"], "targets": ["w8"], "beam_size": 1}, "'batch_type', got 'beam_size'"),
    ("score_batch", {"sources": [["w7"]], "target": [["w8"]]}, "got 'sources'; did you mean 'source'?"),
    ("translate", {"text": ["w7"]}, "must be among 'texts', 'mode', got 'text'; did you mean 'texts'?"),
    ("translate", {"beam_size": 3}, "translate() missing 1 required positional argument: 'texts'"),
    ("translate_batch", {"sources": [["w7"]], "beam_size": 3}, "got 'sources'; did you mean 'source'?"),
    ("translate_iterable", {"text": ["w7"]}, "got 'text'; did you mean 'texts'?"),
    ("translate_file", {"source": "a", "output": "b"}, "got 'source'; did you mean 'source_path'?"),
    ("generate", {"sources": [[7]]}, "got 'sources'; did you mean 'source'?"),
]  # fmt: skip


@pytest.mark.parametrize("method, options, message", KEYWORDS, ids=[message for *_, message in KEYWORDS])
def test_a_keyword_of_no_argument_comes_with_what_is_meant(translator, method, options, message):
    with pytest.raises(TypeError) as error:
        getattr(translator, method)(**options)
    assert message in str(error.value)


def test_what_is_meant_by_a_keyword_or_value_of_the_constructor():
    for options, message in [
        (
            {"compute": "int8"},
            "arguments must be known, got 'compute'; did you mean 'compute_type'? Known are 'model', ",
        ),
        (
            {"backend": "pytorch"},
            "backend must be one of 'auto', 'engine', 'cuda', 'torch', got 'pytorch'; did you mean 'torch'?",
        ),
    ]:
        with pytest.raises((TypeError, ValueError)) as error:
            Translator("en-de-small", **options)
        assert message in str(error.value)


def test_a_vocabulary_takes_lists_and_text(translator):
    vocabulary = translator.source_vocabulary
    for call, message in [
        (lambda: vocabulary.ids("w7"), "Vocabulary: tokens must be a list of tokens, got str"),
        (lambda: vocabulary.decode("w7"), "Vocabulary: tokens must be a list of tokens, got str"),
        (lambda: vocabulary.encode(["w7"]), "Vocabulary: text must be a sentence as one string, got list"),
        (lambda: vocabulary.ids([7]), "Vocabulary: tokens 0 must be a token as a string, got int"),
        (lambda: Vocabulary.train("text"), "Vocabulary: files must be a list of paths, got str"),
        (lambda: Vocabulary.train([1]), "Vocabulary: files 0 must be a path, got int"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()


def test_sequences_of_all_kinds_are_lists(translator):
    options = {"beam_size": 2, "max_decoding_length": 6}
    expected = [r.hypotheses for r in translator.translate(["w7 w8", "w9"], target_prefix=["w9", ""], **options)]
    for kind in (tuple, iter, np.array, lambda items: np.array(items, object)):
        results = translator.translate(kind(["w7 w8", "w9"]), target_prefix=kind(["w9", ""]), **options)
        assert [r.hypotheses for r in results] == expected
    source, prefix = np.array([["w7", "w8"]]), np.array([["w9"]])
    assert translator.translate_batch(source, prefix, **options)[0].hypotheses[0] == expected[0][0].split()
    assert translator.translate_batch((("w7", "w8"), ["w9"]), (("w9",), None), **options)[1].hypotheses == [
        text.split() for text in expected[1]
    ]
    ids = translator.generate(np.array([[0, 7, 8, 2]]), np.array([[9]]), **options)[0].hypotheses[0]
    assert [TOKENS[token] for token in ids] == expected[0][0].split()


def test_numbers_may_be_numpy_s(translator):
    for options in [
        {"beam_size": 3, "num_hypotheses": 2, "length_penalty": 0.5, "max_decoding_length": 6, "max_batch_size": 2},
        {"beam_size": 1, "sampling_topk": 0, "sampling_topp": 0.5, "seed": 3, "max_decoding_length": 6},
        {"mode": "nar", "iterations": 2, "adaptive": False, "return_history": True, "max_input_length": 2},
    ]:
        results = translator.translate(TEXTS, **options)
        held = {name: value if name == "mode" else np.array(value)[()] for name, value in options.items()}
        assert all(isinstance(value, (np.generic, str)) for value in held.values())
        assert translator.translate(TEXTS, **held) == results
        measured = evaluate.evaluate(translator, TEXTS, TEXTS, **held)["options"]
        assert json.loads(json.dumps(measured)) == measured
        assert {name: measured[name] for name in options if name in measured}.items() <= options.items()
    stream = translator.translate_iterable(TEXTS, max_batch_size=np.int32(2), read_batch_size=np.int64(3))
    assert [r.hypotheses for r in stream] == [r.hypotheses for r in translator.translate(TEXTS)]
    config = translator.config
    same = {field.name: np.array(getattr(config, field.name))[()] for field in dataclasses.fields(config)}
    assert JanusConfig(**{**same, "activation": "relu", "positions": "learned"}).to_json() == config.to_json()
    model = translator.reference
    assert Translator(model, intra_threads=np.int64(1), inter_threads=np.int8(1), backend="torch").intra_threads == 1
    for wrong in (True, np.bool_(True), 1.0, np.array(1), "1"):
        with pytest.raises(ValueError, match="intra_threads must be an integer of at least 0"):
            Translator(model, intra_threads=wrong)
        with pytest.raises(ValueError, match="beam_size must be an integer of at least 1"):
            translator.translate(TEXTS, beam_size=wrong)


def test_what_cannot_be_text_ends_a_stream_behind_what_comes_before(translator):
    for wrong, message in [
        ("w8 \udce4", "2 must be text without lone surrogates"),
        (8, "2 must be a sentence as one string, got"),
    ]:
        stream = translator.translate_iterable(iter(["w7 w8", "w9", wrong, "w5"]), beam_size=1)
        expected = translator.translate(["w7 w8", "w9"], beam_size=1)
        assert [next(stream), next(stream)] == expected
        with pytest.raises((TypeError, ValueError), match=message):
            next(stream)


def test_scores_of_text_are_those_of_its_tokens(translator):
    texts, targets = ["w7 w8", "w9"], ["w10 w11 w12", ""]
    scores = translator.score(texts, targets)
    assert scores == translator.score_batch([text.split() for text in texts], [text.split() for text in targets])
    assert isinstance(scores[0], ScoringResult) and scores[0].tokens == ["w10", "w11", "w12", "</s>"]
    best = translator.translate(texts[:1], beam_size=4, max_decoding_length=12)[0]
    assert translator.score(texts[:1], best.hypotheses)[0].log_probs == pytest.approx(best.token_scores[0], abs=1e-4)
    for one, other in zip(translator.score(texts, targets, max_batch_size=4, batch_type="tokens"), scores, strict=True):
        assert one.tokens == other.tokens and one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def test_mistakes_of_targets(translator):
    with pytest.raises(ValueError, match=r"^targets must have one entry a text = 2, got 1$"):
        translator.score(["w7 w8", "w9"], ["w10"])
    with pytest.raises(TypeError, match=r"^targets must be a list of sentences, got str$"):
        translator.score(["w7 w8"], "w10")


def test_it_says_what_it_is():
    translator = Translator("en-de-small", backend="torch", compute_type="float64", intra_threads=1)
    assert repr(translator) == (
        "Translator('en-de-small', backend='torch', device='cpu', compute_type='float64', intra_threads=1, "
        "inter_threads=1)"
    )
    assert repr(Translator(translator.model)).startswith("Translator(a JanusModel, backend=")
