// Two small matrix products on rows that lie in cache: A times B transposed, and A times B.
#pragma once

#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

// Rows of A whose products with four rows of B stay in registers (16 registers: 3 x 4 sums, 3 of A, 1 of B).
constexpr int kDotRows = JANUS_VECTOR_BYTES == 64 ? 6 : JANUS_VECTOR_BYTES == 32 ? 3 : 2;

// out[i][j] = a[i] . b[j] for M rows of A and 4 of B. Lanes run along k and each product has one vector of sums, so a
// product's value does not depend on M, nor on what the other rows hold.
template <int M, typename TA, typename TB, typename S = Accumulator<TA>>
JANUS_INLINE void dot_tile(const TA* a, int64_t lda, const TB* const b[4], int64_t depth, S* out, int64_t ldo) {
  Vec<S> sums[M][4] = {};
  int64_t k = 0;
  for (; k + kLanes<S> <= depth; k += kLanes<S>) {
    Vec<S> row[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) row[i] = load(a + i * lda + k);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      Vec<S> column = load(b[j] + k);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) sums[i][j] += row[i] * column;
    }
  }
  if (k < depth) {
    for (int j = 0; j < 4; j++) {
      Vec<S> column = load_first(b[j] + k, depth - k);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) sums[i][j] += load_first(a + i * lda + k, depth - k) * column;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++) store_sums(sums[i][0], sums[i][1], sums[i][2], sums[i][3], out + i * ldo);
}

template <int M, typename TA, typename TB, typename S>
JANUS_INLINE void dot_tile_of(int64_t rows, const TA* a, int64_t lda, const TB* const b[4], int64_t depth, S* out,
                              int64_t ldo) {
  if constexpr (M > 0) {
    if (rows == M)
      dot_tile<M>(a, lda, b, depth, out, ldo);
    else
      dot_tile_of<M - 1>(rows, a, lda, b, depth, out, ldo);
  }
}

constexpr int64_t kBlockBytes = 12 * 1024;

// out[i][j] = a[i] . b[j]:  [m, depth] x [n, depth] -> [m, n]. Writes round_up(n, 4) columns of out.
template <typename TA, typename TB, typename S = Accumulator<TA>>
void dot_rows(const TA* a, int64_t lda, int64_t m, const TB* b, int64_t ldb, int64_t n, int64_t depth, S* out,
              int64_t ldo) {
  // Rows of A that stay in the first-level cache while B streams past.
  const int64_t rows = larger(kBlockBytes / (kDotRows * larger(depth, 1) * int64_t{sizeof(TA)}), 1) * kDotRows;
  for (int64_t block = 0; block < m; block += rows) {
    const int64_t block_end = smaller(block + rows, m);
    for (int64_t j = 0; j < n; j += 4) {
      const TB* columns[4];
      for (int64_t c = 0; c < 4; c++) columns[c] = b + smaller(j + c, n - 1) * ldb;
      for (int64_t i = block; i < block_end; i += kDotRows)
        dot_tile_of<kDotRows>(smaller(kDotRows, block_end - i), a + i * lda, lda, columns, depth, out + i * ldo + j,
                              ldo);
    }
  }
}

// A tile of M rows and NV vectors (or, with first < lanes, part of one vector) of out += A B.
template <int M, int NV, typename TB, typename S>
JANUS_INLINE void add_tile(const S* a, int64_t row_stride, int64_t k_stride, const TB* b, int64_t ldb, int64_t depth,
                           S* out, int64_t ldo, int64_t first) {
  Vec<S> sums[M][NV];
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++)
      sums[i][j] =
          NV == 1 && first < kLanes<S> ? load_first(out + i * ldo, first) : load(out + i * ldo + j * kLanes<S>);
  for (int64_t k = 0; k < depth; k++) {
    Vec<S> columns[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++)
      columns[j] = NV == 1 && first < kLanes<S> ? load_first(b + k * ldb, first) : load(b + k * ldb + j * kLanes<S>);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) sums[i][j] += a[i * row_stride + k * k_stride] * columns[j];
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) {
      if (NV == 1 && first < kLanes<S>)
        for (int64_t c = 0; c < first; c++) out[i * ldo + c] = sums[i][j][c];
      else
        store(out + i * ldo + j * kLanes<S>, sums[i][j]);
    }
}

// The columns of M rows, in strips of NV vectors, then of narrower ones.
template <int M, int NV, typename TB, typename S>
JANUS_INLINE void add_rows(const S* a, int64_t row_stride, int64_t k_stride, const TB* b, int64_t ldb, int64_t n,
                           int64_t depth, S* out, int64_t ldo) {
  constexpr int64_t kWidth = NV * kLanes<S>;
  int64_t j = 0;
  for (; NV == 1 ? j < n : j + kWidth <= n; j += kWidth)
    add_tile<M, NV>(a, row_stride, k_stride, b + j, ldb, depth, out + j, ldo, smaller(n - j, kWidth));
  if constexpr (NV > 1)
    if (j < n) add_rows<M, NV / 2>(a, row_stride, k_stride, b + j, ldb, n - j, depth, out + j, ldo);
}

// Rows that add_product takes at once, and vectors of theirs: sums enough that none waits for its last addition, and no
// more than there are registers.
constexpr int kSumRows = 6;
constexpr int sum_vectors(int rows) {
  return JANUS_VECTOR_BYTES == 64 ? (rows > 5 ? 2 : rows > 2 ? 4 : 8) : rows > 2 ? 2 : 4;
}

template <int M, typename TB, typename S>
JANUS_INLINE void add_rows_of(int64_t rows, const S* a, int64_t row_stride, int64_t k_stride, const TB* b, int64_t ldb,
                              int64_t n, int64_t depth, S* out, int64_t ldo) {
  if constexpr (M > 0) {
    if (rows == M)
      add_rows<M, sum_vectors(M)>(a, row_stride, k_stride, b, ldb, n, depth, out, ldo);
    else
      add_rows_of<M - 1>(rows, a, row_stride, k_stride, b, ldb, n, depth, out, ldo);
  }
}

// out[i] += sum over k of a(i, k) b[k]:  [m, depth] x [depth, n] -> [m, n]; a(i, k) = a[i * row_stride + k * k_stride],
// so that A may be read transposed.
template <typename TB, typename S = Accumulator<TB>>
void add_product(const S* a, int64_t row_stride, int64_t k_stride, int64_t m, const TB* b, int64_t ldb, int64_t n,
                 int64_t depth, S* out, int64_t ldo) {
  for (int64_t i = 0; i < m; i += kSumRows)
    add_rows_of<kSumRows>(smaller(m - i, kSumRows), a + i * row_stride, row_stride, k_stride, b, ldb, n, depth,
                          out + i * ldo, ldo);
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
