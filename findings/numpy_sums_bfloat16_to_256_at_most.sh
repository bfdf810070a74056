#!/bin/bash
# numpy 2.3.5 with ml_dtypes 0.5.4: the mean of 4,096 ones in bfloat16 is 0.0625, and their variance is not 0.
#
# safetensors' reader for numpy gives a model's bfloat16 tensors as arrays of ml_dtypes. One would guess that numpy sums
# them as it does float16, where sum, mean, var and std are taken in a wider type or in pairs. It adds one number after
# another and rounds each sum to bfloat16: from 256 on, adding 1 changes nothing. Nothing is said. Only products (@, dot)
# and linalg.norm are right. Convert with .astype(numpy.float32) before any statistics of weights.
#
# Seen, of 4,096 ones that safetensors 0.6.2 had read from a file:
#   bfloat16: sum 256, mean 0.0625, var 0.0625, std 0.25, last of cumsum 256, dot 4096
#   float16:  sum 4096, mean 1, var 0, std 0, last of cumsum 2048, dot 4096
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5 ml_dtypes==0.5.4 safetensors==0.6.2
cat > "$work/sums.py" <<'PYTHON'
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

path = sys.argv[1]
ones = {"bfloat16": np.ones(4096, ml_dtypes.bfloat16), "float16": np.ones(4096, np.float16)}
save_file(ones, path)
found = {}
for name, array in load_file(path).items():
    assert array.dtype == ones[name].dtype
    results = array.sum(), array.mean(), array.var(), array.std(), np.cumsum(array)[-1], array @ array
    found[name] = [float(each) for each in results]
    print(name, dict(zip(("sum", "mean", "var", "std", "last of cumsum", "dot"), found[name])))
assert found == {"bfloat16": [256, 0.0625, 0.0625, 0.25, 256, 4096], "float16": [4096, 1, 0, 0, 2048, 4096]}
PYTHON
"$work/venv/bin/python" "$work/sums.py" "$work/ones.safetensors"
