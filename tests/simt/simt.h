// Runs CUDA C++ kernels on the CPU, one fiber for each CUDA thread: the source that nvcc compiles, without a GPU.
// It finds wrong indices, fragment layouts, barriers and bounds. It says nothing about speed and is no backend.
//
//   * Blocks run one after another, those of a cooperative launch together; threads change at barriers, warp
//     collectives and atomics.
//   * Seed 0 runs everything in order, any other seed in a random order that it fixes: blocks, threads, and how early
//     an asynchronous copy happens. What a missing barrier breaks, some seed shows.
//   * AddressSanitizer sees every access outside global or shared memory. ThreadSanitizer takes each fiber for a thread
//     and each barrier for one, so it names both sides of a race in the first run.
//   * Shared memory is full of NaN when a block begins.
//   * Deadlocks, divergent barriers and collectives without all their lanes are errors.
//
// It looks for races between blocks in cooperative launches alone, and knows no clusters, TMA, wgmma or weak memory
// order.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void __tsan_read16(void*);
void __tsan_write16(void*);
}
#define SIMT_UNSEEN __attribute__((noinline, no_sanitize("thread")))
#else
#define SIMT_UNSEEN __attribute__((noinline))
#endif

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr uint64_t count() const { return uint64_t{x} * y * z; }
};
struct uint3 {
  unsigned x, y, z;
};

namespace simt {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ThreadSanitizer: what follows is the emulator's own bookkeeping.
struct Quiet {
#ifdef __SANITIZE_THREAD__
  Quiet() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  ~Quiet() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }
#else
  Quiet() {}
#endif
};

inline void release(void* address) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(address);
#endif
  (void)address;
}
inline void acquire(void* address) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(address);
#endif
  (void)address;
}

struct Copy {  // asynchronous, not yet performed
  void* to;
  const void* from;
  int bytes, zeros;
};

struct Block;

struct Fiber {
#ifdef __x86_64__
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;
  const void* low = nullptr;  // what AddressSanitizer asks for: bounds and its own second stack
  size_t size = 0;
  void* fake_stack = nullptr;
  void* thread = nullptr;  // ThreadSanitizer's
  enum State : uint8_t { kReady, kBarrier, kGridBarrier, kCollective, kDone } state = kDone;
  Block* block = nullptr;
  uint3 thread_index{};
  unsigned index = 0;  // within the block
  // Where it waits, and with which lanes.
  const char* what = "";
  int line = 0;
  unsigned mask = 0;
  void* argument = nullptr;
  void (*complete)(void**, unsigned live) = nullptr;
  std::vector<Copy> copies;
};

// A static array in shared memory; full of NaN whenever a block begins.
struct SharedArray {
  void* memory;
  size_t bytes;
};

// Where the threads of a block, or of all blocks, wait for each other.
struct Barrier {
  unsigned alive = 0, arrived = 0, generation = 0;
  int line = 0;
  uint64_t sync[2];  // addresses for ThreadSanitizer
};

struct Block {
  uint3 index{};
  Fiber* fibers = nullptr;
  Barrier barrier;
  std::vector<uint64_t> warp_sync;  // two for each warp, in turn
  std::vector<uint8_t> warp_turn;
  unsigned char* dynamic_shared = nullptr;
};

struct Machine {
  dim3 grid, block;
  Fiber host;
  Fiber* current = nullptr;
  std::vector<Block> blocks;  // that run together
  std::vector<Fiber> fibers;  // of each of them as many as a block has threads
  std::vector<Fiber*> ready;
  size_t next_ready = 0;
  unsigned threads = 0;  // of a block
  Barrier grid_barrier;
  uint64_t start_sync;
  std::vector<SharedArray> shared_arrays;
  size_t dynamic_shared_bytes = 0;
  uint64_t seed = 0, random_state = 0;
  std::string error;
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
};
inline Machine machine;

