#!/bin/bash
# torch 2.13.0: the same seed draws slightly other normal numbers in float32 on processors without AVX2.
#
# One would guess that a seeded generator of the CPU gives the same numbers on every CPU, as rand and randint do. In float32
# randn has another kernel where there is AVX2, and its numbers differ in their last bits; in float64 it has not. So weights
# initialised from a seed, and tests that draw their data, are not the same on all machines, nor under
# ATEN_CPU_CAPABILITY, and what hangs on rounding comes out otherwise. Who wants the same everywhere draws in float64 and
# rounds.
#
# Seen, for seed 0 and 64 numbers, default against avx2: float32 randn differs by up to 5.1e-07; float64 randn, rounded to
# float32, is the same, and so are rand and randint.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
grep -q avx2 /proc/cpuinfo || { echo "needs a processor with AVX2" >&2; exit 2; }
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/draw.py" <<'PYTHON'
import torch

def seeded(draw):
    torch.manual_seed(0)
    return draw().tolist()

print(torch.backends.cpu.get_cpu_capability())
for draw in (
    lambda: torch.randn(64),
    lambda: torch.randn(64, dtype=torch.float64).float(),
    lambda: torch.rand(64),
    lambda: torch.randint(1000, (64,)),
):
    print(seeded(draw))
PYTHON
for capability in default avx2; do
  ATEN_CPU_CAPABILITY=$capability "$work/venv/bin/python" "$work/draw.py" > "$work/$capability"
done
"$work/venv/bin/python" - "$work/default" "$work/avx2" <<'PYTHON'
import sys
one, other = (open(file).read().splitlines() for file in sys.argv[1:])
print("kernels:", one[0], other[0])
same = [a == b for a, b in zip(one[1:], other[1:])]
print("the same numbers: float32 randn {}, float64 randn {}, rand {}, randint {}".format(*same))
import json; first, second = (json.loads(line[1]) for line in (one, other))
print("largest difference of float32 randn:", max(abs(a - b) for a, b in zip(first, second)))
assert same == [False, True, True, True] and one[0] != other[0]
PYTHON
