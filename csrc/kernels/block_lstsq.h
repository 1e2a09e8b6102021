// block_lstsq: a ragged batch of damped symmetric positive-definite systems, many right-hand sides.
//
//   (A_s + damping * mean(diag A_s) * I) X_s = B_s
//
// `systems` is flat in the layout of fisher_outer's blocks, `rhs` and `out` stack the systems'
// rows. Cholesky in f64 whatever the storage type. A system that is not positive definite, or holds
// a non-finite value, gets X_s = 0 and info[s] = 1 + the index of the first bad pivot (a
// non-finite right-hand side: info[s] = -1); the others are unaffected. Success: info[s] = 0.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct BlockLstsqArgs {
  const void* systems;  // [sum(sizes^2)], dtype; the lower triangle is read
  const void* rhs;      // [sum(sizes), columns] contiguous, dtype
  DType dtype;          // f32 or f64: systems, rhs and out
  int64_t sites;
  const int64_t* sizes;  // [sites], host memory; 0..4096
  int64_t columns;       // right-hand sides per system
  double damping;        // >= 0, relative to the mean diagonal
  void* out;             // [sum(sizes), columns] contiguous, overwritten
  int32_t* info;         // [sites], overwritten
};

// Small systems are tasks of `run`; a large one is solved in phases whose tiles are tasks.
Status block_lstsq_cpu(const BlockLstsqArgs& args, const TaskRunner& run);
int64_t block_lstsq_workspace(const BlockLstsqArgs& args);
Status block_lstsq_cuda(const BlockLstsqArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
