// The SYRK tile that gram, fisher_outer, tuning_system and block_lstsq share: one 64 x 64 tile of
// X^T X by a block of 256 threads, 4 x 4 results each.
//
// v1: 16 rows at a time through shared memory, plain FMA (never TF32), products summed over at most
//     256 rows in `Real`, those partial sums in `Total`; fixed order.
// Next: 16-byte global loads, double buffering, split over rows with a deterministic second pass.
#pragma once

#include "../common/convert.cuh"
#include "../common/launch.cuh"

namespace fastprune::syrk {

constexpr int kTile = 64;
constexpr int kDepth = 16;  // rows in shared memory
constexpr int kMicro = 4;   // a thread owns kMicro x kMicro results
constexpr int kSide = kTile / kMicro;
constexpr int kThreads = kSide * kSide;
constexpr int kPartialRows = 256;

// The matrix X, possibly a selection of its columns and rows.
template <typename Element>
struct Panel {
  const Element* data;
  int64_t rows;
  int64_t row_stride;
  int64_t width;                     // columns of X
  const int64_t* columns = nullptr;  // [width] where they are in a row; null = in order
  const uint8_t* valid = nullptr;    // [rows], 0 = the row counts as zeros; null = all count
};

template <typename Real>
struct alignas(16) Storage {
  Real left[kDepth][kTile];
  Real right[kDepth][kTile];
};

// Where a thread's results sit in the tile.
__device__ __forceinline__ int micro_row(int i) { return threadIdx.x / kSide * kMicro + i; }
__device__ __forceinline__ int micro_column(int j) { return threadIdx.x % kSide * kMicro + j; }

// The position in a row of column `column` of X; -1 past the edge.
template <typename Element>
__device__ __forceinline__ int64_t source_column(const Panel<Element>& panel, int64_t column) {
  if (column >= panel.width) return -1;
  return panel.columns ? panel.columns[column] : column;
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
  const int64_t left_column = source_column(panel, first_left + load_column);
  const int64_t right_column = source_column(panel, first_right + load_column);

  for (int64_t part = 0; part < panel.rows; part += kPartialRows) {
    const int64_t part_end = min_of(part + kPartialRows, panel.rows);
    Real partial[kMicro][kMicro] = {};
    for (int64_t first_row = part; first_row < part_end; first_row += kDepth) {
      // Load. A skipped row is never read, so what it holds cannot matter (0 * NaN would).
#pragma unroll
      for (int r = load_row; r < kDepth; r += kRowsPerPass) {
        const int64_t row = first_row + r;
        const bool counts = row < part_end && (!panel.valid || panel.valid[row]);
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

// out[width, width] += X^T X, the given tile of the lower triangle and its mirror image. Only the
// lower half of `out` is read, so both halves end up bitwise equal.
template <typename Out, typename Element>
__device__ __forceinline__ void accumulate_tile(const Panel<Element>& panel, int64_t tile,
                                                Storage<float>& shared, Out* out) {
  const TilePosition position = triangle_tile(tile);
  const int64_t first_row = position.row * kTile;
  const int64_t first_column = position.column * kTile;

  Out total[kMicro][kMicro] = {};
  multiply_tile(panel, first_row, first_column, shared, total);

#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < kMicro; ++j) {
      const int64_t row = first_row + micro_row(i);
      const int64_t column = first_column + micro_column(j);
      if (row >= panel.width || column > row) continue;
      const Out sum = out[row * panel.width + column] + total[i][j];
      out[row * panel.width + column] = sum;
      out[column * panel.width + row] = sum;
    }
  }
}

// Tiles of a triangle of `width` columns.
inline int64_t tiles_of(int64_t width) { return triangle_tiles(ceil_div(width, kTile)); }

}  // namespace fastprune::syrk
