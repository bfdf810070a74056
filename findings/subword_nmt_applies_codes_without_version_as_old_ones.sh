#!/bin/sh
# subword-nmt 0.3.8: codes of its version 0.2 whose first line, "#version: 0.2", is missing are read without a word as
# codes of version 0.1, in which the end of a word is a symbol of its own. No merge at the end of a word applies then.
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
