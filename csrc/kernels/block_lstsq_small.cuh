// block_lstsq on CUDA: systems of at most 64 unknowns.
//
// v1: one block of 256 threads per system, three barriers per column, at most 96 systems a launch.
// v2: one warp per system and no block barrier; up to 1,536 systems a launch. The factor L is a
//     packed triangle in shared memory: rows begin at the triangular numbers, which take every
//     value modulo the number of banks, so a column is read without conflicts. Each lane owns one
//     row (two above 32 unknowns) and sums its element of the next column in registers
//     (left-looking), so a column costs one shuffle, one reciprocal root and one __syncwarp.
//     Right-hand sides stay in registers.
// Bound: latency of the widest system, about 500 cycles a column to factor and 50 to substitute,
//     as long as all systems are resident (12 a multiprocessor, 48 if none is above 32 unknowns).
#pragma once

#include "../common/reduce.cuh"
#include "block_lstsq.h"

namespace fastprune::block_lstsq {

constexpr int kWidestSmall = 64;
constexpr int kColumns = 4;           // right-hand sides a warp solves at a time
constexpr int kColumnsPerBlock = 64;  // ... before another block, which factors anew, is worth it

// Small systems as kernel parameters: runs of consecutive ones, so that a byte says it all.
constexpr int kRun = 16;
constexpr int kRuns = 96;

struct SmallBatch {
  int32_t runs = 0;
  int32_t widest = 0;
  int32_t site[kRuns];     // of a run's first system
  int64_t unit[kRuns];     // sum of the sizes before it
  int64_t element[kRuns];  // sum of the squared sizes before it
  uint8_t count[kRuns];
  uint8_t unknowns[kRuns][kRun];
};
static_assert(sizeof(SmallBatch) <= 3584);

// Calls body(batch) until every system of at most kWidestSmall unknowns was in a batch.
template <typename Body>
Status for_each_small_batch(const int64_t* sizes, int64_t sites, const Body& body) {
  SmallBatch batch;
  bool open = false;  // whether the last run may grow
  int64_t unit = 0;
  int64_t element = 0;
  for (int64_t site = 0; site < sites; ++site) {
    const int64_t n = sizes[site];
    open = open && n <= kWidestSmall && batch.count[batch.runs - 1] < kRun;
    if (n <= kWidestSmall) {
      if (!open) {
        if (batch.runs == kRuns) {
          if (const Status status = body(batch); status != Status::ok) return status;
          batch.runs = batch.widest = 0;
        }
        const int run = batch.runs++;
        batch.site[run] = static_cast<int32_t>(site);
        batch.unit[run] = unit;
        batch.element[run] = element;
        batch.count[run] = 0;
        open = true;
      }
      const int run = batch.runs - 1;
      batch.unknowns[run][batch.count[run]++] = static_cast<uint8_t>(n);
      if (n > batch.widest) batch.widest = static_cast<int32_t>(n);
    }
    unit += n;
    element += n * n;
  }
  return batch.runs ? body(batch) : Status::ok;
}

// Where row i of a packed lower triangle begins.
FASTPRUNE_HOST_DEVICE constexpr int packed_row(int i) { return i * (i + 1) / 2; }

// `kRows` rows per lane: row lane + 32 * slot for each slot.
template <int kRows>
struct SmallStorage {
  static constexpr int kWarps = kRows == 1 ? 8 : 2;
  double factor[kWarps][packed_row(kRows * kWarpSize)];
};

__device__ __forceinline__ int lane_row(int slot) {
  return threadIdx.x % kWarpSize + slot * kWarpSize;
}

template <int kRows, typename Element>
__device__ __forceinline__ void load_lower(const Element* system, int n, double* l) {
  constexpr int kAtOnce = 16 / kRows;  // rows in flight
  for (int first = 0; first < n; first += kAtOnce) {
    Element values[kAtOnce][kRows];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int slot = 0; slot < kRows; ++slot) {
        const int row = first + i;
        const int column = lane_row(slot);
        values[i][slot] = row < n && column <= row ? system[row * n + column] : Element(0);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int slot = 0; slot < kRows; ++slot) {
        const int row = first + i;
        const int column = lane_row(slot);
        if (row < n && column <= row) l[packed_row(row) + column] = values[i][slot];
      }
    }
  }
}

// Adds damping * mean(diag A). A lane's diagonal elements are those it loaded itself.
template <int kRows>
__device__ __forceinline__ void damp(double* l, int n, double damping) {
  double sum = 0;
#pragma unroll
  for (int slot = 0; slot < kRows; ++slot) {
    const int row = lane_row(slot);
    if (row < n) sum += l[packed_row(row) + row];
  }
  const double shift = damping * (warp_sum(sum) / n);
#pragma unroll
  for (int slot = 0; slot < kRows; ++slot) {
    const int row = lane_row(slot);
    if (row < n) l[packed_row(row) + row] += shift;
  }
}

