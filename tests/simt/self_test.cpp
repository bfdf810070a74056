// The emulator itself: fragments of the tensor core's building blocks, element by element after the formulas of the PTX
// ISA and not after the emulator's own loops; and what it says about kernels that would hang or be undefined on a GPU.
#include <cstdio>
#include <string>

#include "kernels/cuda/device.h"

using namespace janus_fast::cuda;

namespace {

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  failures++;
  std::printf("%s: %s\n", what, simt::last_error().c_str());
}

template <typename T, typename... Arguments>
int run(int threads, size_t shared_bytes, T kernel, Arguments... arguments) {
  return simt::launch(1, threads, shared_bytes, [&] { kernel(arguments...); });
}

template <typename T>
T narrow(float x);
template <>
__nv_bfloat16 narrow(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__half narrow(float x) {
  return __float2half_rn(x);
}

// One product of [16, 16] and [16, 8].
template <typename T>
void multiply(const T* left, const T* right, float* product) {
  const int group = lane() >> 2, place = lane() % 4;
  T a[8], b[4];
  for (int i = 0; i < 8; i++) {
    const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
    const int column = place * 2 + (i & 1) + (i < 4 ? 0 : 8);
    a[i] = left[row * 16 + column];
  }
  for (int i = 0; i < 4; i++) b[i] = right[(place * 2 + (i & 1) + (i < 2 ? 0 : 8)) * 8 + group];
  uint32_t a_registers[4], b_registers[2];
  std::memcpy(a_registers, a, sizeof(a));
  std::memcpy(b_registers, b, sizeof(b));
  float c[4] = {};
  mma<T>(c, a_registers, b_registers);
  for (int i = 0; i < 4; i++) product[(i < 2 ? group : group + 8) * 8 + place * 2 + (i & 1)] = c[i];
}

template <typename T>
void test_mma(const char* what) {
  T left[256], right[128];
  float product[128];
  for (int i = 0; i < 256; i++) left[i] = narrow<T>(static_cast<float>(i * 7919 % 17 - 8));
  for (int i = 0; i < 128; i++) right[i] = narrow<T>(static_cast<float>(i * 104729 % 13 - 6));
  expect(run(32, 0, multiply<T>, left, right, product) == 0, what);
  bool equal = true;
  for (int row = 0; row < 16; row++)
    for (int column = 0; column < 8; column++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += widen(left[row * 16 + k]) * widen(right[k * 8 + column]);
      equal &= sum == product[row * 8 + column];
    }
  expect(equal, what);
}

void load(const uint16_t* matrices, uint16_t* straight, uint16_t* transposed) {
  DYNAMIC_SHARED(memory);
  auto* rows = reinterpret_cast<uint16_t*>(memory);
  for (int i = 0; i < 8; i++) rows[lane() * 8 + i] = matrices[lane() * 8 + i];
  __syncwarp();
  uint32_t fragments[4];
  load_matrices(fragments, rows + lane() * 8);
  std::memcpy(straight + lane() * 8, fragments, sizeof(fragments));
  load_matrices_transposed(fragments, rows + lane() * 8);
  std::memcpy(transposed + lane() * 8, fragments, sizeof(fragments));
}

void test_load_matrices() {
  uint16_t matrices[256], straight[256], transposed[256];
  for (int i = 0; i < 256; i++) matrices[i] = static_cast<uint16_t>(i);
  expect(run(32, 512, load, matrices, straight, transposed) == 0, "load_matrices");
  bool equal = true;
  for (int l = 0; l < 32; l++)
    for (int j = 0; j < 4; j++)
      for (int e = 0; e < 2; e++) {
        const int at = l * 8 + j * 2 + e;
        equal &= straight[at] == matrices[j * 64 + l / 4 * 8 + 2 * (l % 4) + e];
        equal &= transposed[at] == matrices[j * 64 + (2 * (l % 4) + e) * 8 + l / 4];
      }
  expect(equal, "load_matrices");
}

// Which lanes an exited half of a warp leaves; barriers wait for the living alone.
void exit_early(unsigned* ballots) {
  if (threadIdx.x >= 40) return;
  const unsigned mask = threadIdx.x < 32 ? ~0u : 0xffu;
  const unsigned odd = __ballot_sync(mask, threadIdx.x & 1);
  __syncthreads();
  if (lane() == 0) ballots[warp()] = odd;
}
void wait_for_nobody(float*) {
  if (threadIdx.x < 16)
    __syncwarp(0xffffu);
  else
    __shfl_xor_sync(~0u, 1.0f, 1);
  __syncthreads();
}
void part_ways(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
void leave_a_lane_out(float*) { __syncwarp(0xffffu); }
void read_unwritten(float* value) {
  DYNAMIC_SHARED(dynamic);
  SHARED(float, fixed, 1);
  value[0] = *reinterpret_cast<float*>(dynamic);
  value[1] = *fixed;
  *fixed = 1.0f;
}

// Every block writes, and reads what another has written.
void pass_on(int* values, int* passed, bool wait) {
  if (threadIdx.x == 0) values[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  if (wait) grid_barrier();
  if (threadIdx.x == 1) passed[blockIdx.x] = values[(blockIdx.x + 1) % gridDim.x];
}
bool all_passed(bool wait) {
  int values[4] = {}, passed[4] = {};
  expect(simt::launch(4, 64, 16, [&] { pass_on(values, passed, wait); }, true) == 0, "a grid barrier");
  bool all = true;
  for (int i = 0; i < 4; i++) all &= passed[i] == (i + 1) % 4 + 1;
  return all;
}
void part_grids(float*) {
  if (blockIdx.x == 0)
    grid_barrier();
  else
    grid_barrier();
}

void expect_error(int status, const std::string& words, const char* what) {
  expect(status != 0 && simt::last_error().find(words) != std::string::npos, what);
}

}  // namespace

int main() {
  float values[64] = {};
  unsigned ballots[2] = {};
  bool missed = false;
  for (uint64_t seed : {0, 1, 2, 3}) {
    simt::machine.seed = seed;
    test_mma<__nv_bfloat16>("mma of bfloat16");
    test_mma<__half>("mma of float16");
    test_load_matrices();
    expect(run(64, 0, exit_early, ballots) == 0 && ballots[0] == 0xaaaaaaaau && ballots[1] == 0xaau, "exited lanes");
    expect_error(run(32, 0, wait_for_nobody, values), "deadlock", "a shuffle of half a warp");
    expect_error(run(64, 0, part_ways, values), "divergent __syncthreads", "two places of one barrier");
    expect_error(run(32, 0, leave_a_lane_out, values), "outside its own mask", "a lane without its bit");
    expect(all_passed(true), "what was written before a grid barrier");
    missed |= !all_passed(false);
    expect_error(simt::launch(2, 32, 0, [&] { part_grids(values); }, true), "divergent grid_barrier", "two places");
    for (int launch = 0; launch < 2; launch++) {
      expect(run(1, 4, read_unwritten, values) == 0, "unwritten shared memory");
      expect(values[0] != values[0] && values[1] != values[1], "unwritten shared memory is NaN");
    }
  }
  expect(missed, "blocks run together");
  return failures != 0;
}
