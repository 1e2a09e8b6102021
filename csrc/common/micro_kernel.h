// The innermost loop of every matrix product on the CPU: a small block of C += A^T B in registers.
//
// Operands are packed panels: `panel` columns side by side, row after row, so one row of a panel
// is `panel` consecutive numbers. A and B use the same format, so X^T X packs X once.
#pragma once

#include <cstdint>

namespace fastprune {

// Every panel width divides kPanelMultiple, so blocks of a multiple of it have no ragged edge.
constexpr int64_t kPanelMultiple = 48;

// A quarter of a cache line a step: enough to hide L3, little enough to leave room for the
// operands.
constexpr int64_t kFetchBytes = 16;

template <class T, class Sum>
struct MicroKernel {
  int64_t panel;  // columns of a packed panel, and of the block
  int64_t rows;   // rows of the block: columns of A's panel, from the one `a` points at
  // c[i][j] += sum over p < depth of a[p * panel + i] * b[p * panel + j]. Summed in T, added once.
  // Meanwhile depth * kFetchBytes bytes from `next` on come into the L2 cache.
  void (*run)(int64_t depth, const T* a, const T* b, Sum* c, int64_t c_stride, const void* next);
};

// The best one for this machine. Instances: <float, float>, <float, double>, <double, double>.
template <class T, class Sum>
const MicroKernel<T, Sum>& micro_kernel();

}  // namespace fastprune