// Overwrites A by L with A = L L^T; the diagonal holds 1 / L_jj. Returns 0, or 1 + the index of the
// first bad pivot.
template <int kRows>
__device__ __forceinline__ int factor_small(double* l, int n) {
  const double* own[kRows];
#pragma unroll
  for (int s = 0; s < kRows; ++s) own[s] = l + packed_row(lane_row(s) < n ? lane_row(s) : n - 1);

#pragma unroll
  for (int slot = 0; slot < kRows; ++slot) {
    for (int j = slot * kWarpSize; j < n && j < (slot + 1) * kWarpSize; ++j) {
      // Lanes whose rows are finished or do not exist come along, and their sums are dropped: the
      // warp stays together. Two chains of additions per row.
      const double* pivot_row = l + packed_row(j);
      double even[kRows];
      double odd[kRows] = {};
#pragma unroll
      for (int s = slot; s < kRows; ++s) even[s] = own[s][j];
      int p = 0;
#pragma unroll 4
      for (; p + 1 < j; p += 2) {
        const double first = pivot_row[p];
        const double second = pivot_row[p + 1];
#pragma unroll
        for (int s = slot; s < kRows; ++s) {
          even[s] -= own[s][p] * first;
          odd[s] -= own[s][p + 1] * second;
        }
      }
#pragma unroll
      for (int s = slot; s < kRows; ++s) {
        if (p < j) even[s] -= own[s][p] * pivot_row[p];
        even[s] += odd[s];
      }

      const double pivot = warp_broadcast(even[slot], j % kWarpSize);
      if (!(pivot > 0 && isfinite(pivot))) return j + 1;
      const double scale = rsqrt(pivot);
#pragma unroll
      for (int s = slot; s < kRows; ++s) {
        const int row = lane_row(s);
        if (row >= j && row < n) l[packed_row(row) + j] = row == j ? scale : even[s] * scale;
      }
      __syncwarp();
    }
  }
  return 0;
}

// Solves L L^T X = B for kColumns columns, row lane_row(slot) of which is x[slot].
template <int kRows>
__device__ __forceinline__ void substitute(const double* l, int n, double (&x)[kRows][kColumns]) {
  // Makes x_j known to every lane, and takes it out of the rows where `coefficient` is asked for.
  const auto eliminate = [&](int slot, int j, auto beyond, auto coefficient) {
    double known[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      known[c] = warp_broadcast(x[slot][c], j % kWarpSize) * l[packed_row(j) + j];
    }
#pragma unroll
    for (int s = 0; s < kRows; ++s) {
      const int row = lane_row(s);
      if (row == j) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) x[s][c] = known[c];
      } else if (row < n && beyond(row)) {
        const double factor = coefficient(row);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) x[s][c] -= factor * known[c];
      }
    }
  };
#pragma unroll
  for (int slot = 0; slot < kRows; ++slot) {
    for (int j = slot * kWarpSize; j < n && j < (slot + 1) * kWarpSize; ++j) {
      eliminate(
          slot, j, [=](int row) { return row > j; },
          [=](int row) { return l[packed_row(row) + j]; });
    }
  }
#pragma unroll
  for (int slot = kRows - 1; slot >= 0; --slot) {
    const int last = n < (slot + 1) * kWarpSize ? n - 1 : (slot + 1) * kWarpSize - 1;
    for (int j = last; j >= slot * kWarpSize; --j) {
      eliminate(
          slot, j, [=](int row) { return row < j; },
          [=](int row) { return l[packed_row(j) + row]; });
    }
  }
}

// One system by one warp: all of it, or every gridDim.y-th group of right-hand sides.
template <int kRows, typename Element>
__device__ __forceinline__ void solve_small(const BlockLstsqArgs& args, const Element* system,
                                            int64_t first_row, int n, double* l, int32_t* info) {
  const int lane = threadIdx.x % kWarpSize;
  const Element* rhs = static_cast<const Element*>(args.rhs) + first_row * args.columns;
  Element* out = static_cast<Element*>(args.out) + first_row * args.columns;

  // The sum's shuffles also part this system from the last one in `l`.
  int nonfinite = 0;
  for (int64_t i = lane; i < n * args.columns; i += kWarpSize) nonfinite += !isfinite(rhs[i]);
  const bool bad_rhs = warp_sum(nonfinite) > 0;
  load_lower<kRows>(system, n, l);
  if (args.damping != 0) damp<kRows>(l, n, args.damping);
  __syncwarp();
  const int bad_pivot = factor_small<kRows>(l, n);
  const bool solved = bad_pivot == 0 && !bad_rhs;
  if (lane == 0 && blockIdx.y == 0) *info = bad_pivot ? bad_pivot : bad_rhs ? -1 : 0;

  for (int64_t first = int64_t{blockIdx.y} * kColumns; first < args.columns;
       first += int64_t{gridDim.y} * kColumns) {
    double x[kRows][kColumns];
#pragma unroll
    for (int slot = 0; slot < kRows; ++slot) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const bool exists = solved && lane_row(slot) < n && first + c < args.columns;
        x[slot][c] = exists ? rhs[lane_row(slot) * args.columns + first + c] : 0.0;
      }
    }
    if (solved) substitute<kRows>(l, n, x);
#pragma unroll
    for (int slot = 0; slot < kRows; ++slot) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (lane_row(slot) >= n || first + c >= args.columns) continue;
        out[lane_row(slot) * args.columns + first + c] = static_cast<Element>(x[slot][c]);
      }
    }
  }
}

template <int kRows, typename Element>
__global__ void __launch_bounds__(SmallStorage<kRows>::kWarps* kWarpSize)
    small_kernel(BlockLstsqArgs args, const __grid_constant__ SmallBatch batch) {
  constexpr int kWarps = SmallStorage<kRows>::kWarps;
  double* l = shared_storage<SmallStorage<kRows>>().factor[threadIdx.x / kWarpSize];
  for (int index = blockIdx.x * kWarps + threadIdx.x / kWarpSize; index < batch.runs * kRun;
       index += gridDim.x * kWarps) {
    const int run = index / kRun;
    const int place = index % kRun;
    if (place >= batch.count[run]) continue;
    int64_t unit = batch.unit[run];
    int64_t element = batch.element[run];
    for (int before = 0; before < place; ++before) {
      const int n = batch.unknowns[run][before];
      unit += n;
      element += n * n;
    }
    solve_small<kRows>(args, static_cast<const Element*>(args.systems) + element, unit,
                       batch.unknowns[run][place], l, args.info + batch.site[run] + place);
  }
}

}  // namespace fastprune::block_lstsq
