// masked_norm on the CPU: a row stays in the first cache from its mean to its result. Closed
// dimensions become zeros there, by a choice and not by a product, which NaN would survive.
#include "masked_norm.h"

#include <algorithm>

#include "masked_norm_rows.h"

namespace fastprune {
namespace {

using namespace masked_norm;

template <class T>
FASTPRUNE_CLONES void normalise_row(const Columns<T>& columns, bool centered, double eps,
                                    const T* x, T* y, T* mean, T* rstd) {
  const T *weight = columns.weight, *bias = columns.bias, *gate = columns.gate;
  const int64_t width = columns.width;
  const T m = centered ? static_cast<T>(sum_kept(x, gate, width) / columns.kept) : T(0);
  const double variance = sum_kept_squares(x, m, gate, width) / columns.kept;
  const T r = static_cast<T>(1 / std::sqrt(variance + eps));
  for (int64_t i = 0; i < width; ++i) {
    const T value = gate[i] * (weight[i] * ((x[i] - m) * r) + bias[i]);
    y[i] = gate[i] != 0 ? value : T(0);
  }
  *mean = m;
  *rstd = r;
}

template <class T>
void run(const MaskedNormArgs& args, int64_t begin, int64_t end) {
  const OwnedColumns<T> owned(args);
  const Columns<T>& columns = owned.columns;
  T *mean = static_cast<T*>(args.mean), *rstd = static_cast<T*>(args.rstd);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(args.x) + i * args.width;
    T* y = static_cast<T*>(args.y) + i * args.width;
    if (columns.kept == 0) {
      std::fill(y, y + args.width, T(0));
      mean[i] = rstd[i] = 0;
    } else {
      normalise_row(columns, args.centered, args.eps, x, y, mean + i, rstd + i);
    }
  }
}

}  // namespace

int64_t masked_norm_pieces(const MaskedNormArgs& args) { return chunks_of(args.rows); }

Status masked_norm_cpu(const MaskedNormArgs& args, int64_t begin, int64_t end) {
  begin *= kChunkRows, end = std::min(end * kChunkRows, args.rows);
  switch (args.dtype) {
    case DType::f32:
      run<float>(args, begin, end);
      return Status::ok;
    case DType::f64:
      run<double>(args, begin, end);
      return Status::ok;
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
