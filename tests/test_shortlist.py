"""Shortlists: what sources can become, in every mode and on every backend; how they are read, written and found."""

import copy

import numpy as np
import pytest
from test_decoding import make_model, make_sources, rounding_error

from janus_fast import Translator, Vocabulary, cli, engine, models, reference, save
from janus_fast.decoding import (
    AutoregressiveOptions,
    NonAutoregressiveOptions,
    SemiAutoregressiveOptions,
    SpeculativeOptions,
)
from janus_fast.decoding.options import untaken
from janus_fast.text import VocabularyMap, lexicon

SIZE, SPECIALS = 40, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
VOCABULARY = Vocabulary([*SPECIALS, *(f"t{i}" for i in range(5, SIZE))])
ALWAYS = {0, 2, 3}  # bos, eos and unk
MODES = {
    "greedy": {"beam_size": 1, "max_decoding_length": 7},
    "beam": {"beam_size": 3, "num_hypotheses": 3, "max_decoding_length": 7},
    "more than there are": {"beam_size": 20, "num_hypotheses": 5, "max_decoding_length": 2},
    "every logit": {"beam_size": 2, "repetition_penalty": 1.5, "max_decoding_length": 5},
    "renormalised": {"beam_size": 2, "renormalize_logits": True, "min_decoding_length": 3, "max_decoding_length": 5},
    "nar": {"mode": "nar", "length_beam": 2, "num_hypotheses": 2},
    "blocks": {"mode": "semi_nar", "block_length": 3, "max_decoding_length": 7},
    "speculative": {"mode": "speculative", "drafter": "model", "adaptive_drafts": False, "max_decoding_length": 7},
}
MODES["streams ahead"] = {**MODES["speculative"], "draft_threshold": 0.0}
DEFINITIONS = {
    "ar": (reference.beam_search, AutoregressiveOptions), "nar": (reference.mask_predict, NonAutoregressiveOptions),
    "semi_nar": (reference.semi_nar, SemiAutoregressiveOptions),
    "speculative": (reference.speculative, SpeculativeOptions),
}  # fmt: skip
BACKENDS = [("torch", "float64"), *([] if engine.missing() else [("engine", "float32")])]
needs_engine = pytest.mark.skipif(engine.missing() is not None, reason=str(engine.missing()))


def make_map() -> VocabularyMap:
    """Some words for each word, more for a phrase, two for any source; nothing for the word 9."""
    random = np.random.default_rng(0)
    rules = {(word,): np.sort(random.choice(np.arange(5, SIZE), 2, replace=False)) for word in range(10, SIZE)}
    return VocabularyMap({(): [6, 7], **rules, (12, 13): [30, 31, 32]}, SIZE)


@pytest.fixture(scope="module")
def model():
    return make_model(seed=4)


def saved(model, path):
    save(model, path, (VOCABULARY, VOCABULARY))
    make_map().write(path / "vmap.txt", VOCABULARY, VOCABULARY)
    return path


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return saved(model, tmp_path_factory.mktemp("shortlist"))


def test_what_a_source_can_become():
    words = make_map()
    assert words.candidates([9]).tolist() == [6, 7]
    assert words.candidates([], [2]).tolist() == [2, 6, 7]
    one, two = (set(words.rules[word,].tolist()) for word in (12, 13))
    assert set(words.candidates([13, 12]).tolist()) == {6, 7} | one | two
    assert set(words.candidates([12, 13]).tolist()) == {6, 7, 30, 31, 32} | one | two


