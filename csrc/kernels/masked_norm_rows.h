// What both directions of masked_norm on the CPU share: the columns, and sums along a row.
#pragma once

#include <cmath>
#include <vector>

#include "../common/lanes.h"

namespace fastprune::masked_norm {

// Rows of a task, whose sums over rows are added to those of others in order.
constexpr int64_t kChunkRows = 64;

inline int64_t chunks_of(int64_t rows) { return (rows + kChunkRows - 1) / kChunkRows; }

template <class T>
struct Columns {
  const T* weight;
  const T* bias;
  const T* gate;
  int64_t width;
  double kept;  // how many are
};

// The columns of a call, with zeros for a bias that it does not have.
template <class T>
struct OwnedColumns {
  template <class Args>
  explicit OwnedColumns(const Args& args)
      : zeros(args.bias ? 0 : args.width),
        columns{static_cast<const T*>(args.weight),
                args.bias ? static_cast<const T*>(args.bias) : zeros.data(),
                static_cast<const T*>(args.gate), args.width, 0} {
    for (int64_t i = 0; i < args.width; ++i) columns.kept += columns.gate[i] != 0;
  }
  OwnedColumns(const OwnedColumns&) = delete;

  std::vector<T> zeros;
  Columns<T> columns;
};

constexpr int64_t kLanes = 16;
using Sums = LaneSums<kLanes>;

template <class T>
FASTPRUNE_INLINE void add(const T* values, int64_t count, Sums& sums) {
  for (int64_t q = 0; q < count; ++q) sums.sums[q] += static_cast<double>(values[q]);
}

template <class T>
FASTPRUNE_INLINE double sum(const T* values, int64_t count) {
  Sums sums;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) add(values + i, kLanes, sums);
  add(values + i, count - i, sums);
  return sums.total();
}

template <class T>
FASTPRUNE_INLINE void add_products(const T* a, const T* b, int64_t count, Sums& sums) {
  for (int64_t q = 0; q < count; ++q) {
    sums.sums[q] += static_cast<double>(a[q]) * static_cast<double>(b[q]);
  }
}

template <class T>
FASTPRUNE_INLINE double sum_of_products(const T* a, const T* b, int64_t count) {
  Sums sums;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) add_products(a + i, b + i, kLanes, sums);
  add_products(a + i, b + i, count - i, sums);
  return sums.total();
}

}  // namespace fastprune::masked_norm