constexpr int kMultiprocessors = 3;
constexpr size_t kStackBytes = 128 << 10, kGuardBytes = 4096;

inline bool randomised() { return machine.seed != 0; }
inline uint32_t random_below(uint32_t n) {  // xorshift64*
  uint64_t& x = machine.random_state;
  x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
  return static_cast<uint32_t>((x * 2685821657736338717ull) >> 33) % n;
}

// ------------------------------------------------------------------------------------------------------------- fibers

#ifdef __x86_64__
// Saves what a callee must keep on the stack in use, and goes on where the other stack was left.
__attribute__((naked, noinline)) inline void swap_stacks(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif

#ifdef __SANITIZE_THREAD__
__attribute__((no_sanitize("thread")))
#endif
inline void jump(Fiber& from, Fiber& to, bool for_good = false) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.low, to.size);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(to.thread, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __x86_64__
  swap_stacks(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#ifdef __SANITIZE_ADDRESS__
  const void* low;
  size_t size;
  __sanitizer_finish_switch_fiber(from.fake_stack, &low, &size);
#endif
  (void)for_good;
}

inline void yield() { jump(*machine.current, machine.host); }
inline void wake(Fiber& fiber) {
  fiber.state = Fiber::kReady;
  machine.ready.push_back(&fiber);
}
[[noreturn]] inline void fail(const std::string& what) {  // leaves the kernel for good
  machine.error = what;
  for (;;) yield();
}
inline std::string where(const Fiber& fiber) {
  const uint3 t = fiber.thread_index;
  const std::string block = machine.blocks.size() > 1 ? "block " + std::to_string(fiber.block->index.x) + ", " : "";
  return block + "thread (" + std::to_string(t.x) + ", " + std::to_string(t.y) + ", " + std::to_string(t.z) + ") at " +
         fiber.what + ", line " + std::to_string(fiber.line);
}
inline void wait(Fiber::State state, const char* what, int line) {
  Fiber& self = *machine.current;
  self.state = state, self.what = what, self.line = line;
}

// Wakes the fibers in [begin, end) that wait in this state if all that live have arrived.
inline void try_barrier(Barrier& barrier, Fiber::State state, Fiber* begin, Fiber* end) {
  if (!barrier.arrived || barrier.arrived < barrier.alive) return;
  barrier.arrived = 0, barrier.generation++;
  for (Fiber* fiber = begin; fiber < end; fiber++)
    if (fiber->state == state) wake(*fiber);
}
inline void try_barriers(Block& block) {
  try_barrier(block.barrier, Fiber::kBarrier, block.fibers, block.fibers + machine.threads);
  Fiber* first = machine.fibers.data();
  try_barrier(machine.grid_barrier, Fiber::kGridBarrier, first, first + machine.blocks.size() * machine.threads);
}

inline unsigned live_lanes(const Fiber* warp, unsigned count) {
  unsigned lanes = 0;
  for (unsigned l = 0; l < count; l++) lanes |= static_cast<unsigned>(warp[l].state != Fiber::kDone) << l;
  return lanes;
}

// Completes a collective when all live lanes of its mask are there.
inline void try_collective(Fiber& fiber) {
  const unsigned begin = fiber.index / 32 * 32;
  Fiber* warp = fiber.block->fibers + begin;
  const unsigned live = live_lanes(warp, std::min(32u, machine.threads - begin)) & fiber.mask;
  void* arguments[32] = {};
  for (unsigned l = 0; l < 32; l++) {
    if (!(live >> l & 1)) continue;
    const Fiber& other = warp[l];
    if (other.state != Fiber::kCollective || (other.mask & live) != live) return;
    if (std::strcmp(other.what, fiber.what)) fail("divergent warp collective: " + where(fiber) + "; " + where(other));
    arguments[l] = other.argument;
  }
  fiber.complete(arguments, live);
  fiber.block->warp_turn[begin / 32] ^= 1;
  for (unsigned l = 0; l < 32; l++)
    if (live >> l & 1) wake(warp[l]);
}

SIMT_UNSEEN inline void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &machine.host.low, &machine.host.size);
#endif
  acquire(&machine.start_sync);
  machine.body(machine.closure);
  release(&machine.start_sync);
  {
    Quiet quiet;  // ends before the last jump: the fiber, and ThreadSanitizer's idea of it, are used again
    Fiber& self = *machine.current;
    self.copies.clear();
    self.state = Fiber::kDone;
    self.block->barrier.alive--, machine.grid_barrier.alive--;
    try_barriers(*self.block);
    for (unsigned i = self.index / 32 * 32, end = std::min(i + 32, machine.threads); i < end; i++)
      if (self.block->fibers[i].state == Fiber::kCollective) try_collective(self.block->fibers[i]);
  }
  jump(*machine.current, machine.host, true);
  __builtin_trap();
}

