// gram: second-moment matrix of selected columns over valid rows, accumulated in place.
//
//   out += X_S^T X_S      X_S = x[valid rows][:, columns]
//
// Kwon et al. 2022, section 4.3 (normal equations). Products are summed in f32 over at most 256
// rows, partial sums in the type of `out`. Both triangles are written with bitwise equal values.
// Never uses TF32. Summation order is fixed: bitwise repeatable. On a CPU with AMX, bf16 numbers
// below 2^-126 in magnitude count as zero, and so do f32 sums.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct GramArgs {
  const void* x;  // [rows, width], dtype; columns contiguous
  DType dtype;    // f32, bf16 or f16
  int64_t rows;
  int64_t row_stride;      // elements between rows
  const int64_t* columns;  // [selected] indices into a row; null = all columns, in order
  int64_t selected;        // number of columns used
  const uint8_t* valid;    // [rows], 0 = skip the row; null = every row
  void* out;               // [selected, selected] contiguous, accumulated into
  DType out_dtype;         // f32 or f64
};

// Rows are packed in one phase and multiplied in the next, tile by tile, as tasks of `run`.
Status gram_cpu(const GramArgs& args, const TaskRunner& run);
// `workspace` is device memory of at least gram_workspace(args) bytes.
int64_t gram_workspace(const GramArgs& args);
Status gram_cuda(const GramArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
