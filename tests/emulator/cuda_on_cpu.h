// Runs CUDA kernels on the CPU, unmodified: put tests/emulator/include before the real CUDA headers
// and compile the .cu files as C++20. Each CUDA thread of a block is a ucontext fibre; blocks run
// one after another. A fibre yields at __syncthreads, __syncwarp, the shuffles, votes and minima,
// and the warp-wide matrix operations of mma.h.
//
// What it sees: wrong arithmetic and indices; races that a missing barrier opens (three schedules);
// reads of shared memory before it is written (filled with NaN before each block); barriers that
// not every thread reaches, or that threads reach at different lines; and, built with
// -fsanitize=address,undefined, out-of-bounds and misaligned accesses, global and shared.
//
// What it does not see or support:
//   - races between blocks, memory ordering, coalescing, bank conflicts, occupancy, speed;
//   - interleavings inside a stretch without a yield;
//   - static __shared__ variables (our kernels name one dynamic struct each), atomics, textures,
//     asynchronous copies, cooperative groups, streams other than "at once";
//   - of tensor cores, how they round: a 16 x 16 x 16 product is summed in f32, one product after
//     another; which lane holds what of a fragment is made up, so kernels may not depend on it; and
//     what stands in for an operation under #ifdef __CUDA_ARCH__ (inline PTX) is not run;
//   - shuffles and the like by part of a warp: every live lane must take part, whatever the mask
//     says;
//   - device rounding of anything but + - * / sqrt, and the compiler's own contraction into fma.
#pragma once

#include <math.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <source_location>
#include <string_view>
#include <tuple>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// ---- Language -----------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

// ---- Half types: storage, and conversion to float -----------------------------------------------

struct __nv_bfloat16 {
  uint16_t bits;
};

struct __half {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline float __half2float(__half value) {
  const uint32_t exponent = value.bits >> 10 & 0x1f;
  const uint32_t mantissa = value.bits & 0x3ff;
  float magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa ? NAN : INFINITY;
  } else if (exponent == 0) {
    magnitude = ldexpf(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::bit_cast<float>((exponent + 127 - 15) << 23 | mantissa << 13);
  }
  return value.bits & 0x8000 ? -magnitude : magnitude;
}

// ---- Memory -------------------------------------------------------------------------------------

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// Cache hints change nothing here.
template <typename Value>
Value __ldcs(const Value* address) {
  return *address;
}

// ---- Arithmetic ---------------------------------------------------------------------------------

inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A macro, because some C libraries have a function of this name.
#define rsqrt(value) (1 / sqrt(value))

// ---- The machine --------------------------------------------------------------------------------

namespace emulator {

// Which runnable fibre goes next. Round robin keeps all threads abreast; warp greedy lets one warp
// run as far as barriers allow before the next one starts. Reversed: last warp and last lane first,
// so that no thread may count on a lower one having gone before it.
enum class Schedule { round_robin, warp_greedy, warp_greedy_reversed };

constexpr unsigned kWarp = 32;
constexpr size_t kSharedCapacity = 48 * 1024;  // what a launch gets without opting in to more
constexpr size_t kMaxThreads = 1024;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// Where a fibre, or the scheduler, goes on.
struct Place {
  ucontext_t context;
  void* jump[5];  // as __builtin_setjmp wants it
  bool left = false;
};

// Only what has not run yet starts from its context; what was left is jumped back to. swapcontext
// would ask the kernel for the signal mask at every switch, and have the sanitizers forget the
// stack it enters. The compiler is to assume nothing of either function: all registers change.
[[gnu::noipa, gnu::no_sanitize_address]] inline void arrive(Place& to) {
  if (to.left) __builtin_longjmp(to.jump, 1);
  setcontext(&to.context);
}

[[gnu::noipa, gnu::no_sanitize_address]] inline void go(Place& from, Place& to) {
  from.left = true;
  if (__builtin_setjmp(from.jump) == 0) arrive(to);
}

struct Fibre {
  enum class State { runnable, at_block_barrier, at_warp_barrier, done };

  State state = State::done;
  std::source_location at;  // the barrier it waits at
  uint3 index;
  uint64_t slot[2] = {};  // what it offers to an exchange; two, so that one barrier is enough
  unsigned exchanges = 0;
  Place place;
  std::unique_ptr<char[]> stack;
  void* fake_stack = nullptr;
};

// A barrier to pretend away, so that tests can show that its absence is noticed.
struct SkippedBarrier {
  std::string_view file;
  unsigned line = 0;
  long met = 0;

