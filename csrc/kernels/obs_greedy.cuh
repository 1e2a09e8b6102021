// obs_greedy on CUDA: what all sites share; obs_greedy_steps.cuh chooses units and forms their
// rows.
//
// v1: the lower triangles of P and M in the workspace, all sites in every launch. Units of one
//     column: a launch per unit, a thread per column that is left; it makes its entries of the
//     pivot's column current from the panel of the last 32, and its diagonal, and blocks leave
//     their minima to the next launch. Wider units: a launch for all costs, one for the rows. A
//     full panel is applied by the tiles of syrk64.cuh, after the last columns have taken the place
//     of those that went, so work shrinks with the site. Nothing waits for the host.
// Bound: units of one column: latency of a launch per unit, some microseconds, and f64 FMA of the
//     update, n^3 / 2 multiply-adds a site. Wider units: latency of one block's Cholesky.
// Next: f64 tensor cores in the update; several units a launch where a cluster holds the columns.
#pragma once

#include "../common/reduce.cuh"
#include "obs_greedy.h"
#include "syrk64.cuh"

namespace fastprune::obs_greedy {

using syrk64::kThreads;
using syrk64::kTile;

constexpr int kPanel = kWarpSize;   // units of one column whose rows wait: a lane each
constexpr int kSitesPerBatch = 64;  // keeps the batch below the 4 KiB of kernel parameters
constexpr int kTurn = kWarpSize;    // side of the tiles in which W is transposed

struct Site {
  int32_t index;  // among all sites
  int32_t units;
  int32_t group;
  int64_t unit_offset;    // units before it
  int64_t column_offset;  // columns before it
  int64_t block_offset;   // squares of columns before it
  int64_t work_offset;    // bytes before it
};

// Sites whose units all have one column, or none of them.
struct Batch {
  int32_t count = 0;
  int32_t most_units = 0;
  int64_t most_columns = 0;
  int64_t work = 0;  // bytes
  Site sites[kSitesPerBatch];
};
static_assert(sizeof(Batch) + sizeof(ObsGreedyArgs) <= 3584);

// A site in the workspace.
template <typename Real>
struct State {
  int64_t columns;  // n
  Candidate* best;  // one column a unit: of every block, two sets in turn; else of every slot
  double* total;    // of the costs so far
  Real* p;          // [n, n], the lower triangle
  Real* m;          // the same
  Real* panel;      // rows [L | Z] of the units that went last; before that W^T
  Real* p_pivots;   // one column a unit: the diagonals, current;
  Real* m_pivots;   //   else for every slot R and K, [group, group]
  int32_t* unit;    // of every slot; one column a unit: -1 = it went
  int32_t* slot;    // of every unit that is left
  int32_t* gone;    // slots of the units in the panel, in order

