// fisher_outer on CUDA.
//
// v1: one block per tile of any site's lower triangle (syrk.cuh), all sites in one launch.
#pragma once

#include "../common/sites.cuh"
#include "fisher_outer.h"
#include "syrk.cuh"

namespace fastprune::fisher_outer {

// `batch.work` counts tiles.
template <typename Element>
__global__ void __launch_bounds__(syrk::kThreads, 2)
    kernel(FisherOuterArgs args, const __grid_constant__ SiteBatch batch) {
  auto& shared = shared_storage<syrk::Storage<float>>();
  for (int64_t work = blockIdx.x; work < batch.work; work += gridDim.x) {
    const int site = site_of_work(batch, work);
    const syrk::Panel<Element> panel = {
        static_cast<const Element*>(args.grads) + batch.unit_offset[site], args.rows,
        args.row_stride, batch.units[site]};
    syrk::accumulate_tile(panel, work - batch.work_offset[site], shared,
                          args.blocks + batch.block_offset[site]);
  }
}

}  // namespace fastprune::fisher_outer
