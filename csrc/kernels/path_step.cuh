// path_step on CUDA.
//
// v1: a thread per unit and path, coalesced; everything of a unit is read once and written once.
// Bound: the launch. A step of eight paths of BERT-base is 37,000 units or 11 MB, a few
// microseconds of memory traffic; the products that make the gradient take longer.
#pragma once

#include "../common/convert.cuh"
#include "../common/launch.cuh"
#include "path_step.h"

namespace fastprune::path_step {

constexpr int kThreads = 256;

template <typename Real>
__global__ void __launch_bounds__(kThreads) kernel(PathStepArgs args) {
  for (int64_t path = blockIdx.y; path < args.paths; path += gridDim.y) {
    const Real kappa = static_cast<const Real*>(args.kappa)[path];
    const Real alpha = static_cast<const Real*>(args.alpha)[path];
    const Real nu = static_cast<const Real*>(args.nu)[path];
    for (int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x; unit < args.units;
         unit += int64_t{gridDim.x} * kThreads) {
      const int64_t at = path * args.units + unit;
      Real& mask = static_cast<Real*>(args.mask)[at];
      Real& gate = static_cast<Real*>(args.gate)[at];
      Real& dual = static_cast<Real*>(args.dual)[at];
      const Real threshold = static_cast<const Real*>(args.threshold)[at];

      const Real pull = (mask - gate) / nu;
      mask -= kappa * alpha * (static_cast<const Real*>(args.gradient)[at] + pull);
      const Real missing = threshold - dual;
      const Real rise = alpha * pull;
      dual += rise;
      const Real excess = dual - threshold;
      gate = excess > 0 ? kappa * excess : 0;
      if (excess > 0 && isinf(args.crossing[at])) {
        const Real fraction = missing > 0 ? (missing < rise ? missing / rise : 1) : 0;
        args.crossing[at] = args.step + static_cast<double>(fraction);
      }
    }
  }
}

}  // namespace fastprune::path_step
