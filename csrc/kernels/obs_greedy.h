// obs_greedy: greedy structured pruning with compensation (Optimal Brain Surgeon), every site.
//
// Site s has `sizes[s]` units of `groups[s]` columns each, n columns in all. With P = H^-1 and W,
// the rows that multiply those columns, removing unit u and adjusting all other rows optimally for
// the error tr((W - W')^T H (W - W')) costs tr(W_u^T P_uu^-1 W_u). While units are left, the one
// with the smallest cost (clamped at 0; ties: the lower index) goes and the others are adjusted
// (Hassibi & Stork 1993; for groups of columns, Kurtic et al. 2023).
//
// The cost depends on W through M = W W^T alone, so W is never adjusted. With R R^T = P_uu,
//   L = P_:u R^-T,   N = M_:u R^-T,   K = R^-1 M_uu R^-T,   Z = N - L K / 2:
//   P <- P - L L^T,   M <- M - Z L^T - L Z^T,   cost = tr K.
// This is a Cholesky factorisation of P with another rule for the pivot: about n^3 operations.
//
// A unit whose P_uu is not positive definite, or whose cost is not finite, cannot go. When no other
// is left, the remaining units follow in ascending order, the curve is infinite for them, and
// info[s] = 1 + the number removed before; else info[s] = 0.
#pragma once

#include "../common/types.h"

namespace fastprune {

constexpr int64_t kWidestGroup = 4096;

struct ObsGreedyArgs {
  const void* inverse;  // [sum(n^2)], dtype; P of every site, the lower triangle is read
  const void* weight;   // [sum(n), outputs] contiguous, dtype
  DType dtype;          // f32 or f64: inverse, weight, curve, and the arithmetic
  int64_t sites;
  const int64_t* sizes;   // [sites], host memory
  const int64_t* groups;  // [sites], host memory; 1..kWidestGroup
  int64_t outputs;        // columns of weight
  int32_t* order;         // [sum(sizes)], overwritten: units of the site, as they go
  void* curve;            // [sum(sizes)], dtype, overwritten: the sum of the costs up to each
  int32_t* info;          // [sites], overwritten
};

// Sites are tasks of `run`.
Status obs_greedy_cpu(const ObsGreedyArgs& args, const TaskRunner& run);
int64_t obs_greedy_workspace(const ObsGreedyArgs& args);
Status obs_greedy_cuda(const ObsGreedyArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
