// Warp and block reductions: the only shuffles in the tree. Every order of summation is fixed.
#pragma once

#include "launch.cuh"

namespace fastprune {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kMaxWarps = 32;

// The sum over the warp, in every lane.
template <typename Real>
__device__ __forceinline__ Real warp_sum(Real value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, offset);
  }
  return value;
}

// The sum over the block, in every thread. The block is made of full warps.
template <typename Real>
__device__ Real block_sum(Real value, Real (&scratch)[kMaxWarps]) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;

  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = warp_sum(lane < warps ? scratch[lane] : Real(0));
  __syncthreads();  // scratch may be reused
  return value;
}

// A cost and the position that breaks ties: the lower position wins.
struct Candidate {
  double cost;
  int32_t position;
};

__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
  const bool first = a.cost < b.cost || (a.cost == b.cost && a.position < b.position);
  return first ? a : b;
}

__device__ __forceinline__ Candidate warp_best(Candidate value) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Candidate other = {__shfl_xor_sync(kFullWarp, value.cost, offset),
                             __shfl_xor_sync(kFullWarp, value.position, offset)};
    value = better(value, other);
  }
  return value;
}

// The best candidate of the block, in every thread, for one barrier: the caller alternates between
// two scratch arrays, so the previous call's readers are never overtaken.
__device__ inline Candidate block_best(Candidate value, Candidate (&scratch)[kMaxWarps]) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;

  value = warp_best(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return warp_best(scratch[lane < warps ? lane : 0]);
}

}  // namespace fastprune
