"""What a vocabulary is trained on."""

from janus_fast import Vocabulary


def test_long_lines_are_trained_on_too(tmp_path):
    long = "the quick brown fox jumps over the lazy dog " * 200
    assert 4192 < len(long) < 2**16  # bytes; above the first number sentencepiece leaves out lines as it comes
    (tmp_path / "long").write_text(long)
    (tmp_path / "text").write_text(f"{long}\n{'a e i o u ' * 30}\n")
    for name in ("long", "text"):
        assert set("abcdefghijklmnopqrstuvwxyz") <= {*"".join(Vocabulary.train([tmp_path / name]).tokens[5:])}
