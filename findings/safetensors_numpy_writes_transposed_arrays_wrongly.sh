#!/bin/bash
# safetensors 0.8.0: safetensors.numpy.save_file writes an array that is not C-contiguous wrongly, without a word.
#
# One would guess that {"weight": matrix.T} is stored as it looks, as 0.7.0 and earlier do, or refused, as
# safetensors.torch.save_file does. 0.8.0 stores the right shape with the bytes in the order of memory, so what is read back
# is another matrix. The same holds for save(), for Fortran order and for slices with a step. numpy.ascontiguousarray
# before saving helps.
#
# Seen, with [[0, 1, 2], [3, 4, 5]].T:
#   0.7.0: [[0, 3], [1, 4], [2, 5]]
#   0.8.0: [[0, 1], [2, 3], [4, 5]]
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5
for version in 0.7.0 0.8.0; do
    "$work/venv/bin/pip" install --quiet --no-deps --target "$work/$version" "safetensors==$version"
    PYTHONPATH="$work/$version" "$work/venv/bin/python" - "$work/file" "$version" <<'PYTHON'
import sys
import numpy
from safetensors.numpy import load_file, save_file

transposed = numpy.arange(6, dtype=numpy.float32).reshape(2, 3).T
save_file({"weight": transposed, "fortran": numpy.asfortranarray(transposed.copy())}, sys.argv[1])
read = load_file(sys.argv[1])
print(sys.argv[2], read["weight"].astype(int).tolist())
right = [(array == transposed).all() for array in (read["weight"], read["fortran"])]
assert all(right) if sys.argv[2] == "0.7.0" else not any(right)

save_file({"weight": numpy.ascontiguousarray(transposed)}, sys.argv[1])
assert (load_file(sys.argv[1])["weight"] == transposed).all()
PYTHON
done
