#include "panels.h"

#include <algorithm>

#include "half.h"
#include "target.h"

namespace fastprune {
namespace {

template <class Stored, class Real>
FASTPRUNE_CLONES void pack_rows(const Stored* data, int64_t row_stride, const int64_t* rows,
                                int64_t depth, int64_t count, int64_t panel, Real* out) {
  for (int64_t p = 0; p < depth; ++p, out += panel) {
    const Stored* row = data + rows[p] * row_stride;
    for (int64_t j = 0; j < count; ++j) out[j] = static_cast<Real>(value_of(row[j]));
    for (int64_t j = count; j < panel; ++j) out[j] = 0;
  }
}

template <class Stored, class Real>
FASTPRUNE_CLONES void gather_rows(const Stored* data, int64_t row_stride, const int64_t* rows,
                                  int64_t depth, const int64_t* columns, int64_t count,
                                  int64_t panel, Real* out) {
  for (int64_t p = 0; p < depth; ++p, out += panel) {
    const Stored* row = data + rows[p] * row_stride;
    for (int64_t j = 0; j < count; ++j) out[j] = static_cast<Real>(value_of(row[columns[j]]));
    for (int64_t j = count; j < panel; ++j) out[j] = 0;
  }
}

template <class Stored, class Real>
void pack(const MatrixView& matrix, const int64_t* rows, int64_t depth, int64_t first,
          int64_t count, int64_t panel, Real* out) {
  const Stored* data = static_cast<const Stored*>(matrix.data);
  for (int64_t j = first; j < first + count; j += panel, out += panel * depth) {
    const int64_t width = std::min(panel, first + count - j);
    if (matrix.columns) {
      gather_rows(data, matrix.row_stride, rows, depth, matrix.columns + j, width, panel, out);
    } else {
      pack_rows(data + j, matrix.row_stride, rows, depth, width, panel, out);
    }
  }
}

}  // namespace

template <class Real>
void pack_panels(const MatrixView& matrix, const int64_t* rows, int64_t depth, int64_t first,
                 int64_t count, int64_t panel, Real* out) {
  switch (matrix.dtype) {
    case DType::f32:
      return pack<float>(matrix, rows, depth, first, count, panel, out);
    case DType::bf16:
      return pack<BFloat16>(matrix, rows, depth, first, count, panel, out);
    case DType::f16:
      return pack<Half>(matrix, rows, depth, first, count, panel, out);
    case DType::f64:
      return pack<double>(matrix, rows, depth, first, count, panel, out);
  }
}

template void pack_panels(const MatrixView&, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                          float*);
template void pack_panels(const MatrixView&, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                          double*);

}  // namespace fastprune
