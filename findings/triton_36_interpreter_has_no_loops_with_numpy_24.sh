#!/bin/bash
# triton 3.6.0, TRITON_INTERPRET=1, numpy 2.4: a loop whose bound is an argument of the kernel is a TypeError.
#
# One would guess that a Triton that torch pins, triton 3.6.0 for torch 2.11, works with every numpy that torch takes. Its
# interpreter keeps each number as an array of one element, and makes an int of that where range() asks for one. numpy
# 2.3 allows it with a DeprecationWarning, numpy 2.4 refuses, and triton's metadata name no numpy at all. Test kernels
# with torch 2.11 and numpy<2.4, or with a newer Triton. Compiled kernels are not concerned.
#
# Seen, with torch 2.13.0 on the CPU, for a kernel that adds 1 in a loop of 5 rounds:
#   triton 3.6.0, numpy 2.3.5: 5.0
#   triton 3.6.0, numpy 2.4.6: TypeError: only 0-dimensional arrays can be converted to Python scalars
#   triton 3.9.0, numpy 2.4.6: 5.0
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/kernel.py" <<'PYTHON'
import numpy, torch, triton
import triton.language as tl

@triton.jit
def count(result, rounds):
    total = 0.0
    for _ in range(0, rounds):
        total += 1.0
    tl.store(result, total)

result = torch.zeros(1)
try:
    count[(1,)](result, 5)
    said = str(result.item())
except Exception as error:  # Triton's own, which holds the cause
    while error.__cause__ is not None:
        error = error.__cause__
    said = f"{type(error).__name__}: {error}"
print(f"triton {triton.__version__}, numpy {numpy.__version__}: {said}")
PYTHON
see() {
  "$work/venv/bin/pip" install --quiet torch==2.13.0 "triton==$1" "numpy==$2"
  TRITON_INTERPRET=1 "$work/venv/bin/python" -W ignore "$work/kernel.py"
}
{ see 3.6.0 2.3.5; see 3.6.0 2.4.6; see 3.9.0 2.4.6; } | tee "$work/seen"
diff - "$work/seen" <<'SEEN'
triton 3.6.0, numpy 2.3.5: 5.0
triton 3.6.0, numpy 2.4.6: TypeError: only 0-dimensional arrays can be converted to Python scalars
triton 3.9.0, numpy 2.4.6: 5.0
SEEN
