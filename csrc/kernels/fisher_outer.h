// fisher_outer: block-diagonal Fisher information, one dense block per site, accumulated in place.
//
//   blocks[s] += G_s^T G_s      G_s = the columns of site s in grads
//
// Kwon et al. 2022, section 4.2. `grads` holds the sites side by side, so sites may differ in
// width; `blocks` is flat, block s starting at sum_{r<s} sizes[r]^2, row major, both triangles
// written with bitwise equal values. Summation order is fixed: bitwise repeatable.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct FisherOuterArgs {
  const void* grads;  // [rows, sum(sizes)], dtype; columns contiguous
  DType dtype;        // f32, bf16 or f16
  int64_t rows;
  int64_t row_stride;  // elements between rows
  int64_t sites;
  const int64_t* sizes;  // [sites], host memory; zero is allowed
  float* blocks;         // [sum(sizes^2)] contiguous, accumulated into
};

// Small sites are tasks of `run`; a large one is packed in one phase and multiplied in the next.
Status fisher_outer_cpu(const FisherOuterArgs& args, const TaskRunner& run);
// `workspace` is device memory of at least fisher_outer_workspace(args) bytes.
int64_t fisher_outer_workspace(const FisherOuterArgs& args);
Status fisher_outer_cuda(const FisherOuterArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