inline void prepare(Fiber& fiber) {
  if (!fiber.stack) {
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, protection, flags, -1, 0);
    if (memory == MAP_FAILED) throw Error("no memory for the stacks of fibers");
    mprotect(memory, kGuardBytes, PROT_NONE);
    fiber.stack = static_cast<char*>(memory);
    fiber.low = fiber.stack + kGuardBytes, fiber.size = kStackBytes;
#ifdef __SANITIZE_THREAD__
    fiber.thread = __tsan_create_fiber(0);
#endif
  }
  fiber.fake_stack = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber.low, fiber.size);  // what a failed launch left behind
#endif
#ifdef __x86_64__
  void** top = reinterpret_cast<void**>(fiber.stack + kGuardBytes + kStackBytes);
  *--top = nullptr;  // keeps the stack pointer at 8 modulo 16 on entry
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack + kGuardBytes, fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&fiber_main), 0);
#endif
}

// ------------------------------------------------------------------------------------------------- blocks and launches

inline void report_deadlock() {
  machine.error = "deadlock:";
  std::vector<std::pair<std::string, int>> named;  // one thread for each place where some wait
  for (size_t i = 0; i < machine.blocks.size() * machine.threads; i++) {
    const Fiber& fiber = machine.fibers[i];
    if (fiber.state == Fiber::kDone) continue;
    const std::pair<std::string, int> place = {fiber.what, fiber.line};
    if (std::find(named.begin(), named.end(), place) != named.end()) continue;
    named.push_back(place);
    machine.error += " " + where(fiber) + ";";
  }
}

// Runs the blocks of these numbers together, each with its dynamic shared memory.
inline void run_blocks(const uint64_t* numbers) {
  Quiet quiet;
  const dim3 &size = machine.block, &grid = machine.grid;
  machine.ready.clear();
  machine.next_ready = 0;
  machine.grid_barrier.alive = static_cast<unsigned>(machine.blocks.size()) * machine.threads;
  machine.grid_barrier.arrived = 0;
  for (const SharedArray& array : machine.shared_arrays) std::memset(array.memory, 0xff, array.bytes);
  for (size_t b = 0; b < machine.blocks.size(); b++) {
    Block& block = machine.blocks[b];
    const uint64_t number = numbers[b];
    block.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    block.fibers = machine.fibers.data() + b * machine.threads;
    block.barrier.alive = machine.threads, block.barrier.arrived = 0;
    block.warp_sync.resize(2 * (machine.threads / 32 + 1));
    block.warp_turn.assign(machine.threads / 32 + 1, 0);
    std::memset(block.dynamic_shared, 0xff, machine.dynamic_shared_bytes);
    for (unsigned i = 0; i < machine.threads; i++) {
      Fiber& fiber = block.fibers[i];
      fiber.block = &block, fiber.index = i;
      fiber.copies.clear();
      fiber.thread_index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
      prepare(fiber);
      wake(fiber);
    }
  }
  release(&machine.start_sync);
  while (machine.grid_barrier.alive && machine.error.empty()) {
    auto& ready = machine.ready;
    if (machine.next_ready == ready.size()) {
      report_deadlock();
      break;
    }
    if (machine.next_ready > 4096) {
      ready.erase(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(machine.next_ready));
      machine.next_ready = 0;
    }
    if (randomised()) {
      const auto waiting = static_cast<uint32_t>(ready.size() - machine.next_ready);
      std::swap(ready[machine.next_ready], ready[machine.next_ready + random_below(waiting)]);
    }
    machine.current = ready[machine.next_ready++];
    jump(machine.host, *machine.current);
  }
  machine.current = nullptr;
  acquire(&machine.start_sync);
}

