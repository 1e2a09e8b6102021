// The rows of one part that count, listed in shared memory: rows that `valid` leaves out cost no
// arithmetic and are never read, so what they hold cannot matter (0 * NaN would).
#pragma once

#include "../common/reduce.cuh"
#include "syrk_plan.h"

namespace fastprune::syrk {

constexpr int kThreads = 256;

// threadIdx.x, read anew: what is computed from it is not carried in registers from one use to the
// next, across all the arithmetic between them.
__device__ __forceinline__ int thread_index() {
#ifdef __CUDA_ARCH__
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
#else
  return threadIdx.x;
#endif
}

// The matrix X, possibly a selection of its columns and rows.
template <typename Element>
struct Panel {
  const Element* data;
  int64_t rows;
  int64_t row_stride;
  int64_t width;                     // columns of X
  const int64_t* columns = nullptr;  // [width] where they are in a row; null = in order
  const uint8_t* valid = nullptr;    // [rows], 0 = the row counts as zeros; null = all count
};

struct RowList {
  unsigned ballots[kThreads / kWarpSize];
  uint8_t rows[kPartialRows];  // relative to the part
};

// Lists the rows of `part` in order and returns how many there are. Called by the whole block. Its
// barriers also tell every thread that the block is done with the part before.
template <typename Element>
__device__ __forceinline__ int list_rows(const Panel<Element>& panel, int part, RowList& list) {
  static_assert(kPartialRows == kThreads && kPartialRows <= 256);  // a thread and a byte per row
  const int thread = thread_index();
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
  const int64_t row = int64_t{part} * kPartialRows + thread;
  const bool counts = row < panel.rows && (!panel.valid || panel.valid[row]);
  const unsigned ballot = __ballot_sync(kFullWarp, counts);
  if (lane == 0) list.ballots[warp] = ballot;
  __syncthreads();

  int count = 0;
  int before = __popc(ballot & ((1u << lane) - 1));
#pragma unroll
  for (int w = 0; w < kThreads / kWarpSize; ++w) {
    const int rows = __popc(list.ballots[w]);
    count += rows;
    if (w < warp) before += rows;
  }
  if (counts) list.rows[before] = static_cast<uint8_t>(thread);
  __syncthreads();
  return count;
}

}  // namespace fastprune::syrk
