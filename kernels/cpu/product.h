// Products for gradients: the left factor is read as it lies, or transposed; the right one is packed by the way. Sums
// run along groups of neighbouring elements, one float or two bfloat16, as in the products with packed weights.
#pragma once

#include "kernels/cpu/vector_tiles.h"
#ifdef __AMX_BF16__
#include "kernels/cpu/amx_product.h"
#endif

namespace janus_fast {
namespace JANUS_ISA {

// What must live where products are computed; to make it for each takes longer than a small one.
#ifdef __AMX_BF16__
typedef TileRegisters ProductRegisters;
#else
struct ProductRegisters {
  ~ProductRegisters() {}  // so that none is told to be unused
};
#endif

template <typename T>
constexpr Numeric kNumeric = sizeof(T) == sizeof(float) ? Numeric::kFloat32 : Numeric::kBFloat16;
template <typename T>
constexpr int64_t kGrouped = kGroup<kNumeric<T>>;
template <typename T>
constexpr int64_t groups(int64_t depth) {
  return (depth + kGrouped<T> - 1) / kGrouped<T>;
}

// What a vector of the right factor becomes in registers, and a tile that leaves room for it and its sums.
template <typename T>
using Loaded = decltype(Product<kNumeric<T>>::weights(nullptr));
#ifdef __AMX_BF16__
constexpr int kVectorsOf64 = 2;  // what an instruction takes lies together: a quarter faster than two of four
#else
constexpr int kVectorsOf64 = 4;
#endif
template <typename T>
constexpr int kTileVectors = JANUS_VECTOR_BYTES == 64 && sizeof(Loaded<T>) == JANUS_VECTOR_BYTES
                                 ? (kNumeric<T> == Numeric::kBFloat16 ? kVectorsOf64 : 4)
                                 : 2;
template <typename T>
constexpr int kTileRows = static_cast<int>(smaller(Product<kNumeric<T>>::kRows, 6));

// A tile of out (+)= A B: M rows, V vectors of a panel. `stride` of A counts elements from row to row or, where A lies
// transposed, groups from group to group.
template <typename T, bool kTransposed, int M, int V>
void product_tile(const T* a, int64_t stride, const T* panel, int64_t depth, float* out, int64_t out_stride, bool add) {
  typedef Product<kNumeric<T>> Kernel;
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)  // what comes from memory is there when the sums are ready
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) __builtin_prefetch(out + i * out_stride + j * kLanes<float>, 1);
  Vec<float> sums[M][V] = {};
  for (int64_t g = 0; g < depth; g++) {
    Loaded<T> b[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) b[j] = Kernel::weights(panel + (g * V + j) * kLanes<float> * kGrouped<T>);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) {
      const auto x = Kernel::row(kTransposed ? a + (g * stride + i) * kGrouped<T> : a + i * stride + g * kGrouped<T>);
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sums[i][j] = Kernel::add(sums[i][j], x, b[j]);
    }
  }
  if (add)
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sums[i][j] += load(out + i * out_stride + j * kLanes<float>);
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) store(out + i * out_stride + j * kLanes<float>, sums[i][j]);
}

template <typename T, bool kTransposed, int V, int M = kTileRows<T>>
JANUS_INLINE void product_tile_of(int64_t rows, const T* a, int64_t stride, const T* panel, int64_t depth, float* out,
                                  int64_t out_stride, bool add) {
  if constexpr (M > 0) {
    if (rows == M)
      product_tile<T, kTransposed, M, V>(a, stride, panel, depth, out, out_stride, add);
    else
      product_tile_of<T, kTransposed, V, M - 1>(rows, a, stride, panel, depth, out, out_stride, add);
  }
}

// Calls work(first column, integral_constant<vectors>) for each panel: full ones, then single vectors. Where the last
// vector ends does not matter.
template <typename T, typename Work>
JANUS_INLINE void each_panel(int64_t columns, const Work& work) {
  constexpr int64_t kWidth = kTileVectors<T> * kLanes<float>;
  int64_t c = 0;
  for (; c + kWidth <= round_up(columns, kLanes<float>); c += kWidth)
    work(c, std::integral_constant<int, kTileVectors<T>>{});
  for (; c < columns; c += kLanes<float>) work(c, std::integral_constant<int, 1>{});
}

// Whether rows whose elements lie side by side are taken as left factors sooner than transposed ones.
#ifdef __AMX_BF16__
template <typename T>
constexpr bool kRowsFirst = kNumeric<T> == Numeric::kBFloat16;
#else
template <typename T>
constexpr bool kRowsFirst = false;
#endif

// The whole tiles of a panel, which AMX computes: returns how many rows, and in `groups` how much of their depth.
template <typename T, bool kTransposed, int V>
JANUS_INLINE int64_t product_whole(const T* a, int64_t stride, int64_t rows, const T* panel, int64_t depth, float* out,
                                   int64_t out_stride, bool add, int64_t* groups) {
#ifdef __AMX_BF16__
  if constexpr (kRowsFirst<T> && !kTransposed && V % 2 == 0) {
    *groups = depth / kTileGroups * kTileGroups;
    if (rows < kTileHeight || *groups == 0) return 0;
    amx_product<V>(a, stride, rows, panel, depth / kTileGroups, out, out_stride, add);
    return rows / kTileHeight * kTileHeight;
  }
#endif
  (void)a, (void)stride, (void)rows, (void)panel, (void)depth, (void)out, (void)out_stride, (void)add;
  *groups = 0;
  return 0;
}

