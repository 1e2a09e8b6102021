// mask_grad: gradient of each sample's loss with respect to each unit's mask (at mask = 1).
//
//   out[i, u] = sum over valid tokens t of sample i, columns j of unit u:  x[t, j] * grad[t, j]
//
// Kwon et al. 2022, section 4.1 (the mask multiplies the input of the output projection).
// One pass over both tensors, fp32 accumulation, no atomics: bitwise repeatable.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct MaskGradArgs {
  const void* x;     // activations, dtype; columns contiguous
  const void* grad;  // gradient of the summed loss with respect to x, same dtype and shape
  DType dtype;       // f32, bf16 or f16
  int64_t samples;
  int64_t tokens;  // per sample; packed layout: rows of x
  int64_t units;
  int64_t group;         // columns per unit; a row has units * group columns
  int64_t x_strides[2];  // elements between samples, between tokens (packed: [0] is unused)
  int64_t grad_strides[2];
  const uint8_t* valid;    // padded: [samples, tokens] contiguous, 0 = padding; null = all valid
  const int64_t* offsets;  // packed: [samples + 1], sample i owns token rows
                           // offsets[i]..offsets[i+1]; null = padded layout
  float* out;              // [samples, units] contiguous, overwritten
};

// Samples [begin, end) on the calling thread.
Status mask_grad_cpu(const MaskGradArgs& args, int64_t begin, int64_t end);
int64_t mask_grad_workspace(const MaskGradArgs& args);
Status mask_grad_cuda(const MaskGradArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
