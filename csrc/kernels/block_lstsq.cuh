// block_lstsq on CUDA: systems of more than 64 unknowns; block_lstsq_small.cuh has the others.
//
// v1: factored in the workspace as [A | B], 64 rows per step: factor the diagonal tile, solve the
//     rows to its right, update what is below (the SYRK tile of syrk64.cuh). B is carried along as
//     extra columns, so forward substitution costs no kernel of its own. Every step serves all
//     systems of the batch; nothing waits for the host.
// v2: two launches per step instead of three. The block that updates the next diagonal tile factors
//     it at once, while the others still update, and it is among the first to start. Back
//     substitution takes a whole tile of known unknowns between two barriers, half as many.
// Bound: f64 FMA of the update, n^3 / 6 multiply-adds a system, if there are many or large ones;
//     else latency, one tile's panel, update and factor after another: an estimated 40 us per tile.
// Next: f64 tensor cores in the update, two tiles per step.
#pragma once

#include "../common/reduce.cuh"
#include "../common/sites.cuh"
#include "block_lstsq.h"
#include "cholesky.cuh"
#include "syrk64.cuh"

namespace fastprune::block_lstsq {

using cholesky::kStrip;
using cholesky::kStripRows;
using cholesky::kThreads;
using cholesky::kTile;
using cholesky::strip_column;
using cholesky::strip_row;
static_assert(kThreads == syrk64::kThreads && kTile == syrk64::kTile);

// damping * mean(diag A), in every thread. No damping is exactly none, even of an infinite mean.
template <typename Element>
__device__ double diagonal_shift(const Element* system, int64_t n, double damping,
                                 double (&scratch)[kMaxWarps]) {
  if (damping == 0) return 0;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += system[i * n + i];
  return damping * (block_sum(sum, scratch) / static_cast<double>(n));
}

// Whether any value is NaN or infinite, in every thread.
template <typename Element>
__device__ bool any_nonfinite(const Element* values, int64_t count, double (&scratch)[kMaxWarps]) {
  double found = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) found += !isfinite(values[i]);
  return block_sum(found, scratch) > 0;
}

// One system in the workspace: [n, n + columns] = [A | B], row major; the upper triangle of A is
// used and becomes U, B becomes X.
struct Augmented {
  double* header;  // damping shift; whether B holds a non-finite value
  double* matrix;
  int64_t n;
  int64_t width;
};
constexpr int64_t kHeader = 2;

FASTPRUNE_HOST_DEVICE constexpr int64_t augmented_doubles(int64_t n, int64_t columns) {
  return kHeader + n * (n + columns);
}

__device__ __forceinline__ Augmented augmented(const SiteBatch& batch, int site, int64_t columns,
                                               double* workspace) {
  double* header = workspace + batch.work_offset[site];
  return {header, header + kHeader, batch.units[site], batch.units[site] + columns};
}

struct PrepareStorage {
  double scratch[kMaxWarps];
};

// Sets every system's header and clears its info.
template <typename Element>
__global__ void __launch_bounds__(kThreads, 2)
    prepare_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch,
                   double* workspace) {
  auto& shared = shared_storage<PrepareStorage>();
  for (int site = blockIdx.x; site < batch.count; site += gridDim.x) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    const auto* source = static_cast<const Element*>(args.systems) + batch.block_offset[site];
    const auto* rhs =
        static_cast<const Element*>(args.rhs) + batch.unit_offset[site] * args.columns;
    const double shift = diagonal_shift(source, system.n, args.damping, shared.scratch);
    const bool bad_rhs = any_nonfinite(rhs, system.n * args.columns, shared.scratch);
    if (threadIdx.x == 0) {
      system.header[0] = shift;
      system.header[1] = bad_rhs;
      args.info[batch.site[site]] = 0;
    }
  }
}

constexpr int kTurn = 32;  // side of the tiles in which A is transposed

struct LoadStorage {
  double tile[kTurn][kTurn + 1];
};

// Copies the lower triangle of A, transposed and damped, and B beside it.
template <typename Element>
__global__ void __launch_bounds__(kThreads, 2)
    load_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch, double* workspace) {
  auto& shared = shared_storage<LoadStorage>();
  const int lane = threadIdx.x % kTurn;
  const int first_line = threadIdx.x / kTurn;
  constexpr int kLines = kThreads / kTurn;

  for (int site = blockIdx.y; site < batch.count; site += gridDim.y) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    const auto* source = static_cast<const Element*>(args.systems) + batch.block_offset[site];
    const auto* rhs =
        static_cast<const Element*>(args.rhs) + batch.unit_offset[site] * args.columns;
    const double shift = system.header[0];

    const int64_t tiles = triangle_tiles(ceil_div(system.n, kTurn));
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const TilePosition position = triangle_tile(tile);
      const int64_t row = position.row * kTurn;
      const int64_t column = position.column * kTurn;
      for (int line = first_line; line < kTurn; line += kLines) {
        if (row + line < system.n && column + lane <= row + line) {
          shared.tile[line][lane] = source[(row + line) * system.n + column + lane];
        }
      }
      __syncthreads();
      for (int line = first_line; line < kTurn; line += kLines) {
        const int64_t i = column + line;  // in U: row i, column j
        const int64_t j = row + lane;
        if (j < system.n && i <= j) {
          system.matrix[i * system.width + j] = shared.tile[lane][line] + (i == j ? shift : 0.0);
        }
      }
      __syncthreads();
    }
    for (int64_t row = blockIdx.x; row < system.n; row += gridDim.x) {
      for (int64_t column = threadIdx.x; column < args.columns; column += kThreads) {
        system.matrix[row * system.width + system.n + column] = rhs[row * args.columns + column];
      }
    }
  }
}