// Rows [begin, end) of a panel from a group on, by vectors.
template <typename T, bool kTransposed, int V>
void product_rows(const T* a, int64_t stride, int64_t begin, int64_t end, const T* panel, int64_t first, int64_t depth,
                  float* out, int64_t out_stride, bool add) {
  const int64_t rows = end - begin, tiles = (rows + kTileRows<T> - 1) / kTileRows<T>;
  for (int64_t tile = 0; tile < tiles; tile++) {  // of nearly equal height
    const int64_t row = begin + tile * rows / tiles, count = begin + (tile + 1) * rows / tiles - row;
    const T* from = kTransposed ? a + (first * stride + row) * kGrouped<T> : a + row * stride + first * kGrouped<T>;
    product_tile_of<T, kTransposed, V>(count, from, stride, panel + first * V * kLanes<float> * kGrouped<T>,
                                       depth - first, out + row * out_stride, out_stride, add);
  }
}

// out (+)= A B:  [rows, depth groups] x [depth groups, columns] -> [rows, columns], B packed in panels.
template <typename T, bool kTransposed>
void product(const T* a, int64_t stride, int64_t rows, const T* panels, int64_t columns, int64_t depth, float* out,
             int64_t out_stride, bool add) {
  each_panel<T>(columns, [&](int64_t c, auto vectors) {
    constexpr int64_t kWidth = vectors() * kLanes<float>;
    const int64_t width = smaller(columns - c, kWidth);
    const T* panel = panels + c * depth * kGrouped<T>;
    if (width == kWidth) {
      int64_t groups;
      const int64_t done =
          product_whole<T, kTransposed, vectors()>(a, stride, rows, panel, depth, out + c, out_stride, add, &groups);
      if (done && groups < depth)
        product_rows<T, kTransposed, vectors()>(a, stride, 0, done, panel, groups, depth, out + c, out_stride, true);
      product_rows<T, kTransposed, vectors()>(a, stride, done, rows, panel, 0, depth, out + c, out_stride, add);
      return;
    }
    float whole[kTileRows<T> * kWidth];
    for (int64_t row = 0; row < rows; row += kTileRows<T>) {
      const int64_t count = smaller(kTileRows<T>, rows - row);
      const T* from = a + row * (kTransposed ? kGrouped<T> : stride);
      float* to = out + row * out_stride + c;
      product_tile_of<T, kTransposed, vectors()>(count, from, stride, panel, depth, whole, kWidth, false);
      for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < width; j++)
          to[i * out_stride + j] = whole[i * kWidth + j] + (add ? to[i * out_stride + j] : 0.0f);
    }
  });
}

// A vector of each row of a group, element by element side by side.
JANUS_INLINE void interleave(const float* const rows[1], int64_t c, float* to) { store(to, load(rows[0] + c)); }
JANUS_INLINE void interleave(const BFloat16* const rows[2], int64_t c, BFloat16* to) {  // the second may be null: zeros
  typedef typename VectorOf<uint32_t, kLanes<float>>::type Bits;
  const Bits low = reinterpret_cast<Bits>(load(rows[0] + c)) >> 16;
  const Bits both = rows[1] ? low | reinterpret_cast<Bits>(load(rows[1] + c)) : low;
  __builtin_memcpy(to, &both, sizeof(both));
}

// Packs B [depth, columns]; row(k) is null where it holds zeros.
template <typename T, typename Row>
void pack_rows(const Row& row, int64_t depth, int64_t columns, T* panels) {
  each_panel<T>(columns, [&](int64_t first, auto vectors) {
    T* to = panels + first * groups<T>(depth) * kGrouped<T>;
    for (int64_t k = 0; k < depth; k += kGrouped<T>) {
      const T* rows[kGrouped<T>];
      for (int64_t e = 0; e < kGrouped<T>; e++) rows[e] = k + e < depth ? row(k + e) : nullptr;
      for (int j = 0; j < vectors(); j++, to += kLanes<float> * kGrouped<T>) {
        const int64_t c = first + j * kLanes<float>;
        if (rows[0] && c + kLanes<float> <= columns)
          interleave(rows, c, to);
        else
          for (int64_t i = 0; i < kLanes<float> * kGrouped<T>; i++) {
            const T* from = rows[i % kGrouped<T>];
            to[i] = from && c + i / kGrouped<T> < columns ? from[c + i / kGrouped<T>] : T{};
          }
      }
    }
  });
}

// Packs B [depth, columns] that lies transposed: row(c) are the `depth` elements of column c, null for zeros.
template <typename T, typename Row>
void pack_columns(const Row& row, int64_t depth, int64_t columns, T* panels) {
  const int64_t padded = groups<T>(depth) * kGrouped<T>;
  each_panel<T>(columns, [&](int64_t first, auto vectors) {
    constexpr int64_t kWidth = vectors() * kLanes<float>;
    for (int64_t i = 0; i < kWidth; i++) {
      const T* from = row(first + i);
      T* to = panels + first * padded + i * kGrouped<T>;
      for (int64_t k = 0; k < padded; k++)
        to[k / kGrouped<T> * kGrouped<T> * kWidth + k % kGrouped<T>] = from && k < depth ? from[k] : T{};
    }
  });
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
