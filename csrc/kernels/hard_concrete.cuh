// hard_concrete on CUDA.
//
// v1: a block per part (the units of a site, the sublayers, the hidden dimensions) draws its gates
// and adds up p; a second launch, which needs all sums, turns dp / d alpha into the sparsity's
// slopes. Bound: the two launches. BERT-base has 37,800 gates or 0.8 MB, and 26 parts.
#pragma once

#include "../common/convert.cuh"
#include "../common/reduce.cuh"
#include "../common/sites.cuh"
#include "hard_concrete.h"

namespace fastprune::hard_concrete {

using namespace gates;

constexpr int kThreads = 256;

struct Storage {
  double scratch[kMaxWarps];
};

template <typename Real>
__global__ void __launch_bounds__(kThreads) draw_kernel(HardConcreteArgs args, SiteBatch batch) {
  auto& storage = shared_storage<Storage>();
  for (int64_t part = blockIdx.x; part < batch.work; part += gridDim.x) {
    double open = 0;
    for (int64_t unit = threadIdx.x; unit < batch.units[part]; unit += kThreads) {
      const int64_t at = batch.unit_offset[part] + unit;
      const Real x = std::exp(-static_cast<const Real*>(args.alpha)[at]);
      const Draw<Real> drawn = draw(x, static_cast<const Real*>(args.noise)[at]);
      static_cast<Real*>(args.gates)[at] = drawn.gate;
      static_cast<Real*>(args.slopes)[at] = drawn.slope;
      static_cast<Real*>(args.sparsity_slopes)[at] = drawn.open * (Real(1) - drawn.open);
      open += static_cast<double>(drawn.open);
    }
    open = block_sum(open, storage.scratch);
    if (threadIdx.x == 0) args.open[batch.site[part]] = mean_open(open, batch.units[part]);
  }
}

// Where the gates of sublayers are, if there are any.
struct Sublayers {
  int64_t first;
  int64_t count;

  // p of a site's.
  template <typename Real>
  __device__ double open(const HardConcreteArgs& args, int64_t site) const {
    if (count == 0) return 1.0;
    const Real alpha = static_cast<const Real*>(args.alpha)[first + site];
    return static_cast<double>(open_probability(std::exp(-alpha)));
  }
};

template <typename Real>
__global__ void __launch_bounds__(kThreads)
    slope_kernel(HardConcreteArgs args, SiteBatch batch, Sublayers sublayers) {
  auto& storage = shared_storage<Storage>();
  const double width = args.open[args.sites + 1];
  for (int64_t local = blockIdx.x; local < batch.work; local += gridDim.x) {
    const int64_t part = batch.site[local], units = batch.units[local];
    auto* slopes = static_cast<Real*>(args.sparsity_slopes) + batch.unit_offset[local];
    if (part == args.sites) {  // the sublayers
      for (int64_t site = threadIdx.x; site < units; site += kThreads) {
        slopes[site] *= static_cast<Real>(-width * args.shares[site] * args.open[site]);
      }
      continue;
    }
    double factor = 0;
    if (part < args.sites) {
      const double share = args.shares[part] * sublayers.open<Real>(args, part);
      factor = -width * share / static_cast<double>(units);
    } else {  // the hidden dimensions
      double kept = 0;
      for (int64_t site = threadIdx.x; site < args.sites; site += kThreads) {
        kept += args.shares[site] * args.open[site] * sublayers.open<Real>(args, site);
      }
      kept = block_sum(kept, storage.scratch);
      factor = -kept / static_cast<double>(units);
      if (threadIdx.x == 0) *args.sparsity = 1 - width * kept;
    }
    for (int64_t unit = threadIdx.x; unit < units; unit += kThreads) {
      slopes[unit] *= static_cast<Real>(factor);
    }
  }
}

}  // namespace fastprune::hard_concrete
