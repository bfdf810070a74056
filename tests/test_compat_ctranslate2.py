"""CTranslate2's interface: its shapes, defaults and errors, and the calls of programs that were written for it."""

import gc
import inspect
import logging
import math
import warnings
from pathlib import Path
from threading import Event, Semaphore, Thread

import pytest

from janus_fast import Translator, engine, save
from janus_fast.compat import ctranslate2
from janus_fast.convert import marian

if engine.missing():
    pytest.skip(engine.missing(), allow_module_level=True)

DATA = Path(__file__).parent / "data" / "marian" / "shared"
LINES = [["▁ba", "▁der", "vo"], ["▁kip", "m", "a", "▁shu"], ["▁"]]
ENDED = [[*line, "</s>"] for line in LINES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model converted from Hugging Face's Marian."""
    path = tmp_path_factory.mktemp("compat") / "model"
    save(*(lambda model, vocabularies: (model, path, vocabularies))(*marian.load(DATA)))
    return str(path)


@pytest.fixture(scope="module")
def translator(folder):
    return ctranslate2.Translator(folder)


def test_sources_end_with_the_caller_where_the_model_says_so(folder, translator):
    own = Translator(folder).translate_batch(LINES, beam_size=2)
    results = translator.translate_batch(ENDED)
    assert [r.hypotheses for r in results] == [r.hypotheses for r in own]
    assert [r.scores for r in results] == [[]] * 3
    scores = [[r.scores for r in translator.translate_batch(lines, return_scores=True)] for lines in (LINES, ENDED)]
    assert scores[0] != scores[1]  # as in CTranslate2, without an end the encoder sees none
    shipped, tokens = ctranslate2.Translator("en-de-small"), ["▁The", "▁cell"]
    one, two = (shipped.translate_batch([[*tokens, *end]], return_scores=True)[0] for end in ([], ["</s>"]))
    own = Translator("en-de-small").translate_batch([tokens], beam_size=2, renormalize_logits=True)[0]
    assert one.scores == own.scores != two.scores  # there it is added


def test_results_as_objects_and_as_of_old(translator):
    result = translator.translate_batch(ENDED, num_hypotheses=2, return_scores=True)[0]
    assert len(result) == len(result.hypotheses) == len(result.scores) == 2
    assert [entry["score"] for entry in result] == result.scores
    assert [entry["tokens"] for entry in result] == result.hypotheses
    assert "attention" not in result[0] and (result.attention, result.logits) == ([], [])
    with pytest.raises(IndexError):
        result[2]


def test_sources_without_words(translator):
    empty = [[], ["</s>"], ["</s>"] * 3]
    for result in translator.translate_batch(empty, num_hypotheses=2, return_scores=True):
        assert (result.hypotheses, result.scores) == ([[], []], [0.0, 0.0])
    for result in translator.translate_batch(empty, [["▁ba", "unheard"], None, None], beam_size=1)[:1]:
        assert result.hypotheses == [["▁ba", "<unk>"]]
    options = {"return_attention": True, "return_scores": True, "num_hypotheses": 2}
    results = translator.translate_batch(empty, [["▁ba"], None, ["▁ba"]], **options)
    assert [r.attention for r in results] == [[[[]]] * 2, [[]] * 2, [[[0.0] * 3]] * 2]
    assert results[0].scores is not results[1].scores
    assert translator.translate_batch([]) == [] == translator.score_batch([], [])
    for offset in (0, 1):  # which it does not count there
        scored = translator.score_batch([[]], [["▁ba"]], offset=offset)[0]
        assert scored == ctranslate2.ScoringResult(["▁ba", "</s>"], [0.0, 0.0])


def test_long_sources_are_cut_and_keep_their_end(translator):
    long = [["▁ba", "▁der"] * 9 + ["</s>"]]
    cut = [[*long[0][:4], "</s>"]]
    assert translator.translate_batch(long, max_input_length=5) == translator.translate_batch(cut)
    assert translator.translate_batch([["▁ba"] * 2000 + ["</s>"]], max_input_length=30)
    scored = translator.score_batch(long, [["▁ba"] * 9], max_input_length=5)[0]
    assert scored.tokens == ["▁ba"] * 4 + ["</s>"]
    assert translator.score_batch(long, [["▁ba"] * 9], max_input_length=5, offset=3)[0] == ctranslate2.ScoringResult(
        scored.tokens[3:], scored.log_probs[3:]
    )


def test_what_was_cut_is_not_looked_at():
    tokens = ["▁The", "▁cell", "▁is", "▁empty", "."]
    result = ctranslate2.Translator("en-de-small").translate_batch(
        [tokens], max_input_length=5, return_attention=True, max_decoding_length=3, num_hypotheses=2
    )[0]  # with bos and eos five are three tokens
    assert all(len(row) == 5 and sum(row[:3]) > 0 and row[3:] == [0, 0] for rows in result.attention for row in rows)


def test_where_the_model_or_the_source_ends(translator):
    """What CTranslate2 refuses, or makes of no words, as docs/drop-in.md says."""
    for result in translator.translate_batch(ENDED, suppress_sequences=[["</s>"]]):
        assert len(result.hypotheses[0]) == 39  # of 40 positions, one is for the start
    assert [r.hypotheses for r in translator.translate_batch(ENDED, max_input_length=1)] == [[[]]] * 3
    assert len(translator.translate_batch(ENDED, beam_size=4, num_hypotheses=4, patience=0.5)[0]) == 4
    with pytest.raises(ValueError, match="num_hypotheses must be at most beam_size = 1, got 2"):
        translator.translate_batch(ENDED, beam_size=1, num_hypotheses=2, patience=2)


def test_arguments_that_ask_for_nothing(translator):
    plain = translator.translate_batch(ENDED)
    for nothing in ({"target_prefix": []}, {"end_token": ""}, {"end_token": []}, {"suppress_sequences": []}):
        assert translator.translate_batch(ENDED, **nothing) == plain
    assert [*translator.translate_iterable(ENDED, asynchronous=True)] == plain


def test_an_output_that_is_its_prefix_alone_comes_as_often_as_was_asked(translator):
    prefix, options = ["▁ba", "m", "f"], {"max_decoding_length": 2, "beam_size": 3, "return_scores": True}
    for count in (1, 3):
        result = translator.translate_batch(ENDED[:1], [prefix], num_hypotheses=count, **options)[0]
        assert result.hypotheses == [prefix[:2]] * count and result.scores == [0.0, -5e9, -5e9][:count]


def test_promises_hold_what_is_returned_at_once(translator):
    promises = translator.translate_batch(ENDED, asynchronous=True, return_scores=True)
    assert {type(one) for one in promises} == {ctranslate2.AsyncTranslationResult}
    assert [one.result() for one in promises] == translator.translate_batch(ENDED, return_scores=True)
    assert all(one.done() for one in promises)
    scored = translator.score_batch(ENDED, LINES, asynchronous=True)
    assert [one.result() for one in scored] == translator.score_batch(ENDED, LINES)
    with pytest.raises(ValueError, match="beam_size"):
        translator.translate_batch(ENDED, asynchronous=True, beam_size=0)[0].result()


def test_streams_and_files(translator, tmp_path):
    expected = translator.translate_batch(ENDED * 20, return_scores=True)
    assert list(translator.translate_iterable(iter(ENDED * 20), max_batch_size=2, return_scores=True)) == expected
    assert list(translator.score_iterable(ENDED, LINES)) == translator.score_batch(ENDED, LINES)
    with pytest.raises(ValueError, match="streams must be of the same length"):
        list(translator.translate_iterable(ENDED, LINES[:1]))
    prefixed = list(translator.translate_iterable(ENDED, [None, ["▁ba"], None], batch_type="tokens"))
    assert prefixed == translator.translate_batch(ENDED, [None, ["▁ba"], None])
    source, output, scores = tmp_path / "in", tmp_path / "out", tmp_path / "scores"
    source.write_text("".join(" ".join(line) + "\n" for line in [*ENDED, []]))
    stats = translator.translate_file(str(source), str(output), with_scores=True)
    best = translator.translate_batch([*ENDED, []], return_scores=True)
    lines = [f"{r.scores[0]:g} ||| {' '.join(r.hypotheses[0])}" for r in best]
    assert output.read_text().splitlines() == lines
    assert (stats.num_examples, stats.num_tokens) == (4, sum(len(r.hypotheses[0]) for r in best))
    assert stats.total_time_in_ms > 0
    translator.translate_file(
        str(source), str(output), num_hypotheses=2, source_tokenize_fn=str.split, target_detokenize_fn="".join
    )
    assert output.read_text().splitlines()[:2] == [
        "".join(h) for h in translator.translate_batch(ENDED, num_hypotheses=2)[0].hypotheses
    ]
    target = tmp_path / "target"
    target.write_text("".join(" ".join(line) + "\n" for line in [*LINES, []]))
    translator.score_file(str(source), str(target), str(scores), with_tokens_score=True)
    first = translator.score_batch(ENDED, LINES)[0]
    mean, tokens, each = scores.read_text().splitlines()[0].split(" ||| ")
    assert float(mean) == pytest.approx(sum(first.log_probs) / len(first.log_probs), rel=1e-5)
    assert tokens.split() == first.tokens and [*map(float, each.split())] == pytest.approx(first.log_probs, rel=1e-5)


def test_a_file_may_be_read_twice_and_is_never_written_over(translator, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    text = "".join(" ".join(line) + "\n" for line in LINES)
    source.write_text(text)
    translator.translate_file(str(source), str(output), str(source), max_decoding_length=9)
    found = translator.translate_batch(LINES, LINES, max_decoding_length=9)
    assert output.read_text().splitlines() == [" ".join(result.hypotheses[0]) for result in found]
    translator.score_file(str(source), str(source), str(output))
    tokens = [line.split(" ||| ")[1] for line in output.read_text().splitlines()]
    assert tokens == [" ".join([*line, "</s>"]) for line in LINES]
    (tmp_path / "link").symlink_to(source)
    one, other, link = str(source), str(output), str(tmp_path / "link")
    for work, paths, read in (
        (translator.translate_file, (one, one), "source_path"), (translator.translate_file, (one, link), "source_path"),
        (translator.translate_file, (other, one, one), "target_path"),
        (translator.score_file, (one, other, one), "source_path"),
        (translator.score_file, (other, one, link), "target_path"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^output_path must be another file than {read}, got "):
            work(*paths)
        assert source.read_text() == text
    for work, paths, wrong in (
        (translator.translate_file, (one, other), {"num_hypotheses": 0}),
        (translator.translate_file, (one, str(tmp_path / "new")), {"max_batch_size": -1}),
        (translator.score_file, (one, one, other), {"max_input_length": -1}),
    ):
        output.write_text("kept")
        with pytest.raises(ValueError, match=next(iter(wrong))):
            work(*paths, **wrong)
        assert output.read_text() == "kept" and not (tmp_path / "new").exists()


def test_a_model_comes_and_goes(folder):
    translator = ctranslate2.Translator(folder, inter_threads=2, intra_threads=1)
    facts = translator.device, translator.device_index, translator.num_translators, translator.tensor_parallel
    assert facts == ("cpu", [0], 2, False) and translator.compute_type == "float32"
    translator.unload_model(to_cpu=True)
    assert translator.model_is_loaded  # on the CPU it is
    translator.unload_model()
    assert not translator.model_is_loaded
    with pytest.raises(RuntimeError, match="^Translator: model must be loaded, got one after unload_model"):
        translator.translate_batch(ENDED)
    translator.load_model()
    assert translator.model_is_loaded and translator.translate_batch(ENDED)
    assert (translator.num_active_batches, translator.num_queued_batches) == (0, 0)


def test_types_by_their_names(folder, caplog):
    computed = {kind: ctranslate2.Translator(folder, compute_type=kind).compute_type for kind in ("int8", "float32")}
    assert computed == {"int8": "int8_float32", "float32": "float32"}
    assert ctranslate2.Translator(folder, compute_type={"cpu": "int8_float32"}).compute_type == "int8_float32"
    assert ctranslate2.Translator(folder, compute_type={"cuda": "int8"}).compute_type == "float32"
    supported = ctranslate2.get_supported_compute_types("cpu")
    assert {"int8", "int8_float32", "float32"} <= supported and "int16" not in supported and not caplog.records
    assert ctranslate2.Translator(folder, compute_type="int16").compute_type == "float32"
    assert caplog.messages == ["Translator: int16 is computed in float32, which is more exact"]
    for kind in ("float16", "int8_float16"):
        with pytest.raises(ValueError, match=f"compute_type must be one of .*'int8_float32'.* here, got '{kind}'"):
            ctranslate2.Translator(folder, compute_type=kind)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_named(translator, tmp_path):
    source = tmp_path / "in"
    source.write_text("".join(" ".join(line) + "\n" for line in ENDED))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'$"):
        translator.translate_file(str(source), "/dev/full")


def test_files_that_are_not_there(translator, tmp_path):
    there, out = tmp_path / "in", tmp_path / "out"
    there.write_text("a\n")
    for call, name in (
        (lambda: translator.translate_file(tmp_path / "no", out), "source_path"),
        (lambda: translator.translate_file(there, out, tmp_path / "no"), "target_path"),
        (lambda: translator.score_file(there, tmp_path / "no", out), "target_path"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"^{name} must be a file that exists, got .*no$"):
            call()
        assert not out.exists()


def test_a_model_in_memory(folder, translator):
    files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    with open(Path(folder) / "config.json", "rb") as opened:
        held = ctranslate2.Translator("a name", files={**files, "config.json": opened})
    expected = [result.hypotheses for result in translator.translate_batch(ENDED)]
    assert [result.hypotheses for result in held.translate_batch(ENDED)] == expected
    held.unload_model()
    held.load_model()
    assert [result.hypotheses for result in held.translate_batch(ENDED)] == expected
    place = Path(held._files.name)
    del held
    gc.collect()
    assert not place.exists()
    for name in ("", "..", "a/b"):
        with pytest.raises(ValueError, match=f"files must have names without folders, got '{name}'"):
            ctranslate2.Translator("a name", files={name: b""})


@pytest.mark.parametrize("most, waits", [(1, True), (-1, False)])
def test_calls_wait_where_the_queue_is_full(folder, most, waits):
    translator, gate, posted = ctranslate2.Translator(folder, max_queued_batches=most), Event(), Semaphore(0)

    def hold(_) -> bool:
        gate.wait()
        return True

    def post() -> None:
        for _ in range(3):
            translator.translate_batch(ENDED[:1], asynchronous=True, beam_size=1, callback=hold)
            posted.release()

    thread = Thread(target=post, daemon=True)
    thread.start()
    assert posted.acquire(timeout=20) and posted.acquire(timeout=20)  # one that is translated, and one that waits
    assert posted.acquire(timeout=0.3 if waits else 20) is not waits
    gate.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"device": "tpu"}, "Translator: device must be one of 'cpu', 'cuda', 'auto', got 'tpu'"),
        ({"device_index": 1}, "Translator: device_index must be 0 on the CPU, got 1"),
        ({"device_index": [0, 1]}, "Translator: device_index must be 0 on the CPU, got [0, 1]"),
        ({"flash_attention": True}, "Translator: flash_attention must be one of False, got True"),
        ({"tensor_parallel": True}, "Translator: tensor_parallel must be one of False, got True"),
        ({"max_queued_batches": -2}, "Translator: max_queued_batches must be an integer of at least -1, got -2"),
        ({"files": {"a/model.bin": b""}}, "Translator: files must have names without folders, got 'a/model.bin'"),
        ({"files": [b""]}, "Translator: files must be a dictionary of names and contents, got list"),
        ({"files": {"config.json": "{}"}}, "Translator: files must hold bytes or open files, got str for config.json"),
        (
            {"compute_type": "int4"},
            "Translator: compute_type must be known, got 'int4'; did you mean 'int8'? Known are 'default', 'auto'",
        ),
    ],
)
def test_mistakes_of_construction(folder, given, message):
    with pytest.raises((ValueError, TypeError)) as error:
        ctranslate2.Translator(folder, **given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "given, kind, message",
    [
        ({"batch_type": "words"}, ValueError, "batch_type must be one of 'examples', 'tokens', got 'words'"),
        ({"target_prefix": [["▁ba"]]}, ValueError, "target_prefix must have one entry a source = 3, got 1"),
        (
            {"beam_sice": 3},
            TypeError,
            "translate_batch: arguments must be known, got 'beam_sice'; did you mean 'beam_size'? Known are ",
        ),
    ],
)
def test_mistakes_of_calls(translator, given, kind, message):
    with pytest.raises(kind) as error:
        translator.translate_batch(ENDED, **given)
    assert str(error.value).startswith(message)


def test_the_module(folder, tmp_path):
    assert ctranslate2.contains_model(folder) and not ctranslate2.contains_model(str(tmp_path))
    assert ctranslate2.contains_model("en-de-small") and not ctranslate2.contains_model("en-de-large")
    assert ctranslate2.get_cuda_device_count() >= 0
    before = ctranslate2.get_log_level()
    ctranslate2.set_log_level(logging.ERROR)
    assert ctranslate2.get_log_level() == logging.ERROR
    ctranslate2.set_log_level(before)


def test_samples_are_drawn_anew_and_repeated_by_their_seed(translator):
    def draw():
        options = {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 3, "sampling_temperature": 3}
        return translator.translate_batch(ENDED[:1], max_decoding_length=8, **options)[0].hypotheses

    ctranslate2.set_random_seed(3)
    first, second = draw(), draw()
    ctranslate2.set_random_seed(3)
    assert first != second and draw() == first
    assert translator.translate_batch(ENDED, sampling_topp=0.3) == translator.translate_batch(ENDED)  # as it is there


# Options that our own search has under other names, or that lie above it


def test_unknown_tokens_are_replaced_by_what_they_look_at(folder, translator):
    options = {"beam_size": 1, "max_decoding_length": 6, "target_prefix": [["unheard", "▁ba"]] * 3}
    plain = translator.translate_batch(ENDED, return_attention=True, **options)
    for line, before, after in zip(
        ENDED, plain, translator.translate_batch(ENDED, replace_unknowns=True, **options), strict=True
    ):
        rows = before.attention[0]
        expected = [
            line[row.index(max(row))] if token == "<unk>" else token
            for token, row in zip(before.hypotheses[0], rows, strict=True)
        ]
        assert after.hypotheses == [expected] and before.hypotheses[0][0] == "<unk>" and after.attention == []
    own = Translator(folder).translate_batch(
        LINES, [["unheard", "▁ba"]] * 3, beam_size=1, replace_unknowns=True, max_decoding_length=6, forced_eos=False,
        renormalize_logits=True, alignment_heads=1,
    )  # fmt: skip
    assert all("<unk>" not in r.hypotheses[0][:1] and r.attention == [] for r in own)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_alternatives_go_on_by_the_likeliest_tokens(translator, beam_size):
    options = {"max_decoding_length": 8, "beam_size": beam_size, "return_scores": True}
    prefixes = [["▁ba"], None, ["▁kip", "m"]]
    results = translator.translate_batch(
        ENDED, prefixes, return_alternatives=True, num_hypotheses=4, return_logits_vocab=beam_size == 1, **options
    )
    for line, prefix, result in zip(ENDED, prefixes, results, strict=True):
        prefix = prefix or []
        firsts = [h[len(prefix)] for h in result.hypotheses]
        assert len(set(firsts)) == 4 and all(h[: len(prefix)] == prefix for h in result.hypotheses)
        likely = [translator.score_batch([line], [[*prefix, token]])[0].log_probs[len(prefix)] for token in firsts]
        assert likely == sorted(likely, reverse=True)
        end = translator.score_batch([line], [prefix])[0].log_probs[-1]  # which may not come first
        likely = [log_prob - math.log1p(-math.exp(end)) for log_prob in likely]
        for h, score, first in zip(result.hypotheses, result.scores, likely, strict=True):
            rest = translator.score_batch([line], [h])[0].log_probs[len(prefix) + 1 :]
            rest = rest[:-1] if len(h) == 8 else rest  # without an end at the longest
            assert score == pytest.approx(first + sum(rest) / max(len(rest), 1), abs=1e-4)
    few = translator.translate_batch(
        ENDED, return_alternatives=True, num_hypotheses=4, min_alternative_expansion_prob=0.9, **options
    )
    assert {len(result) for result in few} == {1}
    sampled = translator.translate_batch(
        ENDED, return_alternatives=True, num_hypotheses=4, sampling_topk=0, **options | {"beam_size": 1}
    )
    plain = translator.translate_batch(ENDED, return_alternatives=True, num_hypotheses=4, **options | {"beam_size": 1})
    assert [[h[:1] for h in r.hypotheses] for r in sampled] == [[h[:1] for h in r.hypotheses] for r in plain]
    assert sampled != plain
    for bad in ({"coverage_penalty": 1}, {"prefix_bias_beta": 0.5, "target_prefix": prefixes}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be 0 with return_alternatives"):
            translator.translate_batch(ENDED, return_alternatives=True, num_hypotheses=2, **bad)


def test_callbacks_hear_every_token_and_can_end(translator):
    heard = []
    options = {"beam_size": 1, "return_scores": True, "max_decoding_length": 6}
    lines = [[], *ENDED]
    results = translator.translate_batch(lines, callback=lambda step: heard.append(step), max_batch_size=2, **options)
    assert results == translator.translate_batch(lines, **options)
    for number, result in enumerate(results[1:], 1):
        steps = [step for step in heard if step.batch_id == number]
        tokens = [step.token for step in steps if step.token != "</s>"]
        assert tokens == result.hypotheses[0] and [step.step for step in steps] == [*range(len(steps))]
        assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]
        assert sum(step.log_prob for step in steps) / len(steps) == pytest.approx(result.scores[0], abs=1e-5)
    short = translator.translate_batch(ENDED, callback=lambda step: step.step == 1, **options)
    assert [r.hypotheses[0] for r in short] == [r.hypotheses[0][:2] for r in results[1:]]

    def fails(step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        translator.translate_batch(ENDED, callback=fails, **options)
    with pytest.raises(ValueError, match="beam_size must be 1 with callback, got 2"):
        translator.translate_batch(ENDED, callback=fails)


def test_tokens_come_one_by_one(translator):
    options = {"max_decoding_length": 6, "min_decoding_length": 4}
    steps = list(translator.generate_tokens(ENDED[0], ["▁ba"], return_log_prob=True, **options))
    whole = translator.translate_batch(ENDED[:1], [["▁ba"]], beam_size=1, **options)[0]
    assert [step.token for step in steps if step.token != "</s>"] == whole.hypotheses[0]
    assert steps[0].log_prob == 0.0 > steps[1].log_prob and steps[-1].is_last
    stream = translator.generate_tokens(ENDED[0], **options)
    assert next(stream).log_prob is None
    stream.close()  # the thread has ended
    assert translator.num_active_batches == 0
    with pytest.raises(ValueError, match="max_decoding_length"):
        list(translator.generate_tokens(ENDED[0], max_decoding_length=0))


def test_samples_tell_callbacks_apart(translator):
    heard = []
    options = {"beam_size": 1, "sampling_topk": 0, "num_hypotheses": 3, "max_decoding_length": 4, "return_scores": True}
    ctranslate2.set_random_seed(1)
    result = translator.translate_batch(ENDED[:1], callback=lambda step: heard.append(step), **options)[0]
    said = [[step.token for step in heard if step.hypothesis_id == k and step.token != "</s>"] for k in range(3)]
    assert sorted(said) == sorted(result.hypotheses)


def test_signatures_name_every_option():
    signature = inspect.signature(ctranslate2.Translator.translate_batch)
    defaults = {name: p.default for name, p in signature.parameters.items() if p.default is not p.empty}
    assert (defaults["beam_size"], defaults["max_input_length"], defaults["return_scores"]) == (2, 1024, False)
    assert len(defaults) == 30


# The calls of programs


def test_the_calls_of_firefox_translations(folder):
    device, device_index = ("cuda", 0) if ctranslate2.get_cuda_device_count() > 0 else ("cpu", 0)
    translator = ctranslate2.Translator(
        folder, device=device, device_index=device_index, compute_type="default", inter_threads=1, intra_threads=2
    )
    results = translator.translate_batch(ENDED, beam_size=2, num_hypotheses=1, return_scores=False)
    assert all(result.hypotheses[0] for result in results)


def test_the_calls_of_argostranslate(folder):
    translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=0, compute_type="auto")
    for count, prefix in ((1, None), (4, [["▁ba"]] * 4)):
        results = translator.translate_batch(
            [*ENDED, []], target_prefix=prefix, replace_unknowns=True, max_batch_size=32, batch_type="tokens",
            beam_size=max(count, 4), num_hypotheses=count, length_penalty=0.2, return_scores=True,
        )  # fmt: skip
        for i in range(count):  # it asks for each of every sentence, with or without words
            assert all(result.hypotheses[i] is not None and result.scores[i] <= 0 for result in results)


@pytest.mark.filterwarnings("error")
def test_the_calls_of_opennmt_py_s_server(folder):
    translator = ctranslate2.Translator(
        folder, device="cpu", device_index=0, inter_threads=1, intra_threads=1, compute_type="default"
    )
    texts = [" ".join(line) for line in ENDED]
    predictions = translator.translate_batch(
        [text.split() for text in texts], target_prefix=None, beam_size=3, max_batch_size=32, num_hypotheses=2,
        max_decoding_length=8, min_decoding_length=1, return_scores=True, return_attention=True,
    )  # fmt: skip
    scores = [[item["score"] for item in group] for group in predictions]
    words = [[" ".join(item["tokens"]) for item in group] for group in predictions]
    attention = [[item["attention"] for item in group] for group in predictions]
    assert all(len(group) == 2 for group in (*scores, *words, *attention))
    for line, group, rows in zip(ENDED, words, attention, strict=True):
        for text, matrix in zip(group, rows, strict=True):
            assert [len(row) for row in matrix] == [len(line)] * len(text.split())
            assert [sum(row) for row in matrix] == pytest.approx([1.0] * len(matrix), abs=1e-5)
    translator.unload_model(to_cpu=True)
    translator.unload_model()
    translator.load_model()
    assert translator.translate_batch([texts[0].split()])[0].hypotheses[0]


def test_the_calls_of_argonaut_translator(folder):
    translator = ctranslate2.Translator(folder, device="cpu", inter_threads=1, intra_threads=1)
    results = translator.translate_batch(
        ENDED, target_prefix=[["▁ba"]] * 3, beam_size=2, max_batch_size=1024, batch_type="tokens", disable_unk=True
    )
    assert all("<unk>" not in result.hypotheses[0] for result in results)


def test_the_calls_of_hf_hub_ctranslate2(folder):
    translator = ctranslate2.Translator(folder, device="cpu", device_index=0, compute_type="int8")
    results = translator.translate_batch(ENDED, target_prefix=[["▁ba"]] * 3, max_decoding_length=12, beam_size=3)
    assert all(result.hypotheses[0][0] == "▁ba" and result.hypotheses[0][1:] for result in results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert translator.translate_batch(ENDED, max_batch_size=2, batch_type="examples")