  bool matches(const std::source_location& at) {
    const bool match = line == at.line() && std::string_view(at.file_name()).ends_with(file);
    met += match;
    return match;
  }
};

class Machine {
 public:
  Schedule schedule = Schedule::round_robin;
  unsigned grid_limit = 0;  // of every grid dimension; 0 = none. Stride loops must cover the rest
  SkippedBarrier skipped;

  // False if the block deadlocked or left its barriers unevenly; the reason goes to stderr.
  bool run_block(const std::function<void()>& kernel, unsigned threads);

  void wait(Fibre::State barrier, const std::source_location& at) {
    if (skipped.matches(at)) return;
    current().state = barrier;
    current().at = at;
    leave();
  }

  // What every lane of the warp offers to the same exchange; a lane that is not there offers what
  // the caller does.
  template <typename Value>
  std::array<Value, kWarp> exchange(Value value) {
    static_assert(sizeof(Value) <= sizeof(uint64_t));
    Fibre& self = current();
    const unsigned slot = self.exchanges++ % 2;
    std::memcpy(&self.slot[slot], &value, sizeof value);
    self.state = Fibre::State::at_warp_barrier;
    leave();
    std::array<Value, kWarp> all;
    all.fill(value);
    const unsigned first = current_ - current_ % kWarp;
    for (unsigned lane = 0; lane < kWarp && first + lane < live_; ++lane) {
      std::memcpy(&all[lane], &fibres_[first + lane]->slot[slot], sizeof value);
    }
    return all;
  }

  unsigned lane() const { return current_ % kWarp; }

 private:
  Fibre& current() { return *fibres_[current_]; }
  void resume(unsigned thread);
  void leave();
  bool run_warp(unsigned warp);
  bool release_block();
  static void fibre_main();

  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::function<void()> kernel_;
  Place scheduler_;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  unsigned current_ = 0;
  unsigned live_ = 0;  // threads of the running block
};

inline Machine machine;

// A fibre outlives its block: it waits here for the next one.
inline void Machine::fibre_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack_,
                                  &machine.scheduler_stack_bytes_);
#endif
  for (;;) {
    machine.kernel_();
    machine.current().state = Fibre::State::done;
    machine.leave();
  }
}

inline void Machine::resume(unsigned thread) {
  current_ = thread;
  Fibre& fibre = current();
  threadIdx = fibre.index;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, fibre.stack.get(), kStackBytes);
#endif
  go(scheduler_, fibre.place);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
}

inline void Machine::leave() {
  Fibre& fibre = current();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fibre.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
  go(fibre.place, scheduler_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fibre.fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
}

// Gives every runnable lane one turn, then opens the warp's barrier if all live lanes reached it.
inline bool Machine::run_warp(unsigned warp) {
  const unsigned begin = warp * kWarp;
  const unsigned end = begin + kWarp < live_ ? begin + kWarp : live_;
  bool ran = false;
  for (unsigned i = begin; i < end; ++i) {
    const unsigned thread = schedule == Schedule::warp_greedy_reversed ? begin + end - 1 - i : i;
    if (fibres_[thread]->state == Fibre::State::runnable) {
      resume(thread);
      ran = true;
    }
  }
  bool all_wait = true;
  for (unsigned thread = begin; thread < end; ++thread) {
    const auto state = fibres_[thread]->state;
    all_wait &= state == Fibre::State::at_warp_barrier || state == Fibre::State::done;
  }
  if (all_wait) {
    for (unsigned thread = begin; thread < end; ++thread) {
      if (fibres_[thread]->state == Fibre::State::at_warp_barrier) {
        fibres_[thread]->state = Fibre::State::runnable;
        ran = true;
      }
    }
  }
  return ran;
}

// Called when nothing can run. Opens the block barrier if all live threads wait at the same one.
inline bool Machine::release_block() {
  const Fibre* first = nullptr;
  for (unsigned thread = 0; thread < live_; ++thread) {
    const Fibre& fibre = *fibres_[thread];
    if (fibre.state == Fibre::State::done) continue;
    if (!first) first = &fibre;
    if (fibre.state != Fibre::State::at_block_barrier || fibre.at.line() != first->at.line()) {
      std::fprintf(stderr, "emulator: divergent barrier: %s:%u and %s:%u\n", first->at.file_name(),
                   first->at.line(), fibre.at.file_name(), fibre.at.line());
      return false;
    }
  }
  for (unsigned thread = 0; thread < live_; ++thread) {
    Fibre& fibre = *fibres_[thread];
    if (fibre.state == Fibre::State::at_block_barrier) fibre.state = Fibre::State::runnable;
  }
  return true;
}

inline bool Machine::run_block(const std::function<void()>& kernel, unsigned threads) {
  kernel_ = kernel;
  live_ = threads;
  while (fibres_.size() < threads) {
    auto fibre = std::make_unique<Fibre>();
    fibre->stack = std::make_unique<char[]>(kStackBytes);
    getcontext(&fibre->place.context);
    fibre->place.context.uc_stack.ss_sp = fibre->stack.get();
    fibre->place.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fibre->place.context, &Machine::fibre_main, 0);
    fibres_.push_back(std::move(fibre));
  }
  for (unsigned thread = 0; thread < threads; ++thread) {
    Fibre& fibre = *fibres_[thread];
    fibre.state = Fibre::State::runnable;
    fibre.exchanges = 0;
    fibre.index = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                   thread / (blockDim.x * blockDim.y)};
  }

  const unsigned warps = (threads + kWarp - 1) / kWarp;
  const auto finished = [&] {
    for (unsigned thread = 0; thread < threads; ++thread) {
      if (fibres_[thread]->state != Fibre::State::done) return false;
    }
    return true;
  };
  while (!finished()) {
    bool ran = false;
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned warp = schedule == Schedule::warp_greedy_reversed ? warps - 1 - i : i;
      while (run_warp(warp)) {
        ran = true;
        if (schedule == Schedule::round_robin) break;
      }
    }
    if (!ran && !finished() && !release_block()) {
      fibres_.clear();  // their stacks hold half a kernel
      return false;
    }
  }
  return true;
}

}  // namespace emulator

