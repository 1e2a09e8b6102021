// masked_norm: layer norm over the dimensions that are kept, then their gates; and its derivatives.
//
//   K = {i : gate_i != 0}, n = |K|
//   m = mean over K of x, or 0 unless centred        v = mean over K of (x - m)^2
//   rstd = 1 / sqrt(v + eps)      h_i = (x_i - m) rstd      a_i = weight_i h_i + bias_i
//   y_i = gate_i a_i for i in K, else 0
//
// CoFi's normalisation of hidden states whose dimensions are pruned (Xia, Zhong, Chen 2022); not
// centred it is RMSNorm's (Zhang & Sennrich 2019). With g_i = dy_i gate_i weight_i, in K
//
//   dx_i = rstd (g_i - mean over K of g, if centred - h_i mean over K of g h)
//   dgate_i = weight_i sum(dy_i h_i) + bias_i sum(dy_i)        sums over the rows
//   dweight_i = gate_i sum(dy_i h_i)      dbias_i = gate_i sum(dy_i)
//
// and 0 elsewhere: a closed gate has no derivative. What lies outside K is never used, not even
// NaN. Where K is empty, mean, rstd and all derivatives are 0.
//
// Sums of a row are f64. Sums over rows are of `dtype` within chunks of rows, 64 terms at most, and
// f64 over the chunks, in order.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct MaskedNormArgs {
  DType dtype;  // f32 or f64: of everything. All tensors are contiguous
  bool centered;
  double eps;
  int64_t rows;
  int64_t width;
  const void* x;       // [rows, width]
  const void* weight;  // [width], like bias and gate
  const void* bias;    // null = 0
  const void* gate;
  void* y;     // [rows, width]
  void* mean;  // [rows]
  void* rstd;  // [rows]
};

struct MaskedNormBackwardArgs {
  DType dtype;
  bool centered;
  int64_t rows;
  int64_t width;
  const void* dy;  // [rows, width]
  const void* x;
  const void* weight;
  const void* bias;
  const void* gate;
  const void* mean;  // of the forward pass, with rstd
  const void* rstd;
  void* dx;       // [rows, width]
  void* dweight;  // [width], like the next two
  void* dbias;
  void* dgate;
};

// Pieces are independent: rows of the forward pass.
int64_t masked_norm_pieces(const MaskedNormArgs& args);
Status masked_norm_cpu(const MaskedNormArgs& args, int64_t begin, int64_t end);
Status masked_norm_cuda(const MaskedNormArgs& args, Stream stream);

Status masked_norm_backward_cpu(const MaskedNormBackwardArgs& args, const TaskRunner& run_tasks);
int64_t masked_norm_backward_workspace(const MaskedNormBackwardArgs& args);
Status masked_norm_backward_cuda(const MaskedNormBackwardArgs& args, void* workspace,
                                 Stream stream);

}  // namespace fastprune