  __device__ __forceinline__ Real* l_row(int64_t q) const { return panel + q * 2 * columns; }
  __device__ __forceinline__ Real* z_row(int64_t q) const { return l_row(q) + columns; }
  // An entry of P or M, either way round.
  __device__ __forceinline__ int64_t entry(int64_t i, int64_t j) const {
    return max_of(i, j) * columns + min_of(i, j);
  }
};

// Lays a site's arrays out from `start` on; returns the end.
template <typename Real>
FASTPRUNE_HOST_DEVICE inline int64_t lay_out(const Site& site, int64_t outputs, int64_t start,
                                             State<Real>& state) {
  constexpr int64_t kAlignment = 16;
  const int64_t n = int64_t{site.units} * site.group;
  const auto take = [&start](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(start);
    start += ceil_div(count * static_cast<int64_t>(sizeof *array), kAlignment) * kAlignment;
  };
  const int64_t rows = site.group == 1 ? kPanel : site.group;
  state.columns = n;
  take(state.best, site.group == 1 ? 2 * ceil_div(n, kThreads) : site.units);
  take(state.total, 1);
  take(state.p, n * n);
  take(state.m, n * n);
  take(state.panel, max_of(2 * rows, outputs) * n);
  take(state.p_pivots, n * site.group);
  take(state.m_pivots, n * site.group);
  take(state.unit, site.units);
  take(state.slot, site.units);
  take(state.gone, kPanel);
  return start;
}

template <typename Real>
__device__ __forceinline__ State<Real> state_of(const Site& site, const ObsGreedyArgs& args,
                                                void* workspace) {
  State<Real> state;
  lay_out(site, args.outputs, reinterpret_cast<int64_t>(workspace) + site.work_offset, state);
  return state;
}

// Whether the site has a unit to remove at this step. Others may report failure in this very step.
__device__ __forceinline__ bool takes_part(const ObsGreedyArgs& args, const Site& site, int step) {
  const int32_t info = args.info[site.index];
  return step < site.units && (info == 0 || info > step);
}

struct LoadStorage {
  double tile[kTurn][kTurn + 1];
};

// Copies the lower triangle of P, and W transposed.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    load_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace) {
  auto& shared = shared_storage<LoadStorage>();
  const int lane = threadIdx.x % kTurn;
  const int first_line = threadIdx.x / kTurn;
  constexpr int kLines = kThreads / kTurn;
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int64_t n = state.columns;
    const auto* inverse = static_cast<const Real*>(args.inverse) + site.block_offset;
    const auto* weight = static_cast<const Real*>(args.weight) + site.column_offset * args.outputs;
    for (int64_t row = blockIdx.x; row < n; row += gridDim.x) {
      for (int64_t column = threadIdx.x; column <= row; column += kThreads) {
        state.p[row * n + column] = inverse[row * n + column];
      }
    }
    const int64_t across = ceil_div(args.outputs, kTurn);
    for (int64_t tile = blockIdx.x; tile < ceil_div(n, kTurn) * across; tile += gridDim.x) {
      const int64_t row = tile / across * kTurn;
      const int64_t output = tile % across * kTurn;
      for (int line = first_line; line < kTurn; line += kLines) {
        if (row + line < n && output + lane < args.outputs) {
          shared.tile[line][lane] = weight[(row + line) * args.outputs + output + lane];
        }
      }
      __syncthreads();
      for (int line = first_line; line < kTurn; line += kLines) {
        if (row + lane < n && output + line < args.outputs) {
          state.panel[(output + line) * n + row + lane] =
              static_cast<Real>(shared.tile[lane][line]);
        }
      }
      __syncthreads();  // the next tile reuses the storage
    }
  }
}

// Calls body(row, column, value) for this thread's part of a tile's lower triangle.
template <typename Real, typename Body>
__device__ __forceinline__ void for_each_entry(int64_t row, int64_t column, int64_t end,
                                               const Real (&total)[syrk64::kMicro][syrk64::kMicro],
                                               const Body& body) {
#pragma unroll
  for (int i = 0; i < syrk64::kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < syrk64::kMicro; ++j) {
      const int64_t r = row + syrk64::micro_row(i);
      const int64_t c = column + syrk64::micro_column(j);
      if (r < end && c <= r) body(r, c, total[i][j]);
    }
  }
}

// M = W W^T, a block per tile.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    product_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace) {
  auto& shared = shared_storage<syrk64::Storage<Real>>();
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const State<Real> state = state_of<Real>(batch.sites[s], args, workspace);
    const int64_t n = state.columns;
    const syrk64::Panel<Real> weight = {state.panel, args.outputs, n, n};
    const int64_t tiles = triangle_tiles(ceil_div(n, kTile));
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const TilePosition position = triangle_tile(tile);
      const int64_t row = position.row * kTile;
      const int64_t column = position.column * kTile;
      Real total[syrk64::kMicro][syrk64::kMicro] = {};
      syrk64::multiply_tile(weight, row, column, shared, total);
      for_each_entry(row, column, n, total,
                     [&](int64_t r, int64_t c, Real value) { state.m[r * n + c] = value; });
    }
  }
}

struct MoveStorage {
  int32_t target[kPanel];  // slots of units that went, among the first ones
  int32_t source[kPanel];  // slots of units that are left, among the last ones
  int32_t count;
};

// Which units move where, so that those left are the first `after` of `before`: by one warp.
__device__ __forceinline__ void match_moves(const int32_t* gone, int removed, int before, int after,
                                            MoveStorage& shared) {
  const int lane = threadIdx.x % kWarpSize;
  const unsigned lower = (1u << lane) - 1;
  const int slot = lane < removed ? gone[lane] : after;
  const int last = after + lane;
  bool left = last < before;
  for (int i = 0; i < removed; ++i) left = left && gone[i] != last;
  const unsigned targets = __ballot_sync(kFullWarp, slot < after);
  const unsigned sources = __ballot_sync(kFullWarp, left);
  if (slot < after) shared.target[__popc(targets & lower)] = slot;
  if (left) shared.source[__popc(sources & lower)] = last;
  if (lane == 0) shared.count = __popc(targets);
}

