#!/bin/bash
# torch 2.13.0: on the CPU, what an activation makes of a number depends on where in the tensor the number stands.
#
# One would guess that an elementwise function of equal numbers is equal. Torch computes as many elements as fill two vectors with
# vector code, and what is left behind them with scalar code, whose functions and roundings are others. So of a batch the last
# elements may differ in the last bit from what the same row is alone, though no element sees another, and decoding that must not depend on
# the batch needs activations of its own. Sums of two tensors do the same in bfloat16 where one has a factor (alpha).
#
# Seen with AVX-512, of 1,000 normal numbers those that are another as element 0 of 33 than as element 32: float32 silu 42,
# gelu "tanh" 161, sigmoid 39; bfloat16 add with alpha 331; float32 gelu and tanh, and bfloat16 add without alpha, none. Asserted is that there
# are some of the first four, and none of the others. It needs a processor with AVX2.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
grep -q avx2 /proc/cpuinfo || { echo "needs a processor with AVX2" >&2; exit 2; }
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/place.py" <<'PYTHON'
import torch
import torch.nn.functional as F

torch.manual_seed(0)
numbers = torch.randn(1000)

def moved(function, dtype):
    count = 0
    for number in numbers.to(dtype):
        first, last = torch.zeros(33, dtype=dtype), torch.zeros(33, dtype=dtype)
        first[0] = last[32] = number
        count += int(function(first)[0] != function(last)[32])
    return count

some = {
    "silu": moved(F.silu, torch.float32),
    "gelu tanh": moved(lambda x: F.gelu(x, approximate="tanh"), torch.float32),
    "sigmoid": moved(torch.sigmoid, torch.float32),
    "bfloat16 add with alpha": moved(lambda x: torch.add(torch.full_like(x, 0.3), x, alpha=1.7), torch.bfloat16),
}
none = {
    "gelu": moved(F.gelu, torch.float32),
    "tanh": moved(torch.tanh, torch.float32),
    "bfloat16 add": moved(lambda x: torch.add(torch.full_like(x, 0.3), x), torch.bfloat16),
}
print(some, none, torch.backends.cpu.get_cpu_capability())
assert all(some.values()) and not any(none.values())
PYTHON
"$work/venv/bin/python" "$work/place.py"