def test_files_are_ctranslate2s(tmp_path):
    path = tmp_path / "vmap.txt"
    make_map().write(path, VOCABULARY, VOCABULARY)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "\tt6 t7" and "t12 t13\tt30 t31 t32" in lines and lines[-1] == ""
    again = VocabularyMap.read(path, VOCABULARY, VOCABULARY)
    assert {phrase: words.tolist() for phrase, words in again.rules.items()} == {
        phrase: words.tolist() for phrase, words in make_map().rules.items()
    }
    for text, message in (
        ("t5 t6\n", "line 1 must hold a phrase, a tab and target tokens, got 't5 t6'"),
        ("\tt6\nt99\tt6\n", "line 2 must hold tokens of the source vocabulary, got 't99'"),
        ("t5\tt6 t98\n", "line 1 must hold tokens of the target vocabulary, got 't98'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            VocabularyMap.read(path, VOCABULARY, VOCABULARY)
        assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("label", MODES)
def test_every_backend_does_what_the_definition_does(model, folder, label, tmp_path):
    if label == "streams ahead":
        model = make_model(seed=4, streams_ahead=3)
        folder = saved(model, tmp_path)
    options, sources = {**MODES[label], "use_vmap": True}, make_sources(5, seed=2)
    given = dict(options)
    definition, kind = DEFINITIONS[given.pop("mode", "ar")]
    prefixes = [[7, 9], [], [33], [], []] if "nar" not in label else None
    words = [
        make_map().candidates(source, ALWAYS.union(prefix))
        for source, prefix in zip(sources, prefixes or [[]] * 5, strict=True)
    ]
    more = {"prefixes": prefixes} if prefixes else {}
    exact = copy.deepcopy(model).double()
    expected = definition(exact, sources, kind(**given), words=words, **more)
    free = definition(exact, sources, kind(**given), **more)
    assert [[h.ids for h in group] for group in expected] != [[h.ids for h in group] for group in free]
    for backend, compute_type in BACKENDS:
        translator = Translator(folder, backend=backend, compute_type=compute_type)
        tolerance = 4 * rounding_error(model, compute_type) + 2e-6
        for result, truth, own in zip(translator.generate(sources, prefixes, **options), expected, words, strict=True):
            assert result.hypotheses == [h.ids for h in truth]
            if options.get("mode") != "speculative":  # where the engine lets the sentences of a batch draft together
                assert result.iterations == [h.iterations for h in truth]
            assert {token for ids in result.hypotheses for token in ids} <= set(own.tolist())
            for scores, h in zip(result.token_scores, truth, strict=True):
                assert scores == pytest.approx(h.token_scores, abs=tolerance)


@needs_engine
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("label", ["beam", "every logit", "nar", "sampling"])
def test_neither_batch_nor_threads_change_a_bit(folder, compute_type, label):
    options = {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 2, "max_decoding_length": 6, "seed": 3}
    options = {**MODES.get(label, options), "use_vmap": True}
    sources = make_sources(7)
    alone = Translator(folder, compute_type=compute_type, intra_threads=1)
    expected = [alone.generate([s], first_number=n, **options)[0] for n, s in enumerate(sources)]
    assert alone.generate(sources, **options) == expected
    together = Translator(folder, compute_type=compute_type, intra_threads=2)
    assert together.generate(sources, max_batch_size=4, **options) == expected


@needs_engine
@pytest.mark.parametrize(
    "options", [AutoregressiveOptions(max_decoding_length=4, num_hypotheses=3), NonAutoregressiveOptions(rerank=True)]
)
def test_lists_of_several_groups_of_words(options):
    """The engine cuts vocabularies into groups of 256 words: lists end within one, with one, and behind several."""
    size, random = 1000, np.random.default_rng(0)
    model, sources = make_model(size, seed=4), make_sources(4, seed=5, vocabulary=size, longest=6)
    words = [np.union1d([0, 2, 3], random.choice(np.arange(5, size), count)) for count in (20, 256, 300, 900)]
    words[1] = np.arange(256)
    backend = Translator(model, backend="engine", intra_threads=2)._backend
    definition = DEFINITIONS["ar" if isinstance(options, AutoregressiveOptions) else "nar"][0]
    expected = definition(copy.deepcopy(model).double(), sources, options, words=words)
    free = backend.decode(sources, options, [0, 1, 2, 3], None)
    for _ in range(2):  # nothing is left of a list in the call behind it
        short = backend.decode(sources, options, [0, 1, 2, 3], None, words=words)
        assert [[h.ids for h in group] for group in short] == [[h.ids for h in group] for group in expected]
        assert backend.decode(sources, options, [0, 1, 2, 3], None) == free != short


@needs_engine
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("isa", () if engine.missing() else engine.isas())
def test_all_words_are_no_shortlist(folder, compute_type, isa, monkeypatch):
    """To the bit: with every word in it, a batch computes what it does without."""
    monkeypatch.setenv("JANUS_FAST_ISA", isa)
    translator, every = Translator(folder, compute_type=compute_type), [np.arange(SIZE)] * 4
    sources = make_sources(4)
    for options in (AutoregressiveOptions(num_hypotheses=5), NonAutoregressiveOptions(rerank=True)):
        one, other = (
            translator._backend.decode(sources, options, [0, 1, 2, 3], None, words=words) for words in (None, every)
        )
        assert one == other


@needs_engine
def test_what_memory_depends_on_is_checked(folder):
    backend = Translator(folder)._backend
    for words, message in (
        ([[5, 5]], "Decoder: words must ascend, got 5"),
        ([[]], "Decoder: words 0 must have 1 to 40 tokens, got 0"),
        ([[40]], r"Decoder: words must hold ids in \[0, 40\), got 40"),
        ([[5], [5]], "Decoder: words must have one sequence for each source, got 2"),
    ):
        for options in (AutoregressiveOptions(), NonAutoregressiveOptions(rerank=False), SpeculativeOptions()):
            with pytest.raises(ValueError, match=message):
                backend.decode([[0, 7, 2]], options, [0], None, words=[np.array(own) for own in words])


def test_mistakes(model, tmp_path):
    with pytest.raises(ValueError, match="^Translator: model must be a directory with vmap.txt for use_vmap, got a"):
        Translator(model).generate([[0, 7, 2]], use_vmap=True)
    save(model, tmp_path, (VOCABULARY, VOCABULARY))
    translator = Translator(tmp_path)
    assert not translator.has_vocabulary_map
    with pytest.raises(FileNotFoundError, match="must hold vmap.txt for use_vmap, which is not there; `janus-fast sho"):
        translator.translate_batch([["t7"]], use_vmap=True)
    with pytest.raises(ValueError, match="^use_vmap must be true or false, got 1"):
        translator.translate_batch([["t7"]], use_vmap=1)
    for options in (AutoregressiveOptions, NonAutoregressiveOptions, SpeculativeOptions):
        assert "use_vmap" in untaken("cuda", options(use_vmap=True), model.config)
    make_map().write(tmp_path / "vmap.txt", VOCABULARY, VOCABULARY)
    assert translator.translate_batch([["t7"]], use_vmap=True)[0].hypotheses
    save(model, tmp_path, (VOCABULARY, VOCABULARY))
    assert not translator.has_vocabulary_map  # which was that of other vocabularies


TEXT = "a b\nb c\na c\nc\n", "x y\ny z\nx z\nz\n"


@pytest.fixture
def text(tmp_path):
    files = tmp_path / "text.a", tmp_path / "text.x"
    for file, lines in zip(files, TEXT, strict=True):
        file.write_text(lines)
    return [str(file) for file in files]


@pytest.fixture
def two(tmp_path):
    """A model with two vocabularies."""
    sides = [Vocabulary([*SPECIALS, *words, *(f"{words}{i}" for i in range(32))]) for words in ("abc", "xyz")]
    model = make_model(share_all_embeddings=False, share_decoder_embeddings=False)
    save(model, tmp_path / "two", sides)
    return str(tmp_path / "two")


def test_words_that_occur_together_translate_each_other():
    source, target = ([np.array([ord(c) - 97 for c in line.split()]) for line in side.splitlines()] for side in TEXT)
    target = [ids - 23 for ids in target]
    pairs, probability = lexicon.by_ibm_model_1(source, target, 3, iterations=20)
    table = np.zeros(9)
    table[pairs] = probability
    np.testing.assert_allclose(table.reshape(3, 3).sum(1), 1)
    assert table.reshape(3, 3).argmax(1).tolist() == [0, 1, 2] and table.reshape(3, 3).max(1).min() > 0.9
    one = lexicon.by_ibm_model_1(source, target, 3, iterations=1)[1]  # of the first iteration, by hand
    np.testing.assert_allclose(one, [0.5, 0.25, 0.25, 0.25, 0.5, 0.25, 1 / 6, 1 / 6, 2 / 3])
    links = [np.array([[0, 0], [1, 1]])] * 3 + [np.array([[0, 0]])]
    pairs, probability = lexicon.by_links(source, target, 3, links)
    assert (pairs.tolist(), probability.tolist()) == ([0, 4, 8], [1, 1, 1])


def test_the_command(two, text, tmp_path, capsys):
    command = ["shortlist", two, "--source", text[0], "--target", text[1], "--first", "1"]
    assert cli.main([*command, "--best", "1"]) == 0
    assert "a sentence may become 2 of 40 tokens on average" in capsys.readouterr().out
    map_of = (tmp_path / "two" / "vmap.txt").read_text
    assert map_of() == "\tz\na\tx\nb\ty\n"  # z can always be said
    links = tmp_path / "links"
    links.write_text("0-0 1-1\n0-0 1-1\n0-1\n0-0\n")
    assert cli.main([*command, "--alignments", str(links)]) == 0
    assert map_of() == "\tz\na\tx\nb\ty\n"
    assert cli.main([*command[:-1], "0", "--alignments", str(links)]) == 0
    assert map_of() == "a\tx z\nb\ty\nc\tz\n"
    assert cli.main([*command[:-1], "0", "--alignments", str(links), "--threshold", "0.6"]) == 0
    assert map_of() == "b\ty\nc\tz\n"
    for content, message in (
        ("0-0\n", "--alignments must have as many lines as --source = 4, got 1"),
        ("0-2\n\n\n\n", "--alignments must hold links such as 0-0 between 2 and 2 tokens in line 1, got '0-2'"),
        (
            "0-0-1 0-0-1\n\n\n\n",
            "--alignments must hold links such as 0-0 between 2 and 2 tokens in line 1, got '0-0-1 0-0-1'",
        ),
        ("\n0:0\n\n\n", "--alignments must hold links such as 0-0 between 2 and 2 tokens in line 2, got '0:0'"),
    ):
        links.write_text(content)
        assert cli.main([*command, "--alignments", str(links)]) == 2
        assert message in capsys.readouterr().err
    links.write_text("x y\n")
    assert cli.main([*command, "--target", str(links)]) == 2 and "same number of lines" in capsys.readouterr().err
    assert cli.main([*command, "--threshold", "2"]) == 2
    assert "--threshold must be a finite number in [0, 1], got 2.0" in capsys.readouterr().err


def test_a_shipped_model_stays_as_it_is(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = models.locate("en-de-small") / "vmap.txt"
    before, command = shipped.read_bytes(), ["shortlist", "en-de-small", "--source", text[0], "--target", text[1]]
    assert cli.main(command) == 2
    assert "--out must be given with a shipped model, which is not changed, got none; `janus-fast convert en-de-sm" in (
        capsys.readouterr().err
    )
    assert cli.main([*command, "--out", "vmap.txt"]) == 0 and "vmap.txt: " in capsys.readouterr().out
    own = (tmp_path / "vmap.txt").read_text(encoding="utf-8")
    assert any(line.startswith("▁b\t") for line in own.splitlines()) and shipped.read_bytes() == before
    for file, message in (("no/vmap.txt", "--out must be in a folder that exists"), (text[0], "than --source")):
        assert cli.main([*command, "--out", file]) == 2 and message in capsys.readouterr().err


def test_words_of_a_shared_vocabulary_may_stay_as_they_are(folder, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).write_text("t9 t8\n")
    save(make_model(), tmp_path / "model", (VOCABULARY, VOCABULARY))
    files = ["--source", str(tmp_path / "a"), "--target", str(tmp_path / "b")]
    assert cli.main(["shortlist", str(tmp_path / "model"), *files, "--first", "0"]) == 0
    words = VocabularyMap.read(tmp_path / "model" / "vmap.txt", VOCABULARY, VOCABULARY)
    assert words.candidates([20]).tolist() == [20] and words.candidates([9]).tolist() == [8, 9]


def test_conversion_takes_it_along(folder, tmp_path):
    from test_ctranslate2_models import DATA

    assert cli.main(["convert", str(folder), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "vmap.txt").read_bytes() == (folder / "vmap.txt").read_bytes()
    assert cli.main(["convert", str(DATA / "bart"), "--out", str(tmp_path / "ours")]) == 0
    tokens = Translator(tmp_path / "ours").target_vocabulary.tokens
    (tmp_path / "ours" / "vmap.txt").write_text("\t" + " ".join(tokens[10:20]) + "\n")
    assert cli.main(["convert", str(tmp_path / "ours"), "--to", "ctranslate2", "--out", str(tmp_path / "theirs")]) == 0
    assert (tmp_path / "theirs" / "vmap.txt").read_bytes() == (tmp_path / "ours" / "vmap.txt").read_bytes()


@needs_engine
def test_callers_written_for_ctranslate2(tmp_path):
    from test_ctranslate2_models import DATA

    from janus_fast.compat import ctranslate2 as compat

    assert cli.main(["convert", str(DATA / "bart"), "--out", str(tmp_path / "ours")]) == 0
    translator, sources = compat.Translator(str(tmp_path / "ours")), [["a", "b"]]
    tokens = Translator(tmp_path / "ours").source_vocabulary.tokens
    sources = [tokens[12:18], tokens[20:23]]
    free = translator.translate_batch(sources, use_vmap=True)  # as there, of a model without a map
    assert free == translator.translate_batch(sources)
    words = Translator(tmp_path / "ours").target_vocabulary.tokens[10:14]
    (tmp_path / "ours" / "vmap.txt").write_text("\t" + " ".join(words) + "\n")
    said = {token for r in translator.translate_batch(sources, use_vmap=True) for token in r.hypotheses[0]}
    assert said and said <= {*words, "<s>", "<unk>"}