struct FactorStorage {
  cholesky::Factor factor;
};

// U's diagonal tile whose first row is `first`, between workspace and shared memory.
__device__ __forceinline__ void load_diagonal(const Augmented& system, int64_t first, int n,
                                              cholesky::Factor& factor) {
  const int column = cholesky::factor_column();
  for (int row = cholesky::factor_row(); row < n; row += cholesky::kFactorRows) {
    if (column < n && column >= row) {
      factor[row][column] = system.matrix[(first + row) * system.width + first + column];
    }
  }
}

__device__ __forceinline__ int tile_rows(const Augmented& system, int64_t first) {
  return static_cast<int>(min_of(kTile, system.n - first));
}

// Factors the diagonal tile at row `first`, which the block sees.
__device__ __forceinline__ void factor_tile(const Augmented& system, int64_t first,
                                            cholesky::Factor& shared, int32_t& info) {
  const int n = tile_rows(system, first);
  load_diagonal(system, first, n, shared);
  __syncthreads();
  if (const int bad_pivot = cholesky::factor(shared, n)) {
    if (threadIdx.x == 0) info = static_cast<int32_t>(first) + bad_pivot;
    return;
  }
  const int column = cholesky::factor_column();
  for (int row = cholesky::factor_row(); row <= column && column < n;
       row += cholesky::kFactorRows) {
    system.matrix[(first + row) * system.width + first + column] = shared[row][column];
  }
}

// Before the first step: factor the first diagonal tile.
__global__ void __launch_bounds__(kThreads, 2)
    factor_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch, double* workspace) {
  auto& shared = shared_storage<FactorStorage>();
  for (int site = blockIdx.x; site < batch.count; site += gridDim.x) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    factor_tile(system, 0, shared.factor, args.info[batch.site[site]]);
    __syncthreads();  // the next site reuses the storage
  }
}

struct PanelStorage {
  cholesky::Factor factor;
  cholesky::Strip strip;
};

// Step 1 of 2 at row `first`: solve for the rows of U (and of Y) to the right of the finished
// diagonal tile, a strip per block.
__global__ void __launch_bounds__(kThreads, 2)
    panel_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch, double* workspace,
                 int64_t first) {
  auto& shared = shared_storage<PanelStorage>();
  for (int site = blockIdx.y; site < batch.count; site += gridDim.y) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    if (first >= system.n || args.info[batch.site[site]] != 0) continue;
    const int n = tile_rows(system, first);
    load_diagonal(system, first, n, shared.factor);
    __syncthreads();
    const int64_t strips = ceil_div(system.width - first - n, kStrip);
    for (int64_t strip = blockIdx.x; strip < strips; strip += gridDim.x) {
      const int64_t column = first + n + strip * kStrip + strip_column();
      const bool exists = column < system.width;
      double* rows = system.matrix + first * system.width + column;
      for (int i = strip_row(); i < n; i += kStripRows) {
        shared.strip[i][strip_column()] = exists ? rows[i * system.width] : 0.0;
      }
      cholesky::solve_transposed(shared.factor, shared.strip, n);
      for (int i = strip_row(); i < n; i += kStripRows) {
        if (exists) rows[i * system.width] = shared.strip[i][strip_column()];
      }
    }
  }
}

// Subtracts the product of the finished rows from the tile at (row, column).
__device__ __forceinline__ void update_tile(const Augmented& system,
                                            const syrk64::Panel<double>& finished, int64_t row,
                                            int64_t column, syrk64::Storage<double>& shared) {
  double total[syrk64::kMicro][syrk64::kMicro] = {};
  syrk64::multiply_tile(finished, row, column, shared, total);
#pragma unroll
  for (int i = 0; i < syrk64::kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < syrk64::kMicro; ++j) {
      const int64_t r = row + syrk64::micro_row(i);
      const int64_t c = column + syrk64::micro_column(j);
      if (r < system.n && c < system.width && c >= r) {
        system.matrix[r * system.width + c] -= total[i][j];
      }
    }
  }
}

union UpdateStorage {
  syrk64::Storage<double> tile;
  cholesky::Factor factor;
};

