"""The text of fairseq's models: dictionaries, and the codes of subword-nmt."""

import golden
import pytest
from test_convert import DICTIONARIES, save, settings, transformer

from janus_fast import Translator, Vocabulary, cli
from janus_fast.convert import fairseq
from janus_fast.text.vocabulary import read_codes

CODES = "#version: 0.2\nl o\nlo w</w>\ne r</w>\nn e\n"
PIECES = ["low", "lo@@", "w@@", "er", "ne@@", "s@@", "t", "x"]


@pytest.mark.parametrize(
    "ending", ["9", "9 ", "9\t", "9 \t ", "9\r", "-0", "-17", "+3"], ids=lambda ending: ending.encode().hex()
)
def test_counts_and_blanks_that_fairseq_reads(tmp_path, ending):
    (tmp_path / "dict.txt").write_bytes(f"▁ab {ending}\na b {ending}\n".encode())
    assert fairseq.read_dictionary(tmp_path / "dict.txt").tokens == ["<s>", "<pad>", "</s>", "<unk>", "▁ab", "a b"]


def test_tokens_that_overwrite_earlier_ones(tmp_path):
    """As in fairseq: text is read as the last id, the first ones stay, and unk is always 3."""
    lines = "<s> 1 #fairseq:overwrite\n<unk> 1 #fairseq:overwrite\nab 9\ncd 8\nab 7 #fairseq:overwrite\n"
    (tmp_path / "dict.txt").write_text(lines)
    vocabulary = fairseq.read_dictionary(tmp_path / "dict.txt")
    vocabulary.save(tmp_path, "vocabulary")
    for read in (vocabulary, Vocabulary.read(tmp_path, "vocabulary")):
        assert read.tokens == ["<s>", "<pad>", "</s>", "<unk>", "<s>", "<unk>", "ab", "cd", "ab"]
        assert read.ids(["<s>", "ab", "cd", "<unk>", "unseen"]) == [4, 8, 7, 5, 3]
        assert read.tokens_of([0, 6, 8]) == ["<s>", "ab", "ab"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one_word", r"must hold lines 'token count', got 'one_word' in line 117"),
        ("word many", r"must hold lines 'token count', got 'word many' in line 117"),
        ("w000 1", "must hold a token once, got 'w000' twice, again in line 117"),
        ("<pad> 1", "must hold a token once, got '<pad>' twice, again in line 117"),
        ("word 1 #fairseq:other", r"must hold lines 'token count', got 'word 1 #fairseq:other' in line 117"),
        ("word #fairseq:overwrite", r"must hold lines 'token count', got 'word #fairseq:overwrite' in line 117"),
        ("more 1", "must hold the checkpoint's 120 tokens, 4 special ones included, got 121"),
    ],
)
def test_dictionaries_that_are_refused(tmp_path, line, message):
    path = tmp_path / "dict.txt"
    path.write_text(DICTIONARIES[0].read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"dict\.txt.*{message}"):
        fairseq.load(golden.CHECKPOINT, path, DICTIONARIES[1])


def test_dictionaries_belong_together(tmp_path):
    with pytest.raises(ValueError, match="target_dict must be given, too, when the other dictionary is, got None"):
        fairseq.load(golden.CHECKPOINT, DICTIONARIES[0])
    lines = DICTIONARIES[0].read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(ValueError, match="target_dict must equal source_dict when embeddings are shared"):
        fairseq.load(golden.CHECKPOINT, DICTIONARIES[0], tmp_path / "dict.txt")


# Codes


@pytest.fixture
def files(tmp_path):
    """A checkpoint, its dictionary, with more words than the codes need, and codes."""
    words = [*PIECES, *(f"word{number}" for number in range(26 - len(PIECES)))]
    (tmp_path / "dict.txt").write_text("".join(f"{word} 1\n" for word in words))
    (tmp_path / "codes").write_text(CODES)
    arguments = settings(arch="transformer", encoder_attention_heads=2, decoder_attention_heads=2)
    return save(tmp_path / "model.pt", transformer(), arguments), tmp_path / "dict.txt", tmp_path / "codes"


def test_text_is_encoded_and_put_together_again(files, tmp_path, capsys):
    pytest.importorskip("subword_nmt", reason="needs subword-nmt: pip install subword-nmt")
    path, dictionary, codes = map(str, files)
    out = tmp_path / "model"
    given = ["--source-dict", dictionary, "--target-dict", dictionary, "--bpe", codes]
    assert cli.main(["convert", path, *given, "--out", str(out)]) == 0
    assert "model: text must be tokenised as for its training, which is not done here\n" in capsys.readouterr().out
    assert (out / "vocabulary.codes").read_text() == CODES
    translator = Translator(out)
    vocabulary = translator.source_vocabulary
    tokens = ["low", "lo@@", "w@@", "er", "ne@@", "s@@", "t", "x"]
    assert vocabulary.encode("low lower  nest x") == tokens  # the first word is a merge, the last one character
    assert vocabulary.decode(tokens) == "low lower nest x"
    assert vocabulary.decode(["low", "ne@@"]) == "low ne"  # a word that was not finished, as fairseq prints it
    by_text = translator.translate(["low lower nest x"], max_decoding_length=8)[0].hypotheses
    by_token = translator.translate_batch([tokens], max_decoding_length=8)[0].hypotheses
    assert by_text == [vocabulary.decode(words) for words in by_token]


def test_what_goes_in_is_said(files, tmp_path, capsys):
    path, dictionary, codes = map(str, files)
    dictionaries = ["--source-dict", dictionary, "--target-dict", dictionary]
    for name, given, message in (
        ("ids", [], "ids: without dictionaries it takes ids alone"),
        (
            "pieces",
            dictionaries,
            "pieces: text must be tokenised and BPE-encoded (--bpe does that) as for its training",
        ),
    ):
        assert cli.main(["convert", path, *given, "--out", str(tmp_path / name)]) == 0
        assert message in capsys.readouterr().out
    assert cli.main(["convert", path, "--bpe", codes, "--out", str(tmp_path / "x")]) == 2
    assert "bpe must go with source_dict and target_dict" in capsys.readouterr().err.replace(
        "--source-dict", "source_dict"
    ).replace("--target-dict", "target_dict")
    assert not (tmp_path / "x").exists()


def test_codes_that_have_lost_their_version(tmp_path):
    (tmp_path / "codes").write_text(CODES.partition("\n")[2])
    with pytest.raises(ValueError, match="codes must begin with the line '#version: 0.2', as its merges are of that"):
        read_codes(tmp_path / "codes")
    (tmp_path / "codes").write_text("l o\nw </w>\nlo w</w>\n")  # of version 0.1, which has no such line
    assert read_codes(tmp_path / "codes") == "l o\nw </w>\nlo w</w>\n"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ("", r"two symbols a line, got '' in line 1"),
        ("#version: 0.2\nl o 17\n", r"two symbols a line, got 'l o 17' in line 2"),
        ("#version: 0.3\nl o\n", r"two symbols a line, got '#version: 0\.3' in line 1"),
    ],
)
def test_codes_that_are_refused(files, codes, message):
    path, dictionary, file = files
    file.write_text(codes)
    with pytest.raises(ValueError, match=rf"Vocabulary: .*codes must hold subword-nmt's codes, {message}"):
        fairseq.load(path, dictionary, dictionary, file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="codes must be a file that exists"):
        fairseq.load(path, dictionary, dictionary, file)
