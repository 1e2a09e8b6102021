// Warp and block reductions: the only shuffles in the tree. Every order of summation is fixed.
// Needs compute capability 8.0.
#pragma once

#include "launch.cuh"

namespace fastprune {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kMaxWarps = 32;

// What `lane` holds, in every lane.
template <typename Real>
__device__ __forceinline__ Real warp_broadcast(Real value, int lane) {
  return __shfl_sync(kFullWarp, value, lane);
}

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

// An f64 as an integer of the same order; NaN is not allowed, and the two zeros are one.
__device__ __forceinline__ uint64_t ordered(double value) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(value + 0.0));
  constexpr uint64_t kSign = uint64_t{1} << 63;
  return bits & kSign ? ~bits : bits | kSign;
}

__device__ __forceinline__ double from_ordered(uint64_t bits) {
  constexpr uint64_t kSign = uint64_t{1} << 63;
  return __longlong_as_double(static_cast<long long>(bits & kSign ? bits ^ kSign : ~bits));
}

// A cost, as ordered() gives it, and the position that breaks ties: the lower position wins.
struct Candidate {
  uint64_t cost;
  uint32_t position;
};

// The best candidate of the warp, in every lane: three integer minima in hardware, the high half of
// the cost, the low half among those that reach it, the position among those that reach both.
__device__ __forceinline__ Candidate warp_best(Candidate value) {
  constexpr uint32_t kNone = 0xffffffffu;
  const auto high = static_cast<uint32_t>(value.cost >> 32);
  const auto low = static_cast<uint32_t>(value.cost);
  const uint32_t best_high = __reduce_min_sync(kFullWarp, high);
  const uint32_t best_low = __reduce_min_sync(kFullWarp, high == best_high ? low : kNone);
  const bool first = high == best_high && low == best_low;
  const uint32_t position = __reduce_min_sync(kFullWarp, first ? value.position : kNone);
  return {uint64_t{best_high} << 32 | best_low, position};
}

// The best candidate of the block, in every thread, for one barrier: the caller alternates between
// two scratch arrays, so the previous call's readers are never overtaken.
__device__ __forceinline__ Candidate block_best(Candidate value, Candidate (&scratch)[kMaxWarps]) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int warps = blockDim.x / kWarpSize;

  value = warp_best(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return warp_best(scratch[lane < warps ? lane : 0]);
}

}  // namespace fastprune
