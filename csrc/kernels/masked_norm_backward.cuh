// The derivatives of masked_norm on CUDA.
//
// v1: three launches. dx: a warp per row, coalesced, two walks, the second through L1. Sums over
// rows: a thread per column and slice of a part's rows, coalesced, so that wide and long tensors
// give blocks enough; then the parts are added in order by slices, too. No atomics.
// Bound: memory bandwidth, dy and x twice and dx once, where both stay in L2 (50 MB on an H200, 25
// MB for 4,096 tokens of 768 in f32) dy and x once. Next: sums over rows from the first launch.
#pragma once

#include "masked_norm.cuh"

namespace fastprune::masked_norm {

constexpr int kLanes = 32;  // columns of a block
constexpr int kSlices = kThreads / kLanes;
constexpr int64_t kPartRows = 128;  // 16 of each slice

inline int64_t parts_of(int64_t rows) { return ceil_div(rows, kPartRows); }

template <typename Real>
struct Storage {
  Real sums[kSlices][kLanes];
};

template <typename Real>
__global__ void __launch_bounds__(kThreads) row_kernel(MaskedNormBackwardArgs args) {
  const auto* weight = static_cast<const Real*>(args.weight);
  const auto* gate = static_cast<const Real*>(args.gate);
  for_each_row(args.rows, [&](int64_t row) {
    const auto* dy = static_cast<const Real*>(args.dy) + row * args.width;
    const auto* x = static_cast<const Real*>(args.x) + row * args.width;
    auto* dx = static_cast<Real*>(args.dx) + row * args.width;
    const Real mean = static_cast<const Real*>(args.mean)[row];
    const Real rstd = static_cast<const Real*>(args.rstd)[row];

    double sum_g = 0, sum_gh = 0;
    const double kept = for_each_kept(gate, args.width, [&](int64_t i) {
      const Real g = dy[i] * (gate[i] * weight[i]), h = (x[i] - mean) * rstd;
      sum_g += static_cast<double>(g);
      sum_gh += static_cast<double>(g) * static_cast<double>(h);
    });
    const double whole = warp_sum(sum_g) / kept;
    const Real common = args.centered ? static_cast<Real>(whole) : Real(0);
    const Real along = static_cast<Real>(warp_sum(sum_gh) / kept);

    for (int64_t i = threadIdx.x % kWarpSize; i < args.width; i += kWarpSize) {
      Real value = 0;
      if (gate[i] != 0) {
        const Real g = dy[i] * (gate[i] * weight[i]), h = (x[i] - mean) * rstd;
        value = rstd * (g - common - h * along);
      }
      dx[i] = value;
    }
  });
}

// The sum over the slices of a column, in order.
template <typename Real>
__device__ __forceinline__ Real add_slices(Real value, Storage<Real>& shared) {
  const int lane = threadIdx.x % kLanes;
  shared.sums[threadIdx.x / kLanes][lane] = value;
  __syncthreads();
  Real sum = 0;
  for (int slice = 0; slice < kSlices; ++slice) sum += shared.sums[slice][lane];
  __syncthreads();  // the next sum takes the same place
  return sum;
}

// `partial` is [parts, 2, width]: sums over the rows of a part of dy, and of dy h.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    part_kernel(MaskedNormBackwardArgs args, int64_t parts, Real* partial) {
  auto& shared = shared_storage<Storage<Real>>();
  const int slice = threadIdx.x / kLanes;
  for (int64_t part = blockIdx.y; part < parts; part += gridDim.y) {
    const int64_t end = min_of((part + 1) * kPartRows, args.rows);
    for (int64_t first = int64_t{blockIdx.x} * kLanes; first < args.width;
         first += int64_t{gridDim.x} * kLanes) {
      const int64_t i = first + threadIdx.x % kLanes;
      const bool kept = i < args.width && static_cast<const Real*>(args.gate)[i] != 0;
      Real sum_dy = 0, sum_dy_h = 0;
      for (int64_t row = part * kPartRows + slice; kept && row < end; row += kSlices) {
        const int64_t at = row * args.width + i;
        const Real dy = static_cast<const Real*>(args.dy)[at];
        const Real deviation =
            static_cast<const Real*>(args.x)[at] - static_cast<const Real*>(args.mean)[row];
        sum_dy += dy;
        sum_dy_h += dy * (deviation * static_cast<const Real*>(args.rstd)[row]);
      }
      sum_dy = add_slices(sum_dy, shared);
      sum_dy_h = add_slices(sum_dy_h, shared);
      if (slice == 0 && i < args.width) {
        Real* sums = partial + part * 2 * args.width + i;
        sums[0] = sum_dy;
        sums[args.width] = sum_dy_h;
      }
    }
  }
}

// From the sums of all parts to the derivatives of a column.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    column_kernel(MaskedNormBackwardArgs args, int64_t parts, const Real* partial) {
  auto& shared = shared_storage<Storage<double>>();
  const int slice = threadIdx.x / kLanes;
  for (int64_t first = int64_t{blockIdx.x} * kLanes; first < args.width;
       first += int64_t{gridDim.x} * kLanes) {
    const int64_t i = first + threadIdx.x % kLanes;
    double sum_dy = 0, sum_dy_h = 0;
    for (int64_t part = slice; i < args.width && part < parts; part += kSlices) {
      const Real* sums = partial + part * 2 * args.width + i;
      sum_dy += static_cast<double>(sums[0]);
      sum_dy_h += static_cast<double>(sums[args.width]);
    }
    sum_dy = add_slices(sum_dy, shared);
    sum_dy_h = add_slices(sum_dy_h, shared);
    if (slice != 0 || i >= args.width) continue;
    const double gate = static_cast<const Real*>(args.gate)[i];
    double weight = 0, bias = 0;
    if (gate != 0) {
      weight = static_cast<const Real*>(args.weight)[i];
      bias = args.bias ? static_cast<const Real*>(args.bias)[i] : Real(0);
    }
    static_cast<Real*>(args.dweight)[i] = static_cast<Real>(gate * sum_dy_h);
    static_cast<Real*>(args.dbias)[i] = static_cast<Real>(args.bias ? gate * sum_dy : 0);
    static_cast<Real*>(args.dgate)[i] = static_cast<Real>(weight * sum_dy_h + bias * sum_dy);
  }
}

}  // namespace fastprune::masked_norm