// Step 2 of 2: update everything below the finished rows, upper triangle only, and factor the next
// diagonal tile. The grid runs over the sites first, so that those tiles are taken up first.
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch, double* workspace,
                  int64_t first) {
  auto& shared = shared_storage<UpdateStorage>();
  for (int site = blockIdx.x; site < batch.count; site += gridDim.x) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    if (first >= system.n) continue;
    const int n = tile_rows(system, first);
    const int64_t next = first + n;
    // A bad pivot of the next tile may be reported at any moment and must not part the threads.
    int32_t& info = args.info[batch.site[site]];
    if (const int32_t bad_pivot = info; bad_pivot != 0 && bad_pivot <= next) continue;
    const syrk64::Panel<double> finished = {system.matrix + first * system.width, n, system.width,
                                            system.width};
    for (int64_t row = next + blockIdx.z * kTile; row < system.n; row += gridDim.z * kTile) {
      for (int64_t column = next + blockIdx.y * kTile; column < system.width;
           column += gridDim.y * kTile) {
        if (column < row) continue;
        update_tile(system, finished, row, column, shared.tile);
        if (row == next && column == next) {
          __syncthreads();  // the tile is complete
          factor_tile(system, next, shared.factor, info);
          __syncthreads();  // the next tile reuses the storage
        }
      }
    }
  }
}

struct SolveStorage {
  cholesky::Factor factor;  // a diagonal tile, or one to its right
  cholesky::Strip strip;    // unknowns: those of the tile, or known ones
};

// Back substitution, a strip of right-hand sides per block, from the last tile of rows up.
template <typename Element>
__global__ void __launch_bounds__(kThreads, 2)
    solve_kernel(BlockLstsqArgs args, const __grid_constant__ SiteBatch batch, double* workspace) {
  auto& shared = shared_storage<SolveStorage>();
  for (int site = blockIdx.y; site < batch.count; site += gridDim.y) {
    const Augmented system = augmented(batch, site, args.columns, workspace);
    auto* out = static_cast<Element*>(args.out) + batch.unit_offset[site] * args.columns;
    int32_t& info = args.info[batch.site[site]];
    const bool bad_rhs = system.header[1] != 0;
    const bool failed = info != 0 || bad_rhs;
    if (bad_rhs && info == 0 && blockIdx.x == 0 && threadIdx.x == 0) info = -1;

    const int64_t strips = ceil_div(args.columns, kStrip);
    for (int64_t strip = blockIdx.x; strip < strips; strip += gridDim.x) {
      const int64_t column = strip * kStrip + strip_column();
      const bool exists = column < args.columns;
      if (failed) {
        for (int64_t i = strip_row(); exists && i < system.n; i += kStripRows) {
          out[i * args.columns + column] = 0;
        }
        continue;
      }
      double* unknowns = system.matrix + system.n + column;  // this strip's column of B
      for (int64_t first = (system.n - 1) / kTile * kTile; first >= 0; first -= kTile) {
        const int n = tile_rows(system, first);
        double own[kTile / kStripRows];
#pragma unroll
        for (int k = 0; k < kTile / kStripRows; ++k) {
          const int i = strip_row() + k * kStripRows;
          own[k] = exists && i < n ? unknowns[(first + i) * system.width] : 0.0;
        }
        // Take out what is already known, a tile at a time.
        for (int64_t done = first + n; done < system.n; done += kTile) {
          const int depth = tile_rows(system, done);
          // Each unknown comes back to the thread that wrote it: no barrier in between.
          static_assert(kTile % kStripRows == 0);
          for (int k = strip_row(); k < depth; k += kStripRows) {
            shared.strip[k][strip_column()] = exists ? unknowns[(done + k) * system.width] : 0.0;
          }
          const int column_beside = cholesky::factor_column();
#pragma unroll 8
          for (int i = cholesky::factor_row(); i < n; i += cholesky::kFactorRows) {
            if (column_beside < depth) {
              shared.factor[i][column_beside] =
                  system.matrix[(first + i) * system.width + done + column_beside];
            }
          }
          __syncthreads();
          for (int q = 0; q < depth; ++q) {
            const double known = shared.strip[q][strip_column()];
#pragma unroll
            for (int k = 0; k < kTile / kStripRows; ++k) {
              const int i = strip_row() + k * kStripRows;
              if (i < n) own[k] -= shared.factor[i][q] * known;
            }
          }
          __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < kTile / kStripRows; ++k) {
          const int i = strip_row() + k * kStripRows;
          if (i < n) shared.strip[i][strip_column()] = own[k];
        }
        load_diagonal(system, first, n, shared.factor);
        __syncthreads();
        cholesky::solve(shared.factor, shared.strip, n);
        for (int i = strip_row(); i < n; i += kStripRows) {
          if (!exists) continue;
          const double value = shared.strip[i][strip_column()];
          unknowns[(first + i) * system.width] = value;
          out[(first + i) * args.columns + column] = static_cast<Element>(value);
        }
      }
    }
  }
}

}  // namespace fastprune::block_lstsq
