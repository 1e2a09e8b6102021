// Launching a kernel: one call, one status, no <<<>>> (so that a plain C++ compiler can parse it).
#pragma once

#include <cuda_runtime.h>

#include "index.cuh"
#include "types.h"

// The one dynamic shared allocation of whichever kernel runs; see shared_storage().
extern __shared__ __align__(32) unsigned char fastprune_shared_memory[];

namespace fastprune {

constexpr int kWarpSize = 32;

// Kernels walk both grid dimensions with stride loops, so the grid need not cover the work: this
// many blocks along x fill any device several times over.
constexpr int64_t kMaxBlocks = 1 << 20;
constexpr int64_t kMaxGridY = 65535;

inline dim3 grid_for(int64_t x, int64_t y = 1) {
  return dim3(static_cast<unsigned>(min_of(max_of(x, 1), kMaxBlocks)),
              static_cast<unsigned>(min_of(max_of(y, 1), kMaxGridY)));
}

// Shared memory is always one named struct per kernel, sized by the launch.
template <typename Storage>
__device__ __forceinline__ Storage& shared_storage() {
  static_assert(alignof(Storage) <= 32 && sizeof(Storage) <= 48 * 1024);  // no opt-in needed
  return *reinterpret_cast<Storage*>(fastprune_shared_memory);
}

template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
              Stream stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  if (cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...) == cudaSuccess) {
    return Status::ok;
  }
  cudaGetLastError();  // the status carries the news; leave nothing for the caller's next check
  return Status::launch_failed;
}

}  // namespace fastprune
