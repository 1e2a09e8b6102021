// gram on CUDA.
//
// v1: one block per tile of the lower triangle; kept columns are gathered on load.
// v2: the 128 x 128 tiles of syrk.cuh, tensor cores for halves, rows split where tiles are few.
#pragma once

#include "gram.h"
#include "syrk.cuh"

namespace fastprune::gram {

template <typename Element, typename Out>
__global__ void __launch_bounds__(syrk::kThreads, 2)
    kernel(syrk::Panel<Element> panel, int tiles, syrk::Plan plan, Out* out, Out* workspace) {
  auto& shared = shared_storage<syrk::Storage<Element, Out>>();
  for (int work = blockIdx.x; work < tiles * plan.splits; work += gridDim.x) {
    syrk::accumulate(panel, work % tiles, plan, work / tiles, work, shared, out, workspace);
  }
}

template <typename Out>
__global__ void __launch_bounds__(syrk::kThreads, 2)
    combine_kernel(int64_t width, int tiles, syrk::Plan plan, Out* out, const Out* workspace) {
  for (int work = blockIdx.x; work < tiles * syrk::kCombineBlocks; work += gridDim.x) {
    const int tile = work / syrk::kCombineBlocks;
    syrk::combine(width, tile, tiles, plan, tile, work % syrk::kCombineBlocks, out, workspace);
  }
}

}  // namespace fastprune::gram