inline std::string& last_error() {
  static std::string text;
  return text;
}

// 0, or 1 with the reason in last_error(). The blocks of a cooperative launch run together.
template <typename Body>
int launch(dim3 grid, dim3 block, size_t shared_bytes, Body body, bool cooperative = false) {
  last_error().clear();
  machine.error.clear();
  machine.grid = grid, machine.block = block, machine.dynamic_shared_bytes = shared_bytes;
  machine.random_state = machine.seed * 0x9E3779B97F4A7C15ull + 1;
  if (block.count() > 1024 || grid.count() == 0 || shared_bytes > (size_t{99} << 10)) {
    last_error() = "launch: at least one block, at most 1024 threads and 99 KiB of shared memory";
    return 1;
  }
  machine.threads = static_cast<unsigned>(block.count());
  machine.blocks.resize(cooperative ? grid.count() : 1);
  if (machine.fibers.size() < machine.blocks.size() * machine.threads)
    machine.fibers.resize(machine.blocks.size() * machine.threads);
  for (Block& each : machine.blocks) {
    void* memory = nullptr;  // of this very size: the first byte behind it is poisoned
    if (posix_memalign(&memory, 128, std::max<size_t>(shared_bytes, 1))) return 1;
    each.dynamic_shared = static_cast<unsigned char*>(memory);
  }
#ifdef __SANITIZE_THREAD__
  machine.host.thread = __tsan_get_current_fiber();
#endif
  machine.closure = &body;
  machine.body = [](void* closure) { (*static_cast<Body*>(closure))(); };
  std::vector<uint64_t> order(grid.count());
  for (uint64_t i = 0; i < order.size(); i++) order[i] = i;
  if (randomised())
    for (uint64_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random_below(static_cast<uint32_t>(i))]);
  try {
    for (size_t first = 0; first < order.size() && machine.error.empty(); first += machine.blocks.size())
      run_blocks(order.data() + first);
  } catch (const Error& error) {
    machine.error = error.what();
  }
  for (Block& each : machine.blocks) std::free(each.dynamic_shared);
  last_error() = machine.error;
  return machine.error.empty() ? 0 : 1;
}

// Called where a kernel declares a static array, by the first thread that comes along.
inline bool declare_shared(void* memory, size_t bytes) {
  Quiet quiet;
  if (machine.blocks.size() > 1) fail("static shared memory in a cooperative launch: blocks would share it");
  machine.shared_arrays.push_back({memory, bytes});
  std::memset(memory, 0xff, bytes);
  return true;
}

// --------------------------------------------------------------------------------------------- barriers and
// collectives

inline void wait_at(Barrier& barrier, Fiber::State state, const char* what, int line) {
  void* sync = &barrier.sync[barrier.generation & 1];
  release(sync);
  {
    Quiet quiet;
    wait(state, what, line);
    if (!barrier.arrived++)
      barrier.line = line;
    else if (barrier.line != line)
      fail(std::string("divergent ") + what + ": " + where(*machine.current) + "; others at line " +
           std::to_string(barrier.line));
    try_barriers(*machine.current->block);
    yield();
  }
  acquire(sync);
}
inline void barrier(int line) { wait_at(machine.current->block->barrier, Fiber::kBarrier, "__syncthreads", line); }
// Of all blocks of a cooperative launch.
inline void grid_barrier(int line) { wait_at(machine.grid_barrier, Fiber::kGridBarrier, "grid_barrier", line); }

