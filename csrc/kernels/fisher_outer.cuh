// fisher_outer on CUDA.
//
// v1: one block per tile of any site's lower triangle, all sites in one launch.
// v2: the 128 x 128 tiles of syrk.cuh, tensor cores for halves, rows split where tiles are few.
#pragma once

#include "../common/sites.cuh"
#include "fisher_outer.h"
#include "syrk.cuh"

namespace fastprune::fisher_outer {

// `batch.work` counts tiles; see syrk::tiles_of() about their number.
template <typename Element>
__global__ void __launch_bounds__(syrk::kThreads, 2)
    kernel(FisherOuterArgs args, const __grid_constant__ SiteBatch batch, syrk::Plan plan,
           float* workspace) {
  auto& shared = shared_storage<syrk::Storage<Element, float>>();
  const int tiles = static_cast<int>(batch.work);
  for (int work = blockIdx.x; work < tiles * plan.splits; work += gridDim.x) {
    const int tile = work % tiles;
    const int site = site_of_work(batch, tile);
    const syrk::Panel<Element> panel = {
        static_cast<const Element*>(args.grads) + batch.unit_offset[site], args.rows,
        args.row_stride, batch.units[site]};
    syrk::accumulate(panel, tile - batch.work_offset[site], plan, work / tiles, work, shared,
                     args.blocks + batch.block_offset[site], workspace);
  }
}

__global__ void __launch_bounds__(syrk::kThreads, 2)
    combine_kernel(float* blocks, const __grid_constant__ SiteBatch batch, syrk::Plan plan,
                   const float* workspace) {
  for (int work = blockIdx.x; work < batch.work * syrk::kCombineBlocks; work += gridDim.x) {
    const int tile = work / syrk::kCombineBlocks;
    const int site = site_of_work(batch, tile);
    syrk::combine(batch.units[site], tile - batch.work_offset[site], batch.work, plan, tile,
                  work % syrk::kCombineBlocks, blocks + batch.block_offset[site], workspace);
  }
}

}  // namespace fastprune::fisher_outer
