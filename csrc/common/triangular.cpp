#include "triangular.h"

#include <algorithm>
#include <cmath>

#include "target.h"

namespace fastprune {
namespace {

constexpr int64_t kVectorBytes = 64;
constexpr int64_t kVectors = 4;  // of a row, kept in registers

template <class Real>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(Real));

template <class Real>
FASTPRUNE_CLONES void subtract(int64_t count, const Real* coefficients, int64_t stride,
                               const Real* rows, int64_t row_stride, Real* target,
                               int64_t columns) {
  typedef Real Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(Real)), may_alias));
  int64_t c = 0;
  for (; c + kVectors * kLanes<Real> <= columns; c += kVectors * kLanes<Real>) {
    Vector* out = reinterpret_cast<Vector*>(target + c);
    Vector v0 = out[0], v1 = out[1], v2 = out[2], v3 = out[3];
    for (int64_t q = 0; q < count; ++q) {
      const Vector* row = reinterpret_cast<const Vector*>(rows + q * row_stride + c);
      const Real factor = coefficients[q * stride];
      v0 -= factor * row[0];
      v1 -= factor * row[1];
      v2 -= factor * row[2];
      v3 -= factor * row[3];
    }
    out[0] = v0, out[1] = v1, out[2] = v2, out[3] = v3;
  }
  for (; c + kLanes<Real> <= columns; c += kLanes<Real>) {
    Vector v = *reinterpret_cast<Vector*>(target + c);
    for (int64_t q = 0; q < count; ++q) {
      v -= coefficients[q * stride] * *reinterpret_cast<const Vector*>(rows + q * row_stride + c);
    }
    *reinterpret_cast<Vector*>(target + c) = v;
  }
  for (; c < columns; ++c) {
    Real value = target[c];
    for (int64_t q = 0; q < count; ++q)
      value -= coefficients[q * stride] * rows[q * row_stride + c];
    target[c] = value;
  }
}

}  // namespace

template <class Real>
void subtract_rows(int64_t count, const Real* coefficients, int64_t stride, const Real* rows,
                   int64_t row_stride, Real* target, int64_t columns) {
  subtract(count, coefficients, stride, rows, row_stride, target, columns);
}

template <class Real>
int32_t factor_upper(int64_t n, Real* a, int64_t stride) {
  for (int64_t r = 0; r < n; ++r) {
    Real* row = a + r * stride + r;
    subtract(r, a + r, stride, a + r, stride, row, n - r);
    if (!(*row > 0) || !std::isfinite(*row)) return static_cast<int32_t>(r) + 1;
    divide(row, n - r, std::sqrt(*row));
  }
  return 0;
}

template <class Real>
void solve_transposed(int64_t n, const Real* u, int64_t u_stride, Real* b, int64_t b_stride,
                      int64_t columns) {
  constexpr int64_t kStrip = kVectors * kLanes<Real>;
  for (int64_t c = 0; c < columns; c += kStrip) {
    const int64_t width = std::min(kStrip, columns - c);
    for (int64_t r = 0; r < n; ++r) {
      Real* row = b + r * b_stride + c;
      subtract(r, u + r, u_stride, b + c, b_stride, row, width);
      divide(row, width, u[r * u_stride + r]);
    }
  }
}

template void subtract_rows(int64_t, const float*, int64_t, const float*, int64_t, float*, int64_t);
template void subtract_rows(int64_t, const double*, int64_t, const double*, int64_t, double*,
                            int64_t);
template int32_t factor_upper(int64_t, float*, int64_t);
template int32_t factor_upper(int64_t, double*, int64_t);
template void solve_transposed(int64_t, const float*, int64_t, float*, int64_t, int64_t);
template void solve_transposed(int64_t, const double*, int64_t, double*, int64_t, int64_t);

}  // namespace fastprune