inline void __syncthreads(const std::source_location& at = std::source_location::current()) {
  emulator::machine.wait(emulator::Fibre::State::at_block_barrier, at);
}

inline void __syncwarp(unsigned = ~0u,
                       const std::source_location& at = std::source_location::current()) {
  emulator::machine.wait(emulator::Fibre::State::at_warp_barrier, at);
}

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int mask) {
  const unsigned source = emulator::machine.lane() ^ mask;
  const auto all = emulator::machine.exchange(value);
  return source < emulator::kWarp ? all[source] : value;
}

template <typename Value>
Value __shfl_sync(unsigned, Value value, int source) {
  return emulator::machine.exchange(value)[source % emulator::kWarp];
}

inline unsigned __reduce_min_sync(unsigned, unsigned value) {
  const auto all = emulator::machine.exchange(value);
  return *std::min_element(all.begin(), all.end());
}

template <typename Value>
Value __shfl_down_sync(unsigned, Value value, unsigned delta) {
  const unsigned source = emulator::machine.lane() + delta;
  const auto all = emulator::machine.exchange(value);
  return source < emulator::kWarp ? all[source] : value;
}

inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto all = emulator::machine.exchange(predicate);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < emulator::kWarp; ++lane) ballot |= (all[lane] != 0) << lane;
  return ballot;
}

inline int __popc(unsigned value) { return std::popcount(value); }

// ---- Runtime ------------------------------------------------------------------------------------

// The kernels' dynamic shared memory; entry.cpp defines it.
extern __align__(32) unsigned char fastprune_shared_memory[];

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Parameters... arguments) {
  using namespace emulator;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  const uint64_t threads = uint64_t{blockDim.x} * blockDim.y * blockDim.z;
  const size_t shared_bytes = config->dynamicSmemBytes;
  if (threads == 0 || threads > kMaxThreads || gridDim.x == 0 || gridDim.x > 0x7fffffffu ||
      gridDim.y == 0 || gridDim.y > 65535 || gridDim.z == 0 || gridDim.z > 65535 ||
      shared_bytes > kSharedCapacity) {
    return cudaErrorInvalidConfiguration;
  }

  if (const unsigned limit = machine.grid_limit) {
    gridDim = dim3(gridDim.x < limit ? gridDim.x : limit, gridDim.y < limit ? gridDim.y : limit,
                   gridDim.z < limit ? gridDim.z : limit);
  }
  const std::function<void()> body = [&] { kernel(arguments...); };
  const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  bool sound = true;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(fastprune_shared_memory + shared_bytes, kSharedCapacity - shared_bytes);
#endif
  for (uint64_t block = 0; block < blocks && sound; ++block) {
    blockIdx.x = static_cast<unsigned>(block % gridDim.x);
    blockIdx.y = static_cast<unsigned>(block / gridDim.x % gridDim.y);
    blockIdx.z = static_cast<unsigned>(block / gridDim.x / gridDim.y);
    if (shared_bytes) std::memset(fastprune_shared_memory, 0xff, shared_bytes);  // NaN
    sound = machine.run_block(body, static_cast<unsigned>(threads));
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fastprune_shared_memory, kSharedCapacity);
#endif
  return sound ? cudaSuccess : cudaErrorLaunchFailure;
}
