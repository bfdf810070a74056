"""CeMAT's aligned code-switching: which words are replaced and masked, the loss of that, runs by the command line."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import test_train
import torch
from test_cli import run
from test_objectives_permuted import cemat_by_definition
from test_train import SCHEDULE, SIZES
from test_training import make_config, make_data, make_model

from janus_fast import Vocabulary, cli, directory, models
from janus_fast.objectives import OBJECTIVES
from janus_fast.training import code_switching
from janus_fast.training.code_switching import CodeSwitching, read_dictionary
from janus_fast.training.data import BatchStream

parallel = test_train.parallel
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ENGLISH = "house dog cat the big a".split()
GERMAN = "Haus Gebäude Hund Katze Kater das groß dick ein".split()
VOCABULARY = Vocabulary([*SPECIALS, *ENGLISH, *GERMAN, ".", ",", "(", "Haus@@", "boot", "große", "House"])
DICTIONARY = "House haus\nhouse\tGebäude\tHeim\n\ndog Hund\ncat Katze  Kater\nbig groß\nbig dick\nbig groß\n"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "words").write_text(DICTIONARY, encoding="utf-8")
    return str(tmp_path / "words")


def make(file, share=1.0, monolingual=False, vocabulary=VOCABULARY, **config):
    options = SimpleNamespace(dictionary=file, switch_ratio=share)
    return CodeSwitching(options, read_dictionary(options.dictionary), make_config(**config), vocabulary, monolingual)


def ids(text, vocabulary=VOCABULARY):
    return [0, *vocabulary.ids(vocabulary.encode(text)), 2]


def switched(switching, source, target, seed=0, vocabulary=VOCABULARY):
    """What becomes of a pair, as text, with what stands in for others in brackets, and masked words as masks."""
    pair = ids(source, vocabulary), ids(target, vocabulary)
    found, replaced, masked = switching.switched(*pair, torch.Generator().manual_seed(seed))
    assert found[0] == 0 and found[-1] == 2 and len(found) == len(replaced) and len(masked) == len(pair[1])
    shown = [f"[{token}]" if own else token for token, own in zip(vocabulary.tokens_of(found), replaced, strict=True)]
    told = ["_" if own else token for token, own in zip(vocabulary.tokens_of(pair[1]), masked, strict=True)]
    return " ".join(shown[1:-1]), " ".join(told[1:-1])


def test_dictionaries(file, tmp_path):
    assert read_dictionary(file) == {
        "house": ["haus", "Gebäude", "Heim"], "dog": ["Hund"], "cat": ["Katze", "Kater"], "big": ["groß", "dick"]
    }  # fmt: skip
    for text, message in (
        ("a b\nalone\n", "--dictionary must hold a word and translations of it in line 2 of .*wrong, got 'alone'"),
        (
            "a b\n\ndog\tder Hund\n",
            "--dictionary must hold single words between the tabs of line 3 of .*wrong, got 'der H",
        ),
        ("a\t \n", "--dictionary must hold a word and translations of it in line 1 of .*wrong, got 'a"),
        (" \n\n", "--dictionary must hold words, got .* without any"),
    ):
        (tmp_path / "wrong").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_dictionary(tmp_path / "wrong")


def test_aligned_words_become_other_translations_and_the_target_is_masked(file):
    every = make(file)
    found = {switched(every, "the house , the big house", "das Haus , das große Haus", seed) for seed in range(40)}
    # everywhere; big has no translation there, and haus and Heim are not in this vocabulary
    assert found == {("the [Gebäude] , the big [Gebäude]", "das _ , das große _")}
    assert switched(every, "a dog", "ein Hund") == ("a dog", "ein Hund")  # which has no other translation
    assert switched(every, "the big cat", "das dick Kater") == ("the [groß] [Katze]", "das _ _")
    assert switched(every, "big", "dick groß") == ("[dick]", "dick _")  # with the first of its translations
    assert switched(every, "House .", "( Haus , boot") == switched(every, "house .", "( Haus , boot")
    assert switched(every, "big", "Haus@@ boot dick") == ("[groß]", "Haus@@ boot _")
    assert switched(every, "house", "Haus@@ boot") == ("house", "Haus@@ boot")  # a part of a word is none
    assert switched(every, "", "") == ("", "")
    alike = make(file, monolingual=True)
    assert switched(alike, "the big cat", "the big cat")[1] == "the _ _"
    assert {switched(alike, "<mask> big", "a big", seed)[0] for seed in range(20)} == {"<mask> [groß]", "<mask> [dick]"}
    assert switched(alike, "big", "groß") == ("big", "groß")


def test_as_many_as_are_asked_for(file):
    pair = "the big cat a dog . house", "das groß Katze ein Hund . Haus"  # three of six words can be
    for share, least, most, mean in ((0.0, 0, 0, 0), (0.15, 0, 1, 0.9), (0.25, 1, 2, 1.5), (1.0, 3, 3, 3)):
        switching, counts, words = make(file, share), [], Counter()
        for seed in range(300):
            source, target = switched(switching, *pair, seed)
            counts.append(source.count("["))
            assert target.count("_") == source.count("[")
            words.update(n for n, token in enumerate(target.split()) if token == "_")
        assert least == min(counts) and most == max(counts) and abs(np.mean(counts) - mean) < 0.1
        assert all(abs(count - sum(counts) / 3) < 60 for count in words.values())  # each alike
    assert len({switched(make(file, 0.15), *pair, seed) for seed in range(300)}) == 1 + 3  # none, or one of them


def test_a_source_stays_within_the_model_s_positions(tmp_path):
    (tmp_path / "words").write_text("cat Katze\n")
    switching = make(str(tmp_path / "words"), max_source_positions=5)
    switching.translations["cat"]["hausboot"] = (VOCABULARY.ids(["Haus@@", "boot"]), [3])
    assert switched(switching, "a cat", "ein Katze") == ("a [Haus@@] [boot]", "ein _")
    assert switched(switching, "cat a cat", "ein Katze") == ("cat a cat", "ein Katze")


def test_words_in_pieces(file):
    vocabulary = directory.read_vocabularies(models.locate("en-de-small"))[0]
    switching = make(file, vocabulary=vocabulary)
    text = "(The house), the big-cat. Housework is 1,5 m² ..."
    words = [word for _, word in switching.words(ids(text, vocabulary))]
    assert words == ["the", "house", "the", "big-cat", "housework", "is", "1,5", "m2"]
    line = "the Big house", "das grosse Haus, Hauses, (Haus) groß."
    source, target = (ids(each, vocabulary) for each in line)
    for (begin, end), word in switching.words(target):
        assert vocabulary.decode(vocabulary.tokens_of(target[begin:end])).casefold() == word
    found = {}
    for seed in range(20):
        whole, replaced, masked = switching.switched(source, target, torch.Generator().manual_seed(seed))
        left = [t for t, own in zip(whole, replaced, strict=True) if not own]
        assert vocabulary.decode(vocabulary.tokens_of(left[1:-1])) == "the"
        told = [t for t, own in zip(target, masked, strict=True) if own]
        assert vocabulary.decode(vocabulary.tokens_of(told)) == "HausHaus groß"
        found[vocabulary.decode(vocabulary.tokens_of(whole[1:-1]))] = None
    assert {*found} == {"the dick Gebäude", "the dick Heim"}


def test_marks_stay_beside_their_words(tmp_path):
    """No space comes between a mark and the word behind it, in pieces and, before a mark, in BPE."""
    vocabulary = directory.read_vocabularies(models.locate("en-de-small"))[0]
    (tmp_path / "words").write_text("dog Hund Katze\nhouse Haus Gebäude\n")
    switching = make(str(tmp_path / "words"), vocabulary=vocabulary)
    for source, target, expected in (
        ("a (dog) is", "ein (Hund) ist", "a (Katze) is"),
        ("dog, (dog", "Hund", "Katze, (Katze"),
        ("house (house) -house", "Haus", "Gebäude (Gebäude) -Gebäude"),
    ):
        found, replaced, _ = switching.switched(ids(source, vocabulary), ids(target, vocabulary), torch.Generator())
        assert vocabulary.decode(vocabulary.tokens_of(found[1:-1])) == expected
        assert sum(replaced) < len(found) - 2  # the marks are the source's own
    parts = Vocabulary([*SPECIALS, "dog", "dog@@", "cat@@", "cat", "Hund", "Katze", "Katze@@", "Kater", ")", "("])
    (tmp_path / "words").write_text("dog Hund Katze Kater\n")
    switching = make(str(tmp_path / "words"), vocabulary=parts)
    found = {switched(switching, "dog@@ )", "Hund", seed, parts) for seed in range(20)}
    assert found == {("[Katze@@] )", "_")}  # there is no Kater@@
    found = {switched(switching, "dog )", "Hund", seed, parts)[0] for seed in range(20)}
    assert found == {"[Katze] )", "[Kater] )"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_loss_is_that_of_the_definition(dtype):
    exact = make_model(dropout=0.0).double()
    data, random = make_data(6), np.random.default_rng(0)
    sources, targets = ([list(map(int, line)) for line in side] for side in (data.sources, data.targets))
    flags = []
    for side in (sources, targets):
        own = [[0 < n < len(line) - 1 and random.random() < 0.3 for n in range(len(line))] for line in side]
        flags.append(torch.tensor(sum(own, [])))
    model = make_model(dropout=0.0).to(dtype)
    objective = OBJECTIVES["cemat"](model.config, label_smoothing=0.0, source_mask_ratio=(0.4, 0.8))
    batch = objective.pack(sources, targets, torch.Generator().manual_seed(1), switched=tuple(flags))
    plain = objective.pack(sources, targets, torch.Generator().manual_seed(1))
    assert batch.totals["nar"] > plain.totals["nar"] and batch.totals["encoder"] <= plain.totals["encoder"]
    loss, _ = objective.loss(model, batch)
    expected = cemat_by_definition(exact, objective, sources, targets, tuple(flags))
    bound = {"atol": 2e-6, "rtol": 1e-6} if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(loss.double(), expected, **bound)


def test_batches_depend_on_their_number_and_shares_are_of_one_batch(file):
    data, config = make_data(20), make_config()
    line = "the big cat a dog . house", "das groß Katze ein Hund . Haus"
    data.sources, data.targets = ([np.array(ids(each))] * 20 for each in line)
    data.switching = make(file, 0.5)
    objective = OBJECTIVES["cemat"](config)

    def batches(start, share=(0, 1)):
        stream, found = BatchStream(data, objective, 60, seed=5, start=start, share=share), []
        for number, epoch, batch in stream:
            if epoch == 2:
                break
            found.append((number, batch.source.tolist(), batch.tokens.tolist()))
        stream.close()
        return found

    every = batches(0)
    assert batches(3) == every[3:] and len({str(source) for _, source, _ in every}) == len(every)
    shares = [batches(0, (rank, 2)) for rank in range(2)]
    for (_, source, _), parts in zip(every, zip(*shares, strict=True), strict=True):
        assert sorted(sum((part[1] for part in parts), [])) == sorted(source)


def test_a_run_reads_its_dictionary_once(parallel, tmp_path, monkeypatch, capsys):
    words, found = tmp_path / "words", []
    words.write_text("the der die\na ein eine\nof von aus\nand und sowie\n")
    monkeypatch.setattr(code_switching, "read_dictionary", lambda file: found.append(file) or read_dictionary(file))
    options = ["--objective", "cemat", "--dictionary", words, "--max-updates", 1, "--out", tmp_path / "out"]
    run("train", "--data", parallel, *SIZES, *SCHEDULE, *options)
    assert found == [str(words)]


def test_a_run_goes_on_with_its_dictionary(parallel, tmp_path, capsys):
    words = tmp_path / "words"
    words.write_text("the der die\na ein eine\nof von aus\nand und sowie\n")
    command = ["train", "--data", parallel, *SIZES, *SCHEDULE, "--objective", "cemat"]
    switches = ["--dictionary", words, "--switch-ratio", 0.5]
    run(*command, *switches, "--out", tmp_path / "whole", "--max-updates", 4)
    run(*command, *switches, "--out", tmp_path / "parts", "--max-updates", 2)
    run(*command, "--out", tmp_path / "parts", "--max-updates", 4)
    run(*command, "--out", tmp_path / "without", "--max-updates", 4)
    whole, parts, without = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts", "without")
    )
    assert whole == parts != without
    training = json.loads((tmp_path / "whole/train.json").read_text())["training"]
    assert training["dictionary"] == str(words) and training["switch_ratio"] == 0.5
    capsys.readouterr()
    for options, message in (
        (["--dictionary", tmp_path / "no"], "--dictionary must be a file that exists, got "),
        (["--dictionary", words, "--objective", "cmlm"], "--dictionary must be left out with objective 'cmlm', got "),
        (["--switch-ratio", 0.15], "--switch-ratio must be left out with no dictionary, got 0.15"),
        (["--dictionary", words, "--switch-ratio", 2], "--switch-ratio must be a finite number in [0, 1], got 2.0"),
    ):
        assert cli.main([*map(str, [*command, "--out", tmp_path / "new", *options])]) == 2
        assert message in capsys.readouterr().err
    assert cli.main([*map(str, [*command, *switches, "--out", tmp_path / "without", "--max-updates", 5])]) == 2
    assert f"--dictionary must be left out, as when the run in {tmp_path / 'without'} began" in capsys.readouterr().err
    words = words.rename(tmp_path / "moved")  # the same words, by whatever name
    switches[1] = words
    run(*command, *switches, "--out", tmp_path / "whole", "--max-updates", 5)
    run(*command, *switches, "--out", tmp_path / "parts", "--max-updates", 5)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    run(*command, "--out", tmp_path / "parts", "--max-updates", 6)  # where they are now
    capsys.readouterr()
    words.write_text("the den\n")
    assert cli.main([*map(str, [*command, "--out", tmp_path / "parts", "--max-updates", 7])]) == 2
    assert "--dictionary must hold the words that the run in " in capsys.readouterr().err
    words.write_text("the\n")
    assert cli.main([*map(str, [*command, *switches, "--out", tmp_path / "new"])]) == 2
    assert "--dictionary must hold a word and translations of it in line 1 of " in capsys.readouterr().err
    words.write_text("die the\nxyzzy eins zwei\nthe die\n")  # of the other direction, of no word here, without another
    assert cli.main([*map(str, [*command, *switches, "--out", tmp_path / "new"])]) == 2
    rule = (
        "--dictionary must hold a translation that can replace a word of the text, where the target has one translation"
    )
    assert f"{rule} of the word, got {words}, by which none can be" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
