// greedy_rearrange on CUDA.
//
// v1: one block per (problem, site), all in one launch. A thread owns every blockDim-th unit for
//     good, so its state needs no synchronisation: one barrier per step, inside the argmin.
//     M's insertion order is the order of ascending diagonal, because units join in that order and
//     one that left never returns: ties are broken by rank.
// v2: state in registers (memory for sites above 4,096 units), order in shared memory, ranking
//     through shared tiles, several rows in flight for the first response. The row of the unit that
//     joins next is known ahead and loads while the argmin runs, so a step waits for one row.
// Bound: latency. A step is one argmin, one barrier and one row out of L2 or memory, one to two
//     microseconds whatever the width; a site of n units takes (kept units) steps.
#pragma once

#include "../common/reduce.cuh"
#include "../common/sites.cuh"
#include "greedy_rearrange.h"

namespace fastprune::greedy_rearrange {

constexpr int kThreads = 512;        // 6 units each at width 3,072
constexpr int kMostInRegisters = 8;  // units per thread
constexpr int kInMemory = 0;         // in place of a number of units per thread
constexpr int kRowsAtOnce = 4;       // of the first response

// Which unit a thread's k-th one is.
__device__ __forceinline__ int unit_of(int k) { return k * kThreads + threadIdx.x; }

// How many units a thread owns. In registers the last ones may not exist; they never join.
template <int kUnits>
__device__ __forceinline__ int owned(int units) {
  return kUnits != kInMemory ? kUnits : (units - unit_of(0) + kThreads - 1) / kThreads;
}

// A value for each of a thread's units.
template <typename T, int kUnits>
struct PerUnit {
  T values[kUnits];
  __device__ __forceinline__ T& operator[](int k) { return values[k]; }
};
template <typename T>
struct PerUnit<T, kInMemory> {
  T* values;
  __device__ __forceinline__ T& operator[](int k) const { return values[unit_of(k)]; }
};

template <int kUnits>
struct State {
  PerUnit<double, kUnits> response;  // r = F 1_M
  PerUnit<float, kUnits> diagonal;   // NaN reads as infinity
  PerUnit<int32_t, kUnits> rank;     // in the order of ascending diagonal; ~rank outside of M
};

// State of sites too wide for registers, over the units of every problem, in the workspace.
struct Memory {
  double* response;
  float* diagonal;
  int32_t* rank;
  int32_t* order;
};
constexpr int64_t kStateBytes = sizeof(double) + sizeof(float) + 2 * sizeof(int32_t);

template <int kUnits>
struct Storage {
  Candidate best[2][kMaxWarps];
  int32_t count[kMaxWarps];
  float tile[kThreads];                                        // of the diagonal
  int32_t order[kUnits == kInMemory ? 1 : kUnits * kThreads];  // the unit of a rank
};

// The thread's part of a row: loaded now, or where to find it.
template <int kUnits>
__device__ __forceinline__ auto load_row(const float* row, int units) {
  if constexpr (kUnits == kInMemory) {
    return PerUnit<const float, kInMemory>{row};
  } else {
    PerUnit<float, kUnits> part;
#pragma unroll
    for (int k = 0; k < kUnits; ++k) part[k] = unit_of(k) < units ? row[unit_of(k)] : 0.0f;
    return part;
  }
}

// Fills diagonal and rank, and order; NaN comes last, so that ranks stay a permutation.
template <int kUnits>
__device__ __forceinline__ void rank_units(const float* block, int units, State<kUnits>& state,
                                           int32_t* order, float (&tile)[kThreads]) {
  const auto diagonal_of = [=](int unit) {
    const float value = block[int64_t{unit} * units + unit];
    return value == value ? value : INFINITY;
  };
  const int count = owned<kUnits>(units);
#pragma unroll
  for (int k = 0; k < count; ++k) {
    state.diagonal[k] = unit_of(k) < units ? diagonal_of(unit_of(k)) : 0.0f;
    state.rank[k] = 0;
  }
  for (int first = 0; first < units; first += blockDim.x) {
    const int unit = first + threadIdx.x;
    if (unit < units) tile[threadIdx.x] = diagonal_of(unit);
    __syncthreads();
    const int end = static_cast<int>(min_of(blockDim.x, units - first));
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const float value = state.diagonal[k];
      int lower = 0;
#pragma unroll 8
      for (int i = 0; i < end; ++i) {
        lower += tile[i] < value || (tile[i] == value && first + i < unit_of(k));
      }
      state.rank[k] += lower;
    }
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if (unit_of(k) < units) order[state.rank[k]] = unit_of(k);
  }
  __syncthreads();
}

