// Rows of triangular solves and factorisations, vectorized over columns.
#pragma once

#include <cstdint>

namespace fastprune {

// target[c] -= sum over q < count of coefficients[q * stride] * rows[q * row_stride + c].
template <class Real>
void subtract_rows(int64_t count, const Real* coefficients, int64_t stride, const Real* rows,
                   int64_t row_stride, Real* target, int64_t columns);

template <class Real>
void divide(Real* values, int64_t count, Real divisor) {
  for (int64_t c = 0; c < count; ++c) values[c] /= divisor;
}

// U^T U = A in place, the upper triangle alone. 0, or 1 + the first pivot that is not positive and
// finite.
template <class Real>
int32_t factor_upper(int64_t n, Real* a, int64_t stride);

// U^T Y = B in place, a few columns at a time so that they stay in cache.
template <class Real>
void solve_transposed(int64_t n, const Real* u, int64_t u_stride, Real* b, int64_t b_stride,
                      int64_t columns);

}  // namespace fastprune
