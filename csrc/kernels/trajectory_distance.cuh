// trajectory_distance on CUDA.
//
// v1: form_kernel writes U^T and D^T as f32, side by side, so that both are columns of one panel as
//     syrk.cuh reads them; blocks turn 32 rows at a time in shared memory. distance_kernel: a block
//     per variant and 128 x 128 tile of the lower triangle, U times D and D times U into the same
//     registers by the FMA core, whose squares it sums in f64: no product leaves the block.
//     combine_kernel adds the tiles of a variant in order.
// Bound: FMA, 4 * width operations per entry of the triangle. Forming U and D reads the features
//     twice and writes 8 bytes per entry, each of which takes part in 2 * rows products.
// Next: halves of U and D as sums of two or three bf16 on the tensor cores.
#pragma once

#include "syrk.cuh"
#include "trajectory_distance.h"
#include "unit_rows.h"

namespace fastprune::trajectory_distance {

using syrk::kThreads;

constexpr int kFormRows = kWarpSize;  // of a block, and the columns it turns at a time
constexpr int kRowsPerWarp = kFormRows / (kThreads / kWarpSize);

// The variants that are worked on at once; depends on the shapes alone.
struct Pass {
  int64_t first, variants;
  int64_t tiles;   // of a variant
  int64_t stride;  // rows, rounded up to a 16-byte load
  float* panels;   // [variants, width, 2 * stride]: row k is column k of U, then column k of D
  double* sums;    // [variants, tiles]
};

struct FormStorage {
  float mean[kFormRows][kFormRows + 1];  // one more: read and written without bank conflicts
  float difference[kFormRows][kFormRows + 1];
};

// Rows [first_row, first_row + kFormRows) of a variant of the pass; past the last one, zeros.
template <typename Element>
__device__ __forceinline__ void form_rows(const TrajectoryDistanceArgs& args, const Pass& pass,
                                          int64_t variant, int64_t first_row, FormStorage& shared) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const auto* features =
      static_cast<const Element*>(args.features) + (pass.first + variant) * args.strides[0];
  const auto* teacher = static_cast<const Element*>(args.teacher);
  float* panel = pass.panels + variant * args.width * 2 * pass.stride;

  RowFactors factors[kRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int64_t row = first_row + warp * kRowsPerWarp + r;
    double own = 0, other = 0, gap = 0;
    for (int64_t k = lane; k < args.width && row < args.rows; k += kWarpSize) {
      const double s = to_float(features[row * args.strides[1] + k]);
      const double t = to_float(teacher[row * args.teacher_stride + k]);
      own += s * s;
      other += t * t;
      gap += (s - t) * (s + t);
    }
    own = warp_sum(own);
    other = warp_sum(other);
    gap = warp_sum(gap);
    factors[r] = row_factors(own, other, gap);
  }

  for (int64_t first = 0; first < args.width; first += kFormRows) {
    // A lane per column of the features, in rows of the warp's own.
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int place = warp * kRowsPerWarp + r;
      const int64_t row = first_row + place;
      const int64_t k = first + lane;
      UnitPair pair = {};
      if (row < args.rows && k < args.width) {
        pair = unit_pair(factors[r], to_float(features[row * args.strides[1] + k]),
                         to_float(teacher[row * args.teacher_stride + k]));
      }
      shared.mean[lane][place] = pair.mean;
      shared.difference[lane][place] = pair.difference;
    }
    __syncthreads();
    // A lane per row.
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int place = warp * kRowsPerWarp + r;
      const int64_t row = first_row + lane;
      const int64_t k = first + place;
      if (row >= pass.stride || k >= args.width) continue;
      float* to = panel + k * 2 * pass.stride + row;
      to[0] = shared.mean[place][lane];
      to[pass.stride] = shared.difference[place][lane];
    }
    __syncthreads();  // the next columns reuse the storage
  }
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) form_kernel(TrajectoryDistanceArgs args, Pass pass) {
  auto& shared = shared_storage<FormStorage>();
  for (int64_t variant = blockIdx.y; variant < pass.variants; variant += gridDim.y) {
    for (int64_t row = int64_t{blockIdx.x} * kFormRows; row < pass.stride;
         row += int64_t{gridDim.x} * kFormRows) {
      form_rows<Element>(args, pass, variant, row, shared);
    }
  }
}

struct DistanceStorage {
  syrk::Storage<float, double> product;
  double scratch[kMaxWarps];
  // About the tile in work; no register is left for this during the arithmetic.
  int64_t first_row, first_column;
};

// The sum of the squares of a tile of a variant and of its mirror image, in every thread.
__device__ __forceinline__ double squares_of_tile(const Pass& pass, int64_t rows, int64_t width,
                                                  int64_t work, DistanceStorage& shared) {
  if (threadIdx.x == 0) {
    const TilePosition position = triangle_tile(work % pass.tiles);
    const int64_t columns = 2 * pass.stride;
    shared.first_row = position.row * syrk::kTile;
    shared.first_column = position.column * syrk::kTile;
    shared.product.panel = {pass.panels + work / pass.tiles * width * columns, width, columns,
                            columns};
  }
  __syncthreads();

  // Past the last row of U come the first ones of D, and what they give is left out below.
  syrk::FmaCore core;
  core.clear();
#pragma unroll 1
  for (int turn = 0; turn / 2 * syrk::kPartialRows < shared.product.panel.rows; ++turn) {
    const syrk::Panel<float>& panel = shared.product.panel;
    syrk::list_columns(panel, shared.first_row + turn % 2 * (panel.width / 2),
                       shared.first_column + (turn + 1) % 2 * (panel.width / 2),
                       shared.product.columns);
    const int count = syrk::list_rows(panel, turn / 2, shared.product.rows);
    syrk::multiply_part<true>(turn / 2, count, shared.product, core);
  }

  double sum = 0;
  syrk::for_each_quad(core, shared.product.stage,
                      [&](int quad_row, int quad_column, const auto& value) {
#pragma unroll
                        for (int i = 0; i < syrk::kQuad; ++i) {
#pragma unroll
                          for (int j = 0; j < syrk::kQuad; ++j) {
                            const int64_t row = shared.first_row + quad_row + i;
                            const int64_t column = shared.first_column + quad_column + j;
                            if (row >= rows || column > row) continue;
                            const double entry = value(i, j);
                            sum += (column == row ? 1 : 2) * entry * entry;
                          }
                        }
                      });
  return block_sum(sum, shared.scratch);
}

__global__ void __launch_bounds__(kThreads, 2)
    distance_kernel(int64_t rows, int64_t width, Pass pass) {
  auto& shared = shared_storage<DistanceStorage>();
  for (int64_t work = blockIdx.x; work < pass.variants * pass.tiles; work += gridDim.x) {
    const double sum = squares_of_tile(pass, rows, width, work, shared);
    if (threadIdx.x == 0) pass.sums[work] = sum;
  }
}

struct CombineStorage {
  double scratch[kMaxWarps];
};

// A block per variant.
__global__ void __launch_bounds__(kThreads) combine_kernel(Pass pass, double* out) {
  auto& shared = shared_storage<CombineStorage>();
  for (int64_t variant = blockIdx.x; variant < pass.variants; variant += gridDim.x) {
    double sum = 0;
    for (int64_t tile = threadIdx.x; tile < pass.tiles; tile += kThreads) {
      sum += pass.sums[variant * pass.tiles + tile];
    }
    sum = block_sum(sum, shared.scratch);
    if (threadIdx.x == 0) out[pass.first + variant] += sum;
  }
}

}  // namespace fastprune::trajectory_distance
