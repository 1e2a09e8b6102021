// tuning_system on CUDA.
//
// v1: A, one block per tile of unit pairs: a SYRK tile of W (syrk64.cuh) times the same tile of the
//     Gram matrix, summed over groups, so W^T W is never stored. Groups wider than a tile are
//     walked in pieces. b, one block per span of units. Neither needs atomics.
// Next: skip the half of a diagonal tile that symmetry gives.
#pragma once

#include "../common/reduce.cuh"
#include "syrk64.cuh"
#include "tuning_system.h"

namespace fastprune::tuning_system {

using syrk64::kMicro;
using syrk64::kThreads;
using syrk64::kTile;

constexpr int kWarps = kThreads / kWarpSize;

// W is multiplied in the narrowest type that holds it.
template <typename Weight>
using RealOf = std::conditional_t<std::is_same_v<Weight, double>, double, float>;

// How many whole units fit into `columns` columns; a wider unit is taken alone.
FASTPRUNE_HOST_DEVICE constexpr int64_t units_in(int64_t columns, int64_t group) {
  return max_of(1, columns / group);
}

template <typename Real>
struct alignas(16) MatrixStorage {
  union {
    syrk64::Storage<Real> syrk;
    double products[kTile][kTile];
  };
};

// The tile of A whose first units are `first_u` and `first_v`, and its mirror image.
template <typename Stat, typename Weight>
__device__ __forceinline__ void matrix_tile(const TuningSystemArgs& args, int64_t first_u,
                                            int64_t first_v,
                                            MatrixStorage<RealOf<Weight>>& shared) {
  const int64_t columns = args.units * args.group;
  const int64_t per_tile = units_in(kTile, args.group);
  const int units_u = static_cast<int>(min_of(per_tile, args.units - first_u));
  const int units_v = static_cast<int>(min_of(per_tile, args.units - first_v));
  const int64_t end_u = (first_u + units_u) * args.group;
  const int64_t end_v = (first_v + units_v) * args.group;
  const syrk64::Panel<Weight> panel = {static_cast<const Weight*>(args.weight), args.outputs,
                                       args.weight_stride, columns};
  const auto* gram = static_cast<const Stat*>(args.gram);

  // (W^T W) * gram, elementwise. Only a pair of units wider than the tile takes a second piece, and
  // then every product belongs to that pair.
  double products[kMicro][kMicro] = {};
  for (int64_t piece_u = first_u * args.group; piece_u < end_u; piece_u += kTile) {
    for (int64_t piece_v = first_v * args.group; piece_v < end_v; piece_v += kTile) {
      double total[kMicro][kMicro] = {};
      syrk64::multiply_tile(panel, piece_u, piece_v, shared.syrk, total);
#pragma unroll
      for (int i = 0; i < kMicro; ++i) {
#pragma unroll
        for (int j = 0; j < kMicro; ++j) {
          const int64_t row = piece_u + syrk64::micro_row(i);
          const int64_t column = piece_v + syrk64::micro_column(j);
          if (row >= end_u || column >= end_v) continue;
          products[i][j] += total[i][j] * static_cast<double>(gram[row * columns + column]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < kMicro; ++j) {
      shared.products[syrk64::micro_row(i)][syrk64::micro_column(j)] = products[i][j];
    }
  }
  __syncthreads();

  // Sum each pair's block: a thread per small block, a warp per large one.
  const int side = static_cast<int>(min_of(args.group, kTile));
  const int lanes = side * side < kWarpSize ? 1 : kWarpSize;
  const int lane = threadIdx.x % lanes;
  auto* a = static_cast<Stat*>(args.a);
  for (int pair = threadIdx.x / lanes; pair < units_u * units_v; pair += kThreads / lanes) {
    const int u = pair / units_v;
    const int v = pair % units_v;
    double sum = 0;
    for (int item = lane; item < side * side; item += lanes) {
      sum += shared.products[u * side + item / side][v * side + item % side];
    }
    if (lanes == kWarpSize) sum = warp_sum(sum);
    if (lane == 0 && first_u + u >= first_v + v) {
      a[(first_u + u) * args.units + first_v + v] = static_cast<Stat>(sum);
      a[(first_v + v) * args.units + first_u + u] = static_cast<Stat>(sum);
    }
  }
  __syncthreads();  // the next tile reuses the storage
}

template <typename Stat, typename Weight>
__global__ void __launch_bounds__(kThreads) matrix_kernel(TuningSystemArgs args, int64_t tiles) {
  auto& shared = shared_storage<MatrixStorage<RealOf<Weight>>>();
  const int64_t per_tile = units_in(kTile, args.group);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TilePosition position = triangle_tile(tile);
    matrix_tile<Stat, Weight>(args, position.row * per_tile, position.column * per_tile, shared);
  }
}

constexpr int kSpan = kWarpSize;  // columns of a span of b; also the depth of a step

template <typename Stat>
struct VectorStorage {
  Stat cross[kSpan][kSpan + 1];
  double partial[kWarps][kSpan];
  double total[kSpan];
};

// b for the units whose columns fit one span (or for one wider unit).
template <typename Stat, typename Weight>
__device__ __forceinline__ void vector_span(const TuningSystemArgs& args, int64_t first_unit,
                                            VectorStorage<Stat>& shared) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int units = static_cast<int>(min_of(units_in(kSpan, args.group), args.units - first_unit));
  const int64_t end_column = (first_unit + units) * args.group;
  const auto* cross = static_cast<const Stat*>(args.cross);
  const auto* weight = static_cast<const Weight*>(args.weight);

  // A lane owns a column, a warp every kWarps-th output. W is read along its rows directly; cross
  // runs the other way and is turned in shared memory.
  double sum = 0;
  for (int64_t piece = first_unit * args.group; piece < end_column; piece += kSpan) {
    const int64_t column = piece + lane;
    for (int64_t first_output = 0; first_output < args.outputs; first_output += kSpan) {
      const int outputs = static_cast<int>(min_of(kSpan, args.outputs - first_output));
      for (int row = warp; row < kSpan && piece + row < end_column; row += kWarps) {
        if (lane >= outputs) continue;
        shared.cross[row][lane] = cross[(piece + row) * args.outputs + first_output + lane];
      }
      __syncthreads();
      for (int k = warp; k < outputs && column < end_column; k += kWarps) {
        sum += static_cast<double>(shared.cross[lane][k]) *
               to_real<double>(weight[(first_output + k) * args.weight_stride + column]);
      }
      __syncthreads();
    }
  }
  shared.partial[warp][lane] = sum;
  __syncthreads();

  // Sum over warps, then over each unit's columns.
  if (threadIdx.x < kSpan) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared.partial[w][threadIdx.x];
    shared.total[threadIdx.x] = total;
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < units) {
    const int side = static_cast<int>(min_of(args.group, kSpan));
    double total = 0;
    for (int i = 0; i < side; ++i) total += shared.total[threadIdx.x * side + i];
    static_cast<Stat*>(args.b)[first_unit + threadIdx.x] = static_cast<Stat>(total);
  }
}

template <typename Stat, typename Weight>
__global__ void __launch_bounds__(kThreads) vector_kernel(TuningSystemArgs args) {
  auto& shared = shared_storage<VectorStorage<Stat>>();
  const int64_t per_span = units_in(kSpan, args.group);
  for (int64_t first = blockIdx.x * per_span; first < args.units; first += gridDim.x * per_span) {
    vector_span<Stat, Weight>(args, first, shared);
  }
}

}  // namespace fastprune::tuning_system