// Before a full panel is applied: the last columns take the place of those that went. A thread per
// column. Only entries of columns that went are written, and only others are read.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    move_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace, int step,
                int removed) {
  auto& shared = shared_storage<MoveStorage>();
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    if (!takes_part(args, site, step)) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int group = site.group;
    const int after = site.units - step;
    if (threadIdx.x < kWarpSize) match_moves(state.gone, removed, after + removed, after, shared);
    __syncthreads();
    const int moves = shared.count;
    for (int64_t first = int64_t{blockIdx.x} * kThreads; first < int64_t{after} * group;
         first += int64_t{gridDim.x} * kThreads) {
      const int64_t j = first + threadIdx.x;
      if (j >= int64_t{after} * group) continue;
      const int slot = static_cast<int>(j / group);
      int from = slot;
      for (int i = 0; i < moves; ++i) from = shared.target[i] == slot ? shared.source[i] : from;
      const int64_t j_from = int64_t{from} * group + j % group;
      for (int i = 0; i < moves; ++i) {
        for (int k = 0; k < group; ++k) {
          const int64_t row = int64_t{shared.target[i]} * group + k;
          if (from != slot && row < j) continue;  // of two columns that move, one thread does both
          const int64_t to = state.entry(row, j);
          const int64_t source = state.entry(int64_t{shared.source[i]} * group + k, j_from);
          state.p[to] = state.p[source];
          state.m[to] = state.m[source];
        }
      }
      if (from == slot) continue;
      for (int q = 0; q < removed * group; ++q) {
        state.l_row(q)[j] = state.l_row(q)[j_from];
        state.z_row(q)[j] = state.z_row(q)[j_from];
      }
      if (group == 1) {
        state.p_pivots[j] = state.p_pivots[j_from];
        state.m_pivots[j] = state.m_pivots[j_from];
      }
      if (j % group == 0) {
        state.unit[slot] = state.unit[from];
        state.slot[state.unit[from]] = slot;
      }
    }
    __syncthreads();  // the next site reuses the storage
  }
}

// Applies the panel of `removed` units: P -= L L^T, M -= Z L^T + L Z^T.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace,
                  int step, int removed) {
  auto& shared = shared_storage<syrk64::Storage<Real>>();
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    if (!takes_part(args, site, step)) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int64_t n = state.columns;
    const int64_t end = int64_t{site.units - step} * site.group;
    const syrk64::Panel<Real> rows = {state.panel, int64_t{removed} * site.group, 2 * n, 2 * n};
    const int64_t tiles = triangle_tiles(ceil_div(end, kTile));
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const TilePosition position = triangle_tile(tile);
      const int64_t row = position.row * kTile;
      const int64_t column = position.column * kTile;
      const auto subtract_from = [&](Real* matrix) {
        return [=](int64_t r, int64_t c, Real value) { matrix[r * n + c] -= value; };
      };
      {
        Real total[syrk64::kMicro][syrk64::kMicro] = {};
        syrk64::multiply_tile(rows, row, column, shared, total);
        for_each_entry(row, column, end, total, subtract_from(state.p));
      }
      Real total[syrk64::kMicro][syrk64::kMicro] = {};
      syrk64::multiply_tile(rows, n + row, column, shared, total);
      syrk64::multiply_tile(rows, row, n + column, shared, total);
      for_each_entry(row, column, end, total, subtract_from(state.m));
    }
  }
}

// The units that could not go, in ascending order.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    finish_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace) {
  for (int s = blockIdx.x; s < batch.count; s += gridDim.x) {
    const Site& site = batch.sites[s];
    if (args.info[site.index] == 0) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    int32_t* order = args.order + site.unit_offset;
    Real* curve = static_cast<Real*>(args.curve) + site.unit_offset;
    const int done = args.info[site.index] - 1;
    for (int i = threadIdx.x; i < done; i += kThreads) state.slot[order[i]] = -1;
    __syncthreads();
    for (int unit = threadIdx.x; unit < site.units; unit += kThreads) {
      if (state.slot[unit] < 0) continue;
      int position = done;
      for (int lower = 0; lower < unit; ++lower) position += state.slot[lower] >= 0;
      order[position] = unit;
      curve[position] = INFINITY;
    }
  }
}

}  // namespace fastprune::obs_greedy
