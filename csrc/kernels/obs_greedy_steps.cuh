// obs_greedy on CUDA: the choice of a unit and its rows L and Z. See obs_greedy.cuh.
#pragma once

#include "obs_greedy.cuh"

namespace fastprune::obs_greedy {

struct Choice {
  double cost;
  int32_t unit;
  int slot;
};

// The cheapest of `count` candidates, in every thread, for one barrier.
template <typename Real>
__device__ __forceinline__ Choice choose(const State<Real>& state, const Candidate* best,
                                         int64_t count, Candidate (&scratch)[kMaxWarps]) {
  Candidate own = {ordered(INFINITY), 0};
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const Candidate other = best[i];
    const bool wins =
        other.cost < own.cost || (other.cost == own.cost && other.position < own.position);
    if (wins) own = other;
  }
  const Candidate chosen = block_best(own, scratch);
  const auto unit = static_cast<int32_t>(chosen.position);
  return {from_ordered(chosen.cost), unit, state.slot[unit]};
}

// Notes the choice, or that there is none: by one thread of the site.
template <typename Real>
__device__ __forceinline__ void record(const ObsGreedyArgs& args, const Site& site,
                                       const State<Real>& state, const Choice& choice, int step,
                                       int waiting) {
  if (choice.cost == INFINITY) {
    args.info[site.index] = step + 1;
    return;
  }
  const double total = *state.total + choice.cost;
  *state.total = total;
  state.gone[waiting] = choice.slot;
  args.order[site.unit_offset + step] = choice.unit;
  static_cast<Real*>(args.curve)[site.unit_offset + step] = static_cast<Real>(total);
}

// A unit of one column: tr(P_uu^-1 M_uu), or infinity.
template <typename Real>
__device__ __forceinline__ double cost_of(Real p, Real m) {
  const Real cost = m / p;
  return p > 0 && isfinite(p) && isfinite(cost) ? (cost > 0 ? cost : 0.0) : INFINITY;
}

struct StartStorage {
  Candidate best[2][kMaxWarps];
};

// Everything in its own slot; of units of one column the diagonals and the first minima.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    start_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace) {
  auto& shared = shared_storage<StartStorage>();
  int turn = 0;
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    const State<Real> state = state_of<Real>(site, args, workspace);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      args.info[site.index] = 0;
      *state.total = 0;
    }
    for (int64_t chunk = blockIdx.x; chunk * kThreads < site.units; chunk += gridDim.x) {
      const int64_t i = chunk * kThreads + threadIdx.x;
      Candidate own = {ordered(INFINITY), 0};
      if (i < site.units) {
        state.unit[i] = state.slot[i] = static_cast<int32_t>(i);
        if (site.group == 1) {
          const Real p = state.p_pivots[i] = state.p[i * state.columns + i];
          const Real m = state.m_pivots[i] = state.m[i * state.columns + i];
          own = {ordered(cost_of(p, m)), static_cast<uint32_t>(i)};
        }
      }
      if (site.group > 1) continue;
      own = block_best(own, shared.best[turn ^= 1]);
      if (threadIdx.x == 0) state.best[chunk] = own;
    }
  }
}

template <typename Real>
struct StepStorage {
  Candidate best[2][kMaxWarps];
  Real l[kPanel];  // the pivot's entries of the panel
  Real z[kPanel];
};

// Units of one column: removes one per site.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    step_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace,
                int step) {
  auto& shared = shared_storage<StepStorage<Real>>();
  const int waiting = step % kPanel;
  int turn = 0;
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    if (!takes_part(args, site, step)) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int64_t n = state.columns;
    const int64_t slots = n - step + waiting;
    // The last launch had more slots if a panel was applied since.
    const int64_t minima = ceil_div(slots + (waiting == 0 && step > 0 ? kPanel : 0), kThreads);
    const int64_t stored = ceil_div(n, kThreads);
    const Choice choice =
        choose(state, state.best + step % 2 * stored, minima, shared.best[turn ^= 1]);
    if (blockIdx.x == 0 && threadIdx.x == 0) record(args, site, state, choice, step, waiting);
    if (choice.cost == INFINITY) continue;

    const int64_t pivot = choice.slot;
    if (static_cast<int>(threadIdx.x) < waiting) {
      shared.l[threadIdx.x] = state.l_row(threadIdx.x)[pivot];
      shared.z[threadIdx.x] = state.z_row(threadIdx.x)[pivot];
    }
    __syncthreads();
    const Real root = sqrt(state.p_pivots[pivot]);
    const Real half_cost = state.m_pivots[pivot] / state.p_pivots[pivot] / 2;

    for (int64_t chunk = blockIdx.x; chunk * kThreads < slots; chunk += gridDim.x) {
      const int64_t i = chunk * kThreads + threadIdx.x;
      Candidate own = {ordered(INFINITY), 0};
      if (i == pivot) {
        state.unit[i] = -1;
      } else if (i < slots && state.unit[i] >= 0) {
        Real l = state.p[state.entry(i, pivot)];
        Real z = state.m[state.entry(i, pivot)];
#pragma unroll 8
        for (int q = 0; q < waiting; ++q) {
          const Real l_before = state.l_row(q)[i];
          const Real z_before = state.z_row(q)[i];
          l -= shared.l[q] * l_before;
          z -= shared.l[q] * z_before;
          z -= shared.z[q] * l_before;
        }
        l /= root;
        z = z / root - half_cost * l;
        state.l_row(waiting)[i] = l;
        state.z_row(waiting)[i] = z;
        const Real p = state.p_pivots[i] -= l * l;
        const Real m = state.m_pivots[i] -= 2 * z * l;
        own = {ordered(cost_of(p, m)), static_cast<uint32_t>(state.unit[i])};
      }
      own = block_best(own, shared.best[turn ^= 1]);
      if (threadIdx.x == 0) state.best[(step + 1) % 2 * stored + chunk] = own;
    }
  }
}

