// Plain types shared by every kernel. Nothing under common/ or kernels/ may include torch.
#pragma once

#include <cstdint>
#include <functional>

namespace fastprune {

// Element types a kernel can read. Statistics are always written as f32 or f64.
enum class DType : int32_t { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };

// What a kernel returns instead of throwing; bindings turn it into an exception with a message.
enum class Status : int32_t {
  ok = 0,
  unsupported_dtype = 1,
  too_large = 2,      // a dimension does not fit the launch grid
  launch_failed = 3,  // the CUDA runtime refused the launch
};

// Runs task(0) .. task(count - 1), in any order and possibly at once: how a CPU kernel with
// dependent phases uses the caller's threads.
using TaskRunner = std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

// The TaskRunner of a kernel that is a task itself.
inline void run_serially(int64_t count, const std::function<void(int64_t)>& task) {
  for (int64_t i = 0; i < count; ++i) task(i);
}

// A CUDA stream, opaque so that CPU translation units need no CUDA header.
using Stream = void*;

}  // namespace fastprune