// response += the rows of `kRows` units, one after the other, all of them in flight.
template <int kRows, int kUnits>
__device__ __forceinline__ void add_rows(const float* block, int units, const int32_t* members,
                                         PerUnit<double, kUnits>& response) {
  decltype(load_row<kUnits>(block, units)) rows[kRows];
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    rows[row] = load_row<kUnits>(block + int64_t{members[row]} * units, units);
  }
  const int count = owned<kUnits>(units);
#pragma unroll
  for (int k = 0; k < count; ++k) {
    double sum = response[k];
#pragma unroll
    for (int row = 0; row < kRows; ++row) sum += rows[row][k];
    response[k] = sum;
  }
}

// One site of one problem.
template <int kUnits>
__device__ __forceinline__ void rearrange(const float* block, const float* mask, int units,
                                          State<kUnits> state, int32_t* order,
                                          Storage<kUnits>& shared, float* out) {
  int pruned = 0;
  for (int j = threadIdx.x; j < units; j += blockDim.x) pruned += mask[j] == 0;
  pruned = block_sum(pruned, shared.count);  // its barriers also part this site from the last one
  if (pruned == 0 || pruned == units) {
    for (int j = threadIdx.x; j < units; j += blockDim.x) out[j] = pruned == 0;
    return;
  }
  const int count = owned<kUnits>(units);
  rank_units<kUnits>(block, units, state, order, shared.tile);

  // M = the lowest ranks. `~units` is no rank's complement: what does not exist never joins.
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if (state.rank[k] >= pruned) state.rank[k] = ~state.rank[k];
    if (unit_of(k) >= units) state.rank[k] = ~units;
    state.response[k] = 0;
  }
  int member = 0;
  for (; member + kRowsAtOnce <= pruned; member += kRowsAtOnce) {
    add_rows<kRowsAtOnce>(block, units, order + member, state.response);
  }
  for (; member < pruned; ++member) add_rows<1>(block, units, order + member, state.response);

  // One unit in, one unit out. The term 1_M^T F 1_M is the same for every candidate and is left out
  // of the comparison.
  const auto row_of = [&](int rank) {
    return load_row<kUnits>(block + int64_t{order[rank]} * units, units);
  };
  auto joining = row_of(pruned);
  for (int step = pruned; step < units; ++step) {
    double best = INFINITY;
    int first = units;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const double response = state.response[k] + joining[k];
      state.response[k] = response;
      if (state.rank[k] == ~step) state.rank[k] = step;
      const int rank = state.rank[k];
      const double cost = state.diagonal[k] - 2 * response;
      const double usable = cost == cost ? cost : INFINITY;
      // No short circuits: lanes would part at each of them.
      const bool wins = (rank >= 0) & ((usable < best) | ((usable == best) & (rank < first)));
      best = wins ? usable : best;
      first = wins ? rank : first;
    }
    if (step + 1 < units) joining = row_of(step + 1);
    const auto chosen =
        block_best({ordered(best), static_cast<uint32_t>(first)}, shared.best[step % 2]);
    const int left = static_cast<int>(chosen.position);
    auto leaving = row_of(left);
#pragma unroll
    for (int k = 0; k < count; ++k) {
      state.response[k] -= leaving[k];
      if (state.rank[k] == left) state.rank[k] = ~left;
    }
  }
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if (unit_of(k) < units) out[unit_of(k)] = state.rank[k] < 0;
  }
}

template <int kUnits>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(GreedyRearrangeArgs args, const __grid_constant__ SiteBatch batch, int64_t all_units,
           Memory memory) {
  auto& shared = shared_storage<Storage<kUnits>>();
  for (int64_t problem = blockIdx.y; problem < args.problems; problem += gridDim.y) {
    for (int site = blockIdx.x; site < batch.count; site += gridDim.x) {
      const int64_t first = problem * all_units + batch.unit_offset[site];
      State<kUnits> state = {};
      int32_t* order = shared.order;
      if constexpr (kUnits == kInMemory) {
        state = {{memory.response + first}, {memory.diagonal + first}, {memory.rank + first}};
        order = memory.order + first;
      }
      rearrange(args.blocks + batch.block_offset[site], args.masks + first, batch.units[site],
                state, order, shared, args.out + first);
    }
  }
}

}  // namespace fastprune::greedy_rearrange
