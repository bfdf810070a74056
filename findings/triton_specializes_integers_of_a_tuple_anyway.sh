#!/bin/bash
# triton 3.9.0: do_not_specialize does not reach the integers of a tuple.
#
# Triton compiles a kernel anew where an integer argument is 1 or divisible by 16, unless @triton.jit(do_not_specialize=)
# names it. One would guess that this holds for an argument that is a tuple of integers, too. It does not: each element
# is specialized, so a kernel that gets n sizes of a batch in a tuple is compiled up to 3^n times, in the midst of
# training. Floats in a tuple are not specialized: integers below 2^24 can be passed as floats and cast.
#
# Seen, compiling for sm_90 without a GPU, for the arguments 7, 16, 1, 9, 32:
#   integer: 1 compilation; tuple of an integer: 3; tuple of a float: 1
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet triton==3.9.0
cat > "$work/count.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor


class Target:
    """Names a GPU that need not be there."""

    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0


triton.runtime.driver.set_active(Target())


def compilations(arguments):
    @triton.jit(do_not_specialize=["n"])
    def store(out, n):
        tl.store(out, n)

    @triton.jit(do_not_specialize=["n"])
    def store_first(out, n):
        tl.store(out, n[0])

    kernel = store_first if isinstance(arguments[0], tuple) else store
    for argument in arguments:
        kernel.warmup(MockTensor("float32"), argument, grid=(1,))
    return len(kernel.device_caches[0][0])


sizes = 7, 16, 1, 9, 32
found = [compilations(kind) for kind in (sizes, [(n,) for n in sizes], [(float(n),) for n in sizes])]
print("integer: {} compilation; tuple of an integer: {}; tuple of a float: {}".format(*found))
assert found == [1, 3, 1], found
PYTHON
cd "$work" && TRITON_CACHE_DIR="$work/cache" "$work/venv/bin/python" count.py
