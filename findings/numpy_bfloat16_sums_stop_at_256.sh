#!/bin/bash
# ml_dtypes 0.6.0 in numpy 2.3.5: sum, mean and std of a bfloat16 array are silently wrong, and sort stops at NaN.
#
# One would guess that bfloat16 is reduced like float16, for which numpy adds in pairs, takes means in float32 and sorts
# NaN last. ml_dtypes adds one number after the other and rounds each sum to 8 bits, so that a sum of ones ends at 256:
# 256 + 1 rounds to 256. The mean of 1,000 ones is 0.256, and normal weights have a standard deviation of 0.2. The product
# of two vectors is right, since it comes in float32. sort leaves numbers around a NaN as they are. Use
# .astype(numpy.float32) first.
#
# Seen:
#   1,000 ones:     sum 256, mean 0.2559, x @ x 1000; as float16 sum 1000, mean 1
#   100,000 normal: std 0.2051; as float32 1.0001
#   [3, nan, 1, 2]: sorted [3, nan, 1, 2]; as float16 [1, 2, 3, nan]
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.3.5 ml_dtypes==0.6.0
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import ml_dtypes, numpy

ones = numpy.ones(1000, ml_dtypes.bfloat16)
half = ones.astype(numpy.float16)
print("ones: sum", ones.sum(), "mean", ones.mean(), "x @ x", ones @ ones, "float16:", half.sum(), half.mean())
assert (ones.sum(), ones @ ones, half.sum(), half.mean()) == (256, 1000, 1000, 1) and ones.mean() < 0.26

normal = numpy.random.default_rng(0).normal(size=100_000).astype(numpy.float32)
deviation = numpy.std(normal.astype(ml_dtypes.bfloat16)), numpy.std(normal)
print("normal: std", *deviation)
assert deviation[0] < 0.3 and abs(deviation[1] - 1) < 0.01

numbers = numpy.array([3, numpy.nan, 1, 2], ml_dtypes.bfloat16)
sorted_numbers = numpy.sort(numbers).astype(float), numpy.sort(numbers.astype(numpy.float16)).astype(float)
print("sorted", *sorted_numbers)
assert not (numpy.diff(sorted_numbers[0][~numpy.isnan(sorted_numbers[0])]) >= 0).all()
assert (sorted_numbers[1][:3] == [1, 2, 3]).all()
PYTHON
