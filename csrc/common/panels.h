// Packed panels: the copy of a matrix that the micro kernel reads, and the product of two of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "buffer.h"
#include "micro_kernel.h"
#include "types.h"

namespace fastprune {

// Rows of a product are summed in the compute type over at most this many, then added to the sums.
constexpr int64_t kPanelDepth = 256;

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A row-major matrix in any storage type, or some of its columns.
struct MatrixView {
  const void* data;
  DType dtype;
  int64_t row_stride;
  const int64_t* columns = nullptr;  // indices into a row; null = all, in order
};

// Packs columns [first, first + count) of the listed rows, converted to Real. `out` holds
// round_up(count, panel) * depth numbers; columns past `count` are zero.
template <class Real>
void pack_panels(const MatrixView& matrix, const int64_t* rows, int64_t depth, int64_t first,
                 int64_t count, int64_t panel, Real* out);

// What the product after this one reads, as large as its operands: fetched meanwhile. May be null.
template <class Real>
struct NextPanels {
  const Real* a = nullptr;
  const Real* b = nullptr;
};

// sums[i][j] += sum over p < depth of a[p][i] * b[p][j], for packed a and b. Extents are rounded up
// to whole panels. `upper` leaves out what lies wholly below the diagonal.
template <class Real, class Sum>
void multiply_panels(int64_t depth, const Real* a, int64_t a_count, const Real* b, int64_t b_count,
                     bool upper, Sum* sums, int64_t stride, NextPanels<Real> next = {}) {
  const MicroKernel<Real, Sum>& kernel = micro_kernel<Real, Sum>();
  const int64_t panel = kernel.panel;
  const Real* const a_end = next.a ? next.a + a_count * depth : nullptr;
  const Real* const b_end = next.b ? next.b + b_count * depth : nullptr;
  for (int64_t j = 0; j < b_count; j += panel) {
    const int64_t i_end = upper && a_count > j + panel ? j + panel : a_count;
    for (int64_t i = 0; i < i_end; i += kernel.rows) {
      const Real* a_panel = a + i / panel * panel * depth + i % panel;
      const Real* fetched = a_panel;  // costs nothing: it is being read
      const int64_t step = depth * kFetchBytes / static_cast<int64_t>(sizeof(Real));
      if (next.a < a_end) {
        fetched = next.a;
        next.a += step;
      } else if (next.b < b_end) {
        fetched = next.b;
        next.b += step;
      }
      kernel.run(depth, a_panel, b + j * depth, sums + i * stride + j, stride, fetched);
    }
  }
}

// A product A^T B of two column ranges, summed over rows; scratch and sums live in the object, so
// one object serves many tiles.
template <class Real, class Sum>
class PanelProduct {
 public:
  PanelProduct(int64_t a_limit, int64_t b_limit)
      : stride_(round_up(b_limit, kPanelMultiple)),
        sums_size_(round_up(a_limit, kPanelMultiple) * stride_),
        a_(round_up(a_limit, kPanelMultiple) * kPanelDepth),
        b_(stride_ * kPanelDepth),
        sums_(sums_size_) {}

  struct Columns {
    MatrixView matrix;
    int64_t first, count;
  };

  // Over rows [begin, end); valid: 0 = skip the row, null = every row. Where A is B, what lies
  // below the diagonal is left out.
  void compute(const Columns& a, const Columns& b, int64_t begin, int64_t end,
               const uint8_t* valid = nullptr) {
    const int64_t panel = micro_kernel<Real, Sum>().panel;
    const bool same = a.matrix.data == b.matrix.data && a.first == b.first;
    std::memset(sums_.get(), 0, sizeof(Sum) * sums_size_);
    int64_t rows[kPanelDepth];
    while (begin < end) {
      int64_t depth = 0;
      for (; begin < end && depth < kPanelDepth; ++begin) {
        rows[depth] = begin;
        depth += !valid || valid[begin];
      }
      pack_panels(a.matrix, rows, depth, a.first, a.count, panel, a_.get());
      if (!same) pack_panels(b.matrix, rows, depth, b.first, b.count, panel, b_.get());
      multiply_panels(depth, a_.get(), a.count, same ? a_.get() : b_.get(), b.count, same,
                      sums_.get(), stride_);
    }
  }

  Sum* row(int64_t i) { return sums_.get() + i * stride_; }
  int64_t stride() const { return stride_; }

 private:
  int64_t stride_, sums_size_;
  Buffer<Real> a_, b_;
  Buffer<Sum> sums_;
};

}  // namespace fastprune
