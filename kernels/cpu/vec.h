// Vectors of JANUS_VECTOR_BYTES through the compiler's vector extensions: one source for every instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels/cpu/kernels.h"

#define JANUS_INLINE inline __attribute__((always_inline))

namespace janus_fast {
namespace JANUS_ISA {

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T>
constexpr int kLanes = JANUS_VECTOR_BYTES / sizeof(T);
template <typename T>
using Vec = typename VectorOf<T, kLanes<T>>::type;
// As many 32-bit integers as there are lanes of T: times and intervals.
template <typename T>
using IntVec = typename VectorOf<int32_t, kLanes<T>>::type;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <typename T>
JANUS_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

JANUS_INLINE float widen(float x) { return x; }
JANUS_INLINE double widen(double x) { return x; }
JANUS_INLINE float widen(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &bits, 4);
  return y;
}

JANUS_INLINE float widen(int8_t x) { return x; }

JANUS_INLINE void narrow(float x, float* y) { *y = x; }
JANUS_INLINE void narrow(double x, double* y) { *y = x; }
JANUS_INLINE void narrow(float x, BFloat16* y) {  // to nearest, ties to even
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  y->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Asks for a row that is needed soon.
template <typename T>
JANUS_INLINE void prefetch(const T* row, int64_t size) {
  for (int64_t c = 0; c < size; c += 64 / int64_t{sizeof(T)}) __builtin_prefetch(row + c);
}

template <typename T>
JANUS_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
JANUS_INLINE Vec<float> load(const BFloat16* p) {
  typename VectorOf<uint16_t, kLanes<float>>::type half;
  __builtin_memcpy(&half, p, sizeof(half));
  typedef typename VectorOf<uint32_t, kLanes<float>>::type Wide;
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64  // as it is written below the compiler widens it in two halves
  const Wide wide = reinterpret_cast<Wide>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
#else
  const Wide wide = __builtin_convertvector(half, Wide);
#endif
  return reinterpret_cast<Vec<float>>(wide << 16);
}
JANUS_INLINE Vec<float> load(const int8_t* p) {
  typename VectorOf<int8_t, kLanes<float>>::type bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64  // as above
  const auto integers =
      reinterpret_cast<IntVec<float>>(_mm512_maskz_cvtepi8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
#else
  const auto integers = __builtin_convertvector(bytes, IntVec<float>);
#endif
  return __builtin_convertvector(integers, Vec<float>);
}
// The first n elements, zeros after them.
template <typename T>
JANUS_INLINE Vec<Accumulator<T>> load_first(const T* p, int64_t n) {
  Vec<Accumulator<T>> v = {};
  for (int64_t i = 0; i < n; i++) v[i] = widen(p[i]);
  return v;
}
template <typename T>
JANUS_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

JANUS_INLINE void store(BFloat16* p, Vec<float> v) {  // as narrow() does
  typedef typename VectorOf<uint32_t, kLanes<float>>::type Bits;
  const Bits bits = reinterpret_cast<Bits>(v);
  const Bits rounded = v == v ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : Bits{} + 0x7fc0;
  auto half = __builtin_convertvector(rounded, typename VectorOf<uint16_t, kLanes<float>>::type);
  __builtin_memcpy(p, &half, sizeof(half));
}
JANUS_INLINE void store(uint8_t* p, IntVec<float> v) {  // the low bytes
  auto bytes = __builtin_convertvector(v, typename VectorOf<uint8_t, kLanes<float>>::type);
  __builtin_memcpy(p, &bytes, sizeof(bytes));
}
JANUS_INLINE void store(int8_t* p, IntVec<float> v) { store(reinterpret_cast<uint8_t*>(p), v); }
// Of n elements those that one vector holds.
template <typename T>
JANUS_INLINE Vec<float> load_part(const T* p, int64_t n) {
  return n >= kLanes<float> ? load(p) : load_first(p, n);
}
template <typename T, typename V>
JANUS_INLINE void store_part(T* p, V v, int64_t n) {
  if (n >= kLanes<float>) return store(p, v);
  T lanes[kLanes<float>];
  store(lanes, v);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
}

// Integers nearest to x, ties to even; anything for what no integer holds.
JANUS_INLINE IntVec<float> nearest(Vec<float> x) {
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64
  return reinterpret_cast<IntVec<float>>(_mm512_maskz_cvtps_epi32(0xffff, reinterpret_cast<__m512>(x)));
#elif defined(__x86_64__) && JANUS_VECTOR_BYTES == 32
  return reinterpret_cast<IntVec<float>>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(x)));
#elif defined(__x86_64__)
  return reinterpret_cast<IntVec<float>>(_mm_cvtps_epi32(reinterpret_cast<__m128>(x)));
#else
  IntVec<float> y;
  for (int i = 0; i < kLanes<float>; i++) y[i] = static_cast<int32_t>(__builtin_rintf(x[i]));
  return y;
#endif
}

// The lanes in which a comparison holds, the first in the lowest bit.
JANUS_INLINE uint32_t lanes_set(IntVec<float> mask) {
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask));
#elif defined(__x86_64__) && JANUS_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
#else
  uint32_t set = 0;
  for (int i = 0; i < kLanes<float>; i++) set |= static_cast<uint32_t>(mask[i] != 0) << i;
  return set;