constexpr int kSide = 16;  // of the square of threads that updates a unit's block

// Cholesky by the block: overwrites the lower triangle of `a` by R. False if there is none.
template <typename Real>
__device__ __forceinline__ bool factor(Real* a, int n) {
  const int row = threadIdx.x / kSide;
  const int column = threadIdx.x % kSide;
  for (int j = 0; j < n; ++j) {
    const Real pivot = a[j * n + j];
    if (!(pivot > 0 && isfinite(pivot))) return false;
    // Column j stays unscaled until all is done, so nobody waits for it.
    for (int i = j + 1 + row; i < n; i += kThreads / kSide) {
      const Real scaled = a[i * n + j] / pivot;
      for (int k = j + 1 + column; k <= i; k += kSide) a[i * n + k] -= scaled * a[k * n + j];
    }
    __syncthreads();
  }
  for (int j = threadIdx.x; j < n; j += kThreads) {
    const Real root = sqrt(a[j * n + j]);
    for (int i = j; i < n; ++i) a[i * n + j] /= root;
  }
  __syncthreads();
  return true;
}

// R x = b in place, x[i * stride], by one thread.
template <typename Real>
__device__ __forceinline__ void substitute(const Real* r, int n, Real* x, int64_t stride) {
  for (int i = 0; i < n; ++i) {
    Real value = x[i * stride];
    for (int k = 0; k < i; ++k) value -= r[i * n + k] * x[k * stride];
    x[i * stride] = value / r[i * n + i];
  }
}

struct CostStorage {
  double scratch[kMaxWarps];
};

// Wider units: R, K = R^-1 M_uu R^-T and the cost of every one, a block each.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    cost_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace,
                int step) {
  auto& shared = shared_storage<CostStorage>();
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    if (!takes_part(args, site, step)) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int group = site.group;
    for (int slot = blockIdx.x; slot < site.units - step; slot += gridDim.x) {
      const int64_t first = int64_t{slot} * group;
      Real* r = state.p_pivots + first * group;
      Real* k = state.m_pivots + first * group;
      for (int i = threadIdx.x; i < group * group; i += kThreads) {
        const int64_t source = state.entry(first + i / group, first + i % group);
        r[i] = state.p[source];
        k[i] = state.m[source];
      }
      __syncthreads();
      double cost = INFINITY;
      if (factor(r, group)) {
        // A thread per column, then per row.
        for (int own = threadIdx.x; own < group; own += kThreads) {
          substitute(r, group, k + own, group);
        }
        __syncthreads();
        double diagonal = 0;
        for (int own = threadIdx.x; own < group; own += kThreads) {
          substitute(r, group, k + own * group, 1);
          diagonal += double{k[own * group + own]};
        }
        const double trace = block_sum(diagonal, shared.scratch);
        if (isfinite(trace)) cost = trace > 0 ? trace : 0;
      }
      if (threadIdx.x == 0) {
        state.best[slot] = {ordered(cost), static_cast<uint32_t>(state.unit[slot])};
      }
    }
  }
}

struct RowsStorage {
  Candidate best[2][kMaxWarps];
};

// Wider units: removes one per site; its rows L and Z, a thread per column.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 2)
    rows_kernel(ObsGreedyArgs args, const __grid_constant__ Batch batch, void* workspace,
                int step) {
  auto& shared = shared_storage<RowsStorage>();
  int turn = 0;
  for (int s = blockIdx.y; s < batch.count; s += gridDim.y) {
    const Site& site = batch.sites[s];
    if (!takes_part(args, site, step)) continue;
    const State<Real> state = state_of<Real>(site, args, workspace);
    const int group = site.group;
    const int units = site.units - step;
    const Choice choice = choose(state, state.best, units, shared.best[turn ^= 1]);
    if (blockIdx.x == 0 && threadIdx.x == 0) record(args, site, state, choice, step, 0);
    if (choice.cost == INFINITY) continue;

    const int64_t first = int64_t{choice.slot} * group;
    const Real* r = state.p_pivots + first * group;
    const Real* k = state.m_pivots + first * group;
    const int64_t stride = 2 * state.columns;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < int64_t{units} * group;
         i += int64_t{gridDim.x} * kThreads) {
      Real* l = state.l_row(0) + i;
      Real* z = state.z_row(0) + i;
      for (int a = 0; a < group; ++a) {
        l[a * stride] = state.p[state.entry(i, first + a)];
        z[a * stride] = state.m[state.entry(i, first + a)];
      }
      substitute(r, group, l, stride);
      substitute(r, group, z, stride);
      for (int a = 0; a < group; ++a) {
        Real sum = 0;
        for (int b = 0; b < group; ++b) sum += k[a * group + b] * l[b * stride];
        z[a * stride] -= sum / 2;
      }
    }
  }
}

}  // namespace fastprune::obs_greedy
