// The product of two 64-column panels of a matrix X, a tile of X^T X, by a block of 256 threads,
// 4 x 4 results each. tuning_system and block_lstsq form their tiles with it; the tiles they pass
// over once and in f64 leave nothing to gain from the larger tiles of syrk.cuh.
//
// v1: 16 rows at a time through shared memory, plain FMA (never TF32), products summed over at most
//     256 rows in `Real`, those partial sums in `Total`; fixed order.
#pragma once

#include "../common/convert.cuh"
#include "../common/launch.cuh"

namespace fastprune::syrk64 {

constexpr int kTile = 64;
constexpr int kDepth = 16;  // rows in shared memory
constexpr int kMicro = 4;   // a thread owns kMicro x kMicro results
constexpr int kSide = kTile / kMicro;
constexpr int kThreads = kSide * kSide;
constexpr int kPartialRows = 256;

// The matrix X.
template <typename Element>
struct Panel {
  const Element* data;
  int64_t rows;
  int64_t row_stride;
  int64_t width;  // columns of X; those past the edge count as zeros
};

template <typename Real>
struct alignas(16) Storage {
  Real left[kDepth][kTile];
  Real right[kDepth][kTile];
};

// Where a thread's results sit in the tile.
__device__ __forceinline__ int micro_row(int i) { return threadIdx.x / kSide * kMicro + i; }
__device__ __forceinline__ int micro_column(int j) { return threadIdx.x % kSide * kMicro + j; }

// The column itself; -1 past the edge.
template <typename Element>
__device__ __forceinline__ int64_t column_or_none(const Panel<Element>& panel, int64_t column) {
  return column < panel.width ? column : -1;
}

// total[i][j] += sum over rows of X[row, first_left + micro_row(i)] * X[row, first_right + ...].
// Called by the whole block; leaves the storage free for reuse.
template <typename Real, typename Total, typename Element>
__device__ __forceinline__ void multiply_tile(const Panel<Element>& panel, int64_t first_left,
                                              int64_t first_right, Storage<Real>& shared,
                                              Total (&total)[kMicro][kMicro]) {
  constexpr int kRowsPerPass = kThreads / kTile;
  const int load_column = threadIdx.x % kTile;
  const int load_row = threadIdx.x / kTile;
  const int64_t left_column = column_or_none(panel, first_left + load_column);
  const int64_t right_column = column_or_none(panel, first_right + load_column);

  for (int64_t part = 0; part < panel.rows; part += kPartialRows) {
    const int64_t part_end = min_of(part + kPartialRows, panel.rows);
    Real partial[kMicro][kMicro] = {};
    for (int64_t first_row = part; first_row < part_end; first_row += kDepth) {
      // Load.
#pragma unroll
      for (int r = load_row; r < kDepth; r += kRowsPerPass) {
        const int64_t row = first_row + r;
        const bool counts = row < part_end;
        const Element* source = panel.data + row * panel.row_stride;
        shared.left[r][load_column] =
            counts && left_column >= 0 ? to_real<Real>(source[left_column]) : Real(0);
        shared.right[r][load_column] =
            counts && right_column >= 0 ? to_real<Real>(source[right_column]) : Real(0);
      }
      __syncthreads();

      // Multiply.
#pragma unroll
      for (int r = 0; r < kDepth; ++r) {
        Real left[kMicro], right[kMicro];
#pragma unroll
        for (int i = 0; i < kMicro; ++i) {
          left[i] = shared.left[r][micro_row(i)];
          right[i] = shared.right[r][micro_column(i)];
        }
#pragma unroll
        for (int i = 0; i < kMicro; ++i) {
#pragma unroll
          for (int j = 0; j < kMicro; ++j) partial[i][j] += left[i] * right[j];
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
#pragma unroll
      for (int j = 0; j < kMicro; ++j) total[i][j] += partial[i][j];
    }
  }
}

}  // namespace fastprune::syrk64
