// path_step: one step of the coupled inclusion behind solution paths, for many paths at once.
//
//   pull = (M - G) / nu                      M: masks, G: sparse gates, Z: their dual
//   M+   = M - kappa alpha (grad + pull)     grad: of the loss at M
//   Z+   = Z + alpha pull
//   G+   = kappa max(Z+ - lambda, 0)
//
// Split linearised Bregman iteration (Huang, Sun, Xiong, Yao 2016; Fu et al. 2020, "DessiLBI") with
// masks in place of weights and gates that are not negative. A unit enters its path when Z first
// exceeds lambda: at k + (lambda - Z) / (Z+ - Z), step k interpolated, which is recorded once.
//
// Elementwise, in place, in the type of the state; crossings are f64, so that steps are counted
// exactly and units that enter within one step hardly tie.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct PathStepArgs {
  DType dtype;  // f32 or f64: all but the crossings
  int64_t paths;
  int64_t units;
  double step;            // k, the number of steps before this one
  void* mask;             // M [paths, units] contiguous, like all that follow
  void* dual;             // Z
  void* gate;             // G
  double* crossing;       // infinity = has not entered
  const void* gradient;   // grad
  const void* threshold;  // lambda
  const void* kappa;      // [paths], like the next two
  const void* alpha;
  const void* nu;
};

// Independent pieces of the work; [begin, end) of them on the calling thread.
int64_t path_step_pieces(const PathStepArgs& args);
Status path_step_cpu(const PathStepArgs& args, int64_t begin, int64_t end);
Status path_step_cuda(const PathStepArgs& args, Stream stream);

}  // namespace fastprune
