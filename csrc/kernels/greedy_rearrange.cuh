// greedy_rearrange on CUDA.
//
// v1: one block per (problem, site), all in one launch. A thread owns every blockDim-th unit for
//     good, so its state needs no synchronisation: one barrier per step, inside the argmin.
//     M's insertion order is the order of ascending diagonal, because units join in that order and
//     one that left never returns: ties are broken by rank.
// Next: state in registers or shared memory, row prefetch, several blocks per large site.
#pragma once

#include "../common/reduce.cuh"
#include "../common/sites.cuh"
#include "greedy_rearrange.h"

namespace fastprune::greedy_rearrange {

constexpr int kMaxThreads = 1024;

// Arrays over the units of every problem, in the caller's workspace.
struct State {
  double* response;  // r = F 1_M
  float* diagonal;
  int32_t* rank;   // of a unit in the order of ascending diagonal
  int32_t* order;  // the unit of that rank
};
constexpr int64_t kStateBytes = sizeof(double) + sizeof(float) + 2 * sizeof(int32_t);

struct Storage {
  Candidate best[2][kMaxWarps];
  int32_t count[kMaxWarps];
};

// One site of one problem. `out` doubles as M: zero = pruned = in M.
__device__ inline void rearrange(const float* block, const float* mask, int units,
                                 const State& state, Storage& shared, float* out) {
  int pruned = 0;
  for (int j = threadIdx.x; j < units; j += blockDim.x) {
    const bool kept = mask[j] != 0;
    out[j] = kept;
    pruned += !kept;
  }
  pruned = block_sum(pruned, shared.count);  // its barriers also part this site from the last one
  if (pruned == 0 || pruned == units) return;

  // Rank the units by diagonal (NaN last, so that ranks stay a permutation).
  for (int j = threadIdx.x; j < units; j += blockDim.x) {
    const float value = block[int64_t{j} * units + j];
    state.diagonal[j] = value == value ? value : INFINITY;
  }
  __syncthreads();
  for (int j = threadIdx.x; j < units; j += blockDim.x) {
    const float value = state.diagonal[j];
    int rank = 0;
    for (int k = 0; k < units; ++k) {
      const float other = state.diagonal[k];
      rank += other < value || (other == value && k < j);
    }
    state.rank[j] = rank;
    state.order[rank] = j;
  }
  __syncthreads();

  // M = the lowest ranks.
  for (int j = threadIdx.x; j < units; j += blockDim.x) {
    double response = 0;
    for (int k = 0; k < pruned; ++k) response += block[int64_t{state.order[k]} * units + j];
    state.response[j] = response;
    out[j] = state.rank[j] >= pruned;
  }

  // One unit in, one unit out. What left is subtracted in the pass that adds the next one. The term
  // 1_M^T F 1_M is the same for every candidate and is left out of the comparison.
  int leaving = -1;
  for (int step = pruned; step < units; ++step) {
    const int joining = state.order[step];
    const float* joining_row = block + int64_t{joining} * units;
    const float* leaving_row = leaving < 0 ? nullptr : block + int64_t{leaving} * units;
    Candidate best = {INFINITY, units};
    for (int j = threadIdx.x; j < units; j += blockDim.x) {
      double response = state.response[j];
      if (leaving_row) response -= leaving_row[j];
      response += joining_row[j];
      state.response[j] = response;
      if (j == leaving) out[j] = 1;
      if (j == joining) out[j] = 0;
      if (out[j] != 0) continue;
      const double cost = state.diagonal[j] - 2 * response;
      best = better(best, {cost == cost ? cost : INFINITY, state.rank[j]});
    }
    leaving = state.order[block_best(best, shared.best[step % 2]).position];
  }
  if (leaving % blockDim.x == threadIdx.x) out[leaving] = 1;
}

__global__ void __launch_bounds__(kMaxThreads)
    kernel(GreedyRearrangeArgs args, const __grid_constant__ SiteBatch batch, int64_t all_units,
           State state) {
  auto& shared = shared_storage<Storage>();
  for (int64_t problem = blockIdx.y; problem < args.problems; problem += gridDim.y) {
    for (int site = blockIdx.x; site < batch.count; site += gridDim.x) {
      const int64_t first = problem * all_units + batch.unit_offset[site];
      rearrange(
          args.blocks + batch.block_offset[site], args.masks + first, batch.units[site],
          {state.response + first, state.diagonal + first, state.rank + first, state.order + first},
          shared, args.out + first);
    }
  }
}

}  // namespace fastprune::greedy_rearrange