#endif
}
JANUS_INLINE bool any(IntVec<float> mask) { return lanes_set(mask) != 0; }
JANUS_INLINE bool any(typename VectorOf<int64_t, kLanes<double>>::type mask) {
  bool set = false;
  for (int i = 0; i < kLanes<double>; i++) set |= mask[i] != 0;
  return set;
}

// Adds the upper half to the lower until four lanes are left.
JANUS_INLINE VectorOf<float, 4>::type fold(VectorOf<float, 4>::type v) { return v; }
JANUS_INLINE VectorOf<float, 4>::type fold(VectorOf<float, 8>::type v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}

// Folds lanes upon each other, the upper half upon the lower, until one is left.
template <typename T, int N, typename F>
JANUS_INLINE T reduce(typename VectorOf<T, N>::type v, const F& op) {
  if constexpr (N == 16)
    return reduce<T, 8>(op(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
                        op);
  else if constexpr (N == 8)
    return reduce<T, 4>(op(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)), op);
  else if constexpr (N == 4) {
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    return op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2))[0];
  } else {
    return op(v, __builtin_shufflevector(v, v, 1, 0))[0];
  }
}

template <typename T>
JANUS_INLINE T sum(Vec<T> v) {
  return reduce<T, kLanes<T>>(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

// The sums of four vectors, written next to each other: of halves until four terms are left, then of every other one.
JANUS_INLINE void store_sums(Vec<float> a, Vec<float> b, Vec<float> c, Vec<float> d, float* out) {
#if JANUS_VECTOR_BYTES == 64  // the same additions, side by side
  const auto halves = [](Vec<float> p, Vec<float> q) __attribute__((always_inline)) {
    return __builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  };
  const auto ab = halves(a, b), cd = halves(c, d);
  auto terms = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  terms += __builtin_shufflevector(terms, terms, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  terms += __builtin_shufflevector(terms, terms, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  const VectorOf<float, 4>::type sums = __builtin_shufflevector(terms, terms, 0, 4, 8, 12);
#else
  auto p = fold(a), q = fold(b), r = fold(c), s = fold(d);
  // Each line halves the number of terms: (p0+p2, q0+q2, p1+p3, q1+q3), likewise r and s, then all four.
  auto pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
  auto rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
  auto sums = __builtin_shufflevector(pq, rs, 0, 1, 4, 5) + __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
#endif
  __builtin_memcpy(out, &sums, sizeof(sums));
}
JANUS_INLINE void store_sums(Vec<double> a, Vec<double> b, Vec<double> c, Vec<double> d, double* out) {
  out[0] = sum<double>(a), out[1] = sum<double>(b), out[2] = sum<double>(c), out[3] = sum<double>(d);
}

// The larger of each two lanes; b's where either is NaN. The compiler would compare and blend.
template <typename V>
JANUS_INLINE V larger_lanes(V a, V b) {
#ifdef __x86_64__
  if constexpr (std::is_same_v<V, VectorOf<float, 16>::type>)
    return reinterpret_cast<V>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
  if constexpr (std::is_same_v<V, VectorOf<float, 8>::type>)
    return reinterpret_cast<V>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  if constexpr (std::is_same_v<V, VectorOf<float, 4>::type>)
    return reinterpret_cast<V>(_mm_max_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b)));
#endif
  return a > b ? a : b;
}
template <typename T>
JANUS_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return larger_lanes(a, b);
}
// The largest of N lanes, none of them NaN.
template <typename T, int N = kLanes<T>>
JANUS_INLINE T maximum(typename VectorOf<T, N>::type v) {
  return reduce<T, N>(v, [](auto a, auto b) __attribute__((always_inline)) { return larger_lanes(a, b); });
}

// exp(x) for x <= 88, within 2 units in the last place; 0 below the smallest normal number; NaN for NaN.
JANUS_INLINE Vec<float> exponential(Vec<float> x) {
  const Vec<float> magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  Vec<float> shifted = x * 1.44269504088896341f + magic;
  Vec<float> n = shifted - magic;
  Vec<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;  // x - n ln 2, ln 2 in two parts
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  typedef typename VectorOf<uint32_t, kLanes<float>>::type Bits;  // which wrap where the result is 0 or NaN anyway
  const Bits power = (reinterpret_cast<Bits>(shifted) << 23) + 0x3f800000u;  // 2^n as a float's bits
  return x < -87.3f ? Vec<float>{} : p * reinterpret_cast<Vec<float>>(power);
}
// Builtins, which call the C library: an inline function of <cmath> could be shared between instruction sets.
JANUS_INLINE float logarithm(float x) { return __builtin_logf(x); }
JANUS_INLINE double logarithm(double x) { return __builtin_log(x); }
JANUS_INLINE Vec<double> exponential(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; i++) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
