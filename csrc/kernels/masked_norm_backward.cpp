// The derivatives of masked_norm on the CPU: chunks of rows, whose column sums stay in cache, so
// that both tensors stream through once. The chunks' sums are then added in order.
#include <algorithm>

#include "../common/buffer.h"
#include "masked_norm.h"
#include "masked_norm_rows.h"

namespace fastprune {
namespace {

using namespace masked_norm;

constexpr int64_t kColumnBlock = 512;  // columns of a task that adds the chunks up

// Sums over rows, by column.
template <class T>
struct ColumnSums {
  T* dy;
  T* dy_h;
};

// What a row is in its kept dimensions, and zeros elsewhere.
template <class T>
struct KeptRow {
  T* g;
  T* h;
};

template <class T>
FASTPRUNE_CLONES void derive_row(const Columns<T>& columns, const T* scale, bool centered,
                                 const T* dy, const T* x, T mean, T rstd, const KeptRow<T>& row,
                                 const ColumnSums<T>& sums, T* dx) {
  const T* gate = columns.gate;
  const int64_t width = columns.width;
  T *g = row.g, *h = row.h, *sum_dy = sums.dy, *sum_dy_h = sums.dy_h;
  for (int64_t i = 0; i < width; ++i) {
    const T any_h = (x[i] - mean) * rstd;
    h[i] = gate[i] != 0 ? any_h : T(0);
  }
  for (int64_t i = 0; i < width; ++i) {
    const T any_dy = dy[i];
    g[i] = gate[i] != 0 ? any_dy : T(0);
  }
  for (int64_t i = 0; i < width; ++i) {
    sum_dy[i] += g[i];
    sum_dy_h[i] += g[i] * h[i];
    g[i] *= scale[i];
  }
  const SumAndProduct found = sum_and_product(g, h, width);
  const T common = centered ? static_cast<T>(found.a / columns.kept) : T(0);
  const T along = static_cast<T>(found.ab / columns.kept);
  for (int64_t i = 0; i < width; ++i) {
    const T value = rstd * (g[i] - common - h[i] * along);
    dx[i] = gate[i] != 0 ? value : T(0);
  }
}

template <class T>
class Backward {
 public:
  explicit Backward(const MaskedNormBackwardArgs& args)
      : args_(args),
        owned_(args),
        scale_(args.width),
        partial_(chunks_of(args.rows) * 2 * args.width) {
    const Columns<T>& columns = owned_.columns;
    for (int64_t i = 0; i < args.width; ++i) {
      scale_.get()[i] = columns.gate[i] != 0 ? columns.gate[i] * columns.weight[i] : T(0);
    }
  }

  // The rows of a chunk: dx, and the chunk's column sums.
  void derive(int64_t chunk) const {
    const int64_t width = args_.width;
    const int64_t end = std::min((chunk + 1) * kChunkRows, args_.rows);
    const Buffer<T> scratch(2 * width);
    const KeptRow<T> row{scratch.get(), scratch.get() + width};
    const ColumnSums<T> sums = sums_of(chunk);
    std::fill(sums.dy, sums.dy + width, T(0));
    std::fill(sums.dy_h, sums.dy_h + width, T(0));
    for (int64_t i = chunk * kChunkRows; i < end; ++i) {
      T* dx = static_cast<T*>(args_.dx) + i * width;
      if (owned_.columns.kept == 0) {
        std::fill(dx, dx + width, T(0));
        continue;
      }
      derive_row(owned_.columns, scale_.get(), args_.centered, of(args_.dy) + i * width,
                 of(args_.x) + i * width, of(args_.mean)[i], of(args_.rstd)[i], row, sums, dx);
    }
  }

  // The columns of a block, over all chunks.
  void add_up(int64_t block) const {
    const int64_t first = block * kColumnBlock, end = std::min(first + kColumnBlock, args_.width);
    double sum_dy[kColumnBlock] = {}, sum_dy_h[kColumnBlock] = {};
    for (int64_t chunk = 0; chunk < chunks_of(args_.rows); ++chunk) {
      const ColumnSums<T> sums = sums_of(chunk);
      for (int64_t i = first; i < end; ++i) {
        sum_dy[i - first] += static_cast<double>(sums.dy[i]);
        sum_dy_h[i - first] += static_cast<double>(sums.dy_h[i]);
      }
    }
    const Columns<T>& columns = owned_.columns;
    for (int64_t i = first; i < end; ++i) {
      const double gate = columns.gate[i], one = sum_dy[i - first], h = sum_dy_h[i - first];
      const bool kept = gate != 0;
      static_cast<T*>(args_.dweight)[i] = static_cast<T>(kept ? gate * h : 0);
      static_cast<T*>(args_.dbias)[i] = static_cast<T>(kept && args_.bias ? gate * one : 0);
      static_cast<T*>(args_.dgate)[i] =
          static_cast<T>(kept ? columns.weight[i] * h + columns.bias[i] * one : 0);
    }
  }

  int64_t blocks() const { return (args_.width + kColumnBlock - 1) / kColumnBlock; }

 private:
  static const T* of(const void* values) { return static_cast<const T*>(values); }
  ColumnSums<T> sums_of(int64_t chunk) const {
    T* sums = partial_.get() + chunk * 2 * args_.width;
    return {sums, sums + args_.width};
  }

  const MaskedNormBackwardArgs& args_;
  const OwnedColumns<T> owned_;
  const Buffer<T> scale_;    // gate * weight
  const Buffer<T> partial_;  // [chunks, 2, width]
};

template <class T>
void run(const MaskedNormBackwardArgs& args, const TaskRunner& run_tasks) {
  const Backward<T> backward(args);
  run_tasks(chunks_of(args.rows), [&](int64_t chunk) { backward.derive(chunk); });
  run_tasks(backward.blocks(), [&](int64_t block) { backward.add_up(block); });
}

}  // namespace

Status masked_norm_backward_cpu(const MaskedNormBackwardArgs& args, const TaskRunner& run_tasks) {
  switch (args.dtype) {
    case DType::f32:
      run<float>(args, run_tasks);
      return Status::ok;
    case DType::f64:
      run<double>(args, run_tasks);
      return Status::ok;
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