// Every live lane of `mask` hands in its argument; the last one to come runs function(arguments, live) for all of them.
// As on a GPU, it orders accesses to memory only if it is __syncwarp.
template <bool kOrdersMemory = false, typename Argument, typename Function>
void collective(unsigned mask, const char* what, int line, Argument& argument, Function) {
  const unsigned warp = machine.current->index / 32;
  Block& block = *machine.current->block;
  void* sync = &block.warp_sync[2 * warp + block.warp_turn[warp]];
  if (kOrdersMemory) release(sync);
  {
    Quiet quiet;
    Fiber& self = *machine.current;
    wait(Fiber::kCollective, what, line);
    if (!(mask >> (self.index % 32) & 1)) fail("a lane outside its own mask: " + where(self));
    self.mask = mask, self.argument = &argument;
    self.complete = [](void** arguments, unsigned live) { Function()(reinterpret_cast<Argument**>(arguments), live); };
    try_collective(self);
    yield();
  }
  if (kOrdersMemory) acquire(sync);
}

// What lane `from(lane within width)` holds; its own value where that is outside.
template <typename T, typename From>
T shuffle(unsigned mask, T value, int width, const char* what, int line, From from) {
  struct Argument {
    T in, out;
    int from;
  };
  const int lane = static_cast<int>(machine.current->index % 32), begin = lane / width * width;
  const int wanted = from(lane - begin);
  Argument argument = {value, value, wanted < 0 || wanted >= width ? lane : begin + wanted};
  collective(mask, what, line, argument, [](Argument** a, unsigned live) {
    for (int l = 0; l < 32; l++) {
      if (!(live >> l & 1)) continue;
      if (live >> a[l]->from & 1)
        a[l]->out = a[a[l]->from]->in;
      else
        std::memset(static_cast<void*>(&a[l]->out), 0xff, sizeof(T));  // undefined on a GPU
    }
  });
  return argument.out;
}

template <typename T, typename Combine>
T reduce(unsigned mask, T value, const char* what, int line, Combine) {
  struct Argument {
    T in, out;
  } argument = {value, value};
  collective(mask, what, line, argument, [](Argument** a, unsigned live) {
    T total{};
    bool first = true;
    for (int l = 0; l < 32; l++)
      if (live >> l & 1) total = first ? a[l]->in : Combine()(total, a[l]->in), first = false;
    for (int l = 0; l < 32; l++)
      if (live >> l & 1) a[l]->out = total;
  });
  return argument.out;
}

inline unsigned ballot(unsigned mask, bool predicate, const char* what, int line) {
  const unsigned bit = static_cast<unsigned>(predicate) << (machine.current->index % 32);
  return reduce(mask, bit, what, line, [](unsigned a, unsigned b) { return a | b; });
}

inline void maybe_preempt() {
  if (!randomised() || random_below(2)) return;
  Quiet quiet;
  wake(*machine.current);
  yield();
}

// --------------------------------------------------------------------------------------------------- asynchronous
// copies

// Performed as late as allowed, so that a missing wait reads what was there before; in random order sometimes early.
inline void perform(const Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.bytes);
  std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
}
inline void copy_async(void* to, const void* from, int bytes, int valid) {
  if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % bytes)
    fail("cp.async: misaligned address");
#ifdef __SANITIZE_THREAD__
  __tsan_write16(to);  // the hardware may write from now on, so this is where a race is
#endif
  const Copy copy = {to, from, valid, bytes - valid};
  if (randomised() && !random_below(3))
    perform(copy);
  else
    machine.current->copies.push_back(copy);
}
inline void wait_copies() {
  for (const Copy& copy : machine.current->copies) perform(copy);
  machine.current->copies.clear();
}

}  // namespace simt
