// gram on CUDA.
//
// v1: one block per tile of the lower triangle (syrk.cuh); kept columns are gathered on load.
#pragma once

#include "gram.h"
#include "syrk.cuh"

namespace fastprune::gram {

template <typename Element, typename Out>
__global__ void __launch_bounds__(syrk::kThreads, 2)
    kernel(syrk::Panel<Element> panel, int64_t tiles, Out* out) {
  auto& shared = shared_storage<syrk::Storage<float>>();
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    syrk::accumulate_tile(panel, tile, shared, out);
  }
}

}  // namespace fastprune::gram
