// masked_norm on CUDA.
//
// v1: a warp per row, coalesced: mean, variance and result are three walks over the row, and the
// latter two find it in L1 (eight rows of 768 f32 a block, 24 KiB). Columns come from L1, too.
// Bound: memory bandwidth, x once and y once. Next: rows of up to 1,024 in registers, and loads of
// 16 bytes, should a GPU show that the walks cost.
#pragma once

#include "../common/convert.cuh"
#include "../common/reduce.cuh"
#include "masked_norm.h"

namespace fastprune::masked_norm {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarpSize;

// Calls body(row) for the rows of this warp.
template <typename Body>
__device__ __forceinline__ void for_each_row(int64_t rows, const Body& body) {
  const int64_t first = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarpSize;
  for (int64_t row = first; row < rows; row += int64_t{gridDim.x} * kRowsPerBlock) body(row);
}

// Calls body(i) for the kept dimensions of this lane; returns how many dimensions the warp keeps.
template <typename Real, typename Body>
__device__ __forceinline__ double for_each_kept(const Real* gate, int64_t width, const Body& body) {
  double kept = 0;
  for (int64_t i = threadIdx.x % kWarpSize; i < width; i += kWarpSize) {
    if (gate[i] == 0) continue;
    kept += 1;
    body(i);
  }
  return warp_sum(kept);
}

template <typename Real>
__global__ void __launch_bounds__(kThreads) kernel(MaskedNormArgs args) {
  const auto* weight = static_cast<const Real*>(args.weight);
  const auto* bias = static_cast<const Real*>(args.bias);
  const auto* gate = static_cast<const Real*>(args.gate);
  for_each_row(args.rows, [&](int64_t row) {
    const auto* x = static_cast<const Real*>(args.x) + row * args.width;
    auto* y = static_cast<Real*>(args.y) + row * args.width;

    double sum = 0;
    const double kept =
        for_each_kept(gate, args.width, [&](int64_t i) { sum += static_cast<double>(x[i]); });
    const Real mean = args.centered && kept > 0 ? static_cast<Real>(warp_sum(sum) / kept) : Real(0);

    double squares = 0;
    for_each_kept(gate, args.width, [&](int64_t i) {
      const auto deviation = static_cast<double>(x[i] - mean);
      squares += deviation * deviation;
    });
    const double variance = warp_sum(squares) / kept;
    const Real rstd = kept > 0 ? static_cast<Real>(1 / sqrt(variance + args.eps)) : Real(0);

    for (int64_t i = threadIdx.x % kWarpSize; i < args.width; i += kWarpSize) {
      Real value = 0;
      if (gate[i] != 0) {
        value = gate[i] * (weight[i] * ((x[i] - mean) * rstd) + (bias ? bias[i] : Real(0)));
      }
      y[i] = value;
    }
    if (threadIdx.x % kWarpSize == 0) {
      static_cast<Real*>(args.mean)[row] = mean;
      static_cast<Real*>(args.rstd)[row] = rstd;
    }
  });
}

}  // namespace fastprune::masked_norm
