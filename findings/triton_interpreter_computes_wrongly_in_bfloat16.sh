#!/bin/bash
# triton 3.9.0, TRITON_INTERPRET=1: arithmetic in bfloat16 is silently wrong.
#
# One would guess that the interpreter, made to find mistakes without a GPU, computes bfloat16 roughly as a GPU does. It
# holds such numbers as 16-bit integers, for numpy has no bfloat16, and computes with these integers: x + x, tl.sum and
# tl.dot are wrong, and nothing is said. float32 that is stored as bfloat16 is cut off, not rounded to nearest as on a
# GPU. float16 is right. Convert with .to(tl.float32) before computing, or test bfloat16 on a GPU.
#
# Seen, with torch 2.13.0 and numpy 2.3.5 on the CPU:
#   torch.float16:  x + x right, sum right, dot right
#   torch.bfloat16: x + x wrong, sum wrong, dot wrong, after .to(tl.float32) right
#   2/3 as bfloat16: 0.6640625 (nearest: 0.66796875)
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet triton==3.9.0 torch==2.13.0 numpy==2.3.5
cat > "$work/kernels.py" <<'PYTHON'
import torch, triton
import triton.language as tl

@triton.jit
def compute(a, b, doubled, total, product, right, N: tl.constexpr):
    rows, columns = tl.arange(0, N)[:, None], tl.arange(0, N)[None]
    x, y = tl.load(a + rows * N + columns), tl.load(b + rows * N + columns)
    tl.store(doubled + rows * N + columns, x + x)
    tl.store(total, tl.sum(tl.sum(x, 1), 0))
    tl.store(product + rows * N + columns, tl.dot(x, y))
    tl.store(right + rows * N + columns, tl.dot(x.to(tl.float32), y.to(tl.float32)))

def verdicts(dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-2, 3, (16, 16), generator=generator).to(dtype) for _ in range(2))  # all results are exact
    doubled, total = torch.empty_like(x), torch.empty((), dtype=dtype)
    product, right = torch.empty(16, 16), torch.empty(16, 16)
    compute[(1,)](x, y, doubled, total, product, right, N=16)
    expected = x.float() @ y.float()
    found = torch.equal(doubled, x + x), total == x.float().sum(), torch.equal(product, expected)
    print(dtype, dict(zip(("x + x", "sum", "dot"), map(bool, found))), "after .to(tl.float32):", torch.equal(right, expected))
    assert torch.equal(right, expected)
    return [bool(each) for each in found]

@triton.jit
def narrow(a, b):
    tl.store(b, tl.load(a))

exact, narrowed = torch.tensor([2 / 3]), torch.empty(1, dtype=torch.bfloat16)
narrow[(1,)](exact, narrowed)
print("2/3 as bfloat16:", narrowed.item(), "nearest:", exact.bfloat16().item())
assert (narrowed.item(), exact.bfloat16().item()) == (0.6640625, 0.66796875)
assert verdicts(torch.float16) == [True] * 3
assert verdicts(torch.bfloat16) == [False] * 3
PYTHON
TRITON_INTERPRET=1 "$work/venv/bin/python" "$work/kernels.py"
