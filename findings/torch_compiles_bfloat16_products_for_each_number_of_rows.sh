#!/bin/bash
# torch 2.13.0 (oneDNN): on the CPU, F.linear in bfloat16 keeps about half a MiB for each new number of rows.
#
# One would guess that a product of so many rows takes the memory of its inputs and outputs. In float32 it does. In bfloat16
# torch calls oneDNN, which compiles code for each shape and keeps it, so a training or a server whose batches have other
# sizes each time grows by hundreds of MiB, for one layer of 256 by 256, until oneDNN's cache of 1,024 products is full.
# ONEDNN_PRIMITIVE_CACHE_CAPACITY=0 leaves more than half of that growth. Filling rows up to a multiple of 64 ends it.
#
# Seen, growth from the 33rd to the 1,499th number of rows, MiB: bfloat16 790, with a cache of 0 products 451, of multiples
# of 64 rows 16; float32 3. Asserted is that bfloat16 grows by more than 200 MiB, also without the cache, the other two by
# less than 60. It needs a processor with AVX-512, without which torch multiplies bfloat16 another way.
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
grep -q avx512bw /proc/cpuinfo || { echo "needs a processor with AVX-512" >&2; exit 2; }
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5
cat > "$work/grow.py" <<'PYTHON'
import os
import sys

import torch

dtype, multiple = getattr(torch, sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
weight, x = torch.randn(256, 256).to(dtype), torch.randn(1536, 256).to(dtype)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def multiply(numbers):
    for rows in numbers:
        torch.nn.functional.linear(x[: -(-rows // multiple) * multiple], weight)
    return resident()

with torch.no_grad():
    before = multiply(range(1, 33))
    print(round(multiply(range(33, 1500)) - before))
PYTHON
python="$work/venv/bin/python"
plain=$("$python" "$work/grow.py" bfloat16 1)
uncached=$(ONEDNN_PRIMITIVE_CACHE_CAPACITY=0 "$python" "$work/grow.py" bfloat16 1)
multiples=$("$python" "$work/grow.py" bfloat16 64)
float32=$("$python" "$work/grow.py" float32 1)
echo "growth in MiB: bfloat16 $plain, without cache $uncached, multiples of 64 $multiples, float32 $float32"
((plain > 200 && uncached > 200 && multiples < 60 && float32 < 60))
