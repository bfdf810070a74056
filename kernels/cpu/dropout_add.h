// Dropout and the residual in one pass. An element's bits come from Philox4x32 (Salmon et al. 2011), a function of the
// seed and of the element's number alone, so that the backward pass draws the same mask again instead of storing it.
//
// Elements come in groups of 64, and each group has 16 blocks of the generator: word j of block b belongs to element
// 16 j + b. So the same word of neighbouring blocks is a vector of neighbouring elements, whatever the vector's length.
#pragma once

#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

typedef typename VectorOf<uint32_t, kLanes<float>>::type Words;

constexpr int64_t kGroupBlocks = kDropoutGroup / 4;
constexpr int kPhiloxRounds = 7;  // the fewest that pass BigCrush

// The high and the low halves of the products with one number.
JANUS_INLINE void multiply(Words a, uint32_t by, Words* high, Words* low) {
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64
  const __m512i x = reinterpret_cast<__m512i>(a), y = _mm512_set1_epi64(by);
  const __m512i even = _mm512_maskz_mul_epu32(0xff, x, y);
  const __m512i odd = _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, x, 32), y);
  *high = reinterpret_cast<Words>(_mm512_mask_blend_epi32(0xaaaa, _mm512_maskz_srli_epi64(0xff, even, 32), odd));
  *low = reinterpret_cast<Words>(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_maskz_slli_epi64(0xff, odd, 32)));
#elif defined(__x86_64__) && JANUS_VECTOR_BYTES == 32
  const __m256i x = reinterpret_cast<__m256i>(a), y = _mm256_set1_epi64x(by);
  const __m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  *high = reinterpret_cast<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
  *low = reinterpret_cast<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
#else
  Words upper = {}, lower = {};
  for (int i = 0; i < kLanes<float>; i++) {
    const uint64_t product = static_cast<uint64_t>(a[i]) * by;
    upper[i] = static_cast<uint32_t>(product >> 32);
    lower[i] = static_cast<uint32_t>(product);
  }
  *high = upper, *low = lower;
#endif
}

// The words of neighbouring blocks, the first of them `block`.
JANUS_INLINE void philox(uint64_t block, uint64_t seed, Words words[4]) {
  Words numbers;
  for (int i = 0; i < kLanes<float>; i++) numbers[i] = static_cast<uint32_t>(i);
  // A group's blocks are 16 and begin at a multiple of 16: the lower half of their numbers never overflows.
  words[0] = numbers + static_cast<uint32_t>(block);
  words[1] = Words{} + static_cast<uint32_t>(block >> 32);
  words[2] = words[3] = Words{};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < kPhiloxRounds; round++) {
    Words high[2], low[2];
    multiply(words[0], 0xD2511F53, &high[0], &low[0]);
    multiply(words[2], 0xCD9E8D57, &high[1], &low[1]);
    words[0] = high[1] ^ words[1] ^ key[0];
    words[1] = low[1];
    words[2] = high[0] ^ words[3] ^ key[1];
    words[3] = low[0];
    key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
  }
}

template <typename TX, typename TO>
JANUS_INLINE void dropout_add_elements(const DropoutAddCall<TX, TO>& call, int64_t first, Words bits) {
  const int64_t left = call.count - first;
  if (left <= 0) return;
  const Vec<float> scaled = load_part(call.x + first, left) * call.scale;
  Vec<float> result = bits >= call.threshold ? scaled : Vec<float>{};
  if (call.residual) result += load_part(call.residual + first, left);
  store_part(call.output + first, result, left);
}

// Groups [begin, end) of kDropoutGroup elements.
template <typename TX, typename TO>
void dropout_add(const DropoutAddCall<TX, TO>& call, int64_t begin, int64_t end) {
  for (int64_t group = begin; group < end; group++)
    for (int64_t block = 0; block < kGroupBlocks; block += kLanes<float>) {
      Words words[4];
      philox(group * kGroupBlocks + block, call.seed, words);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++)
        dropout_add_elements(call, group * kDropoutGroup + j * kGroupBlocks + block, words[j]);
    }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
