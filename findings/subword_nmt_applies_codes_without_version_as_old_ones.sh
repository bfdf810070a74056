#!/bin/sh
# subword-nmt 0.3.8: codes of version 0.2 without their first line, "#version: 0.2", are read as codes of version 0.1.
#
# One would guess that codes which cannot say their version are refused. They are read without a word as older ones, in
# which the end of a word is a symbol of its own, so that no merge at the end of a word applies.
# Seen: "low" is one piece with the line, and "lo@@ w" without it.
# Codes lose the line where they are cut, merged or made by other tools (those of fastBPE have none).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet subword-nmt==0.3.8
"$folder/venv/bin/python" - <<'END'
import io

from subword_nmt.apply_bpe import BPE

merges = "l o\nlo w</w>\n"
with_line, without = (BPE(io.StringIO(text)).segment("low") for text in ("#version: 0.2\n" + merges, merges))
print(f"with the line: {with_line!r}, without: {without!r}")
raise SystemExit((with_line, without) != ("low", "lo@@ w"))
END
