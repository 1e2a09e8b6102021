// tuning_system: normal equations of mask tuning from Gram matrices, without per-unit outputs.
//
// Scaling unit u by s_u changes y to sum_u s_u W_u x_u, so the least-squares system over s is
//   A[u, v] = sum over columns i of u, j of v:  (W^T W)[i, j] * gram[i, j]
//   b[u]    = sum over columns j of u:          sum_k cross[j, k] * W[k, j]
// Kwon et al. 2022, section 4.3; the block-sum form is algebraically the same as forming every
// unit's output and needs one pass over W. Accumulates in f64 on the CPU, f32 tiles with f64 block
// sums on CUDA. A is symmetric bitwise.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct TuningSystemArgs {
  const void* gram;    // [C, C] contiguous, stat dtype, C = units * group
  const void* weight;  // [d, C], weight dtype; columns contiguous
  const void* cross;   // [C, d] contiguous, stat dtype: X^T (target residual)
  DType stat_dtype;    // f32 or f64: gram, cross, A and b
  DType weight_dtype;  // f32, bf16, f16 or f64
  int64_t units;
  int64_t group;
  int64_t outputs;        // d
  int64_t weight_stride;  // elements between rows of weight
  void* a;                // [units, units] contiguous, overwritten
  void* b;                // [units] contiguous, overwritten
};

int64_t tuning_system_tiles(const TuningSystemArgs& args);
Status tuning_system_cpu(const TuningSystemArgs& args, int64_t begin_tile, int64_t end_tile);
Status tuning_system_cuda(const TuningSystemArgs& args, Stream stream);

}  // namespace fastprune
