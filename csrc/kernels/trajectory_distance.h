// trajectory_distance: how far the features of masked variants of a model are from the teacher's.
//
//   out[v] += || S S^T - T T^T ||_F^2     S, T: the rows of features[v] and of teacher, at unit
//   length
//
// OPTIN's manifold distillation loss L_MD (Khaki & Plataniotis 2024) of one layer. A zero row stays
// zero.
//
// One unit changes so little that the two Gram matrices agree in most digits, so neither is formed.
// With D = S - T and U = T + D / 2, which is (S + T) / 2,
//
//   S S^T - T T^T = U D^T + D U^T
//
// and the error of every entry is relative to |U_i| |D_j| + |D_i| |U_j|. D and U come from f64
// (unit_rows.h) and are rounded once to f32; their products are summed in f32, squares in f64.
// Summation order is fixed and a variant's does not depend on the others: bitwise repeatable. A
// variant with NaN or infinity gets NaN, the others what they would get without it.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct TrajectoryDistanceArgs {
  const void* features;  // [variants, rows, width], dtype; columns contiguous
  const void* teacher;   // [rows, width], dtype; columns contiguous
  DType dtype;           // f32, bf16 or f16
  int64_t variants;
  int64_t rows;
  int64_t width;
  int64_t strides[2];      // of features: elements between variants, between rows
  int64_t teacher_stride;  // elements between rows
  double* out;             // [variants] contiguous, accumulated into
};

// Row blocks and tiles of several variants at a time are tasks of `run`.
Status trajectory_distance_cpu(const TrajectoryDistanceArgs& args, const TaskRunner& run);
int64_t trajectory_distance_workspace(const TrajectoryDistanceArgs& args);
Status trajectory_distance_cuda(const TrajectoryDistanceArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
