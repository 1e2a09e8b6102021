// What both directions of masked_norm on the CPU share: the columns, and sums along a row.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../common/target.h"

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

// Sums of a row, in vectors side by side, so that additions need not wait for each other. A vector
// is never a parameter: how one is passed depends on the instruction set.
constexpr int64_t kLanes = 8;
constexpr int64_t kVectors = 4;
constexpr int64_t kStep = kLanes * kVectors;

typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));

template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <class T>
FASTPRUNE_INLINE const typename Lanes<T>::Vector& lanes(const T* values) {
  return *reinterpret_cast<const typename Lanes<T>::Vector*>(values);
}

FASTPRUNE_INLINE double total(const Doubles (&sums)[kVectors]) {
  const Doubles sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

// Over the kept dimensions, of values.
template <class T>
FASTPRUNE_INLINE double sum_kept(const T* values, const T* gate, int64_t count) {
  const typename Lanes<T>::Vector zeros = {};
  Doubles sums[kVectors] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int64_t q = 0; q < kVectors; ++q) {
      const int64_t at = i + q * kLanes;
      sums[q] +=
          __builtin_convertvector(lanes(gate + at) != 0 ? lanes(values + at) : zeros, Doubles);
    }
  }
  double rest = 0;
  for (; i < count; ++i) rest += gate[i] != 0 ? static_cast<double>(values[i]) : 0.0;
  return total(sums) + rest;
}

// The same of squared differences from `mean`.
template <class T>
FASTPRUNE_INLINE double sum_kept_squares(const T* values, T mean, const T* gate, int64_t count) {
  const typename Lanes<T>::Vector zeros = {};
  Doubles sums[kVectors] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int64_t q = 0; q < kVectors; ++q) {
      const int64_t at = i + q * kLanes;
      const Doubles deviation = __builtin_convertvector(
          lanes(gate + at) != 0 ? lanes(values + at) - mean : zeros, Doubles);
      sums[q] += deviation * deviation;
    }
  }
  double rest = 0;
  for (; i < count; ++i) {
    const auto deviation = static_cast<double>(values[i] - mean);
    rest += gate[i] != 0 ? deviation * deviation : 0.0;
  }
  return total(sums) + rest;
}

struct SumAndProduct {
  double a = 0;
  double ab = 0;
};

// The sums of a, and of a b.
template <class T>
FASTPRUNE_INLINE SumAndProduct sum_and_product(const T* a, const T* b, int64_t count) {
  Doubles sums[kVectors] = {}, products[kVectors] = {};
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int64_t q = 0; q < kVectors; ++q) {
      const int64_t at = i + q * kLanes;
      const Doubles value = __builtin_convertvector(lanes(a + at), Doubles);
      sums[q] += value;
      products[q] += value * __builtin_convertvector(lanes(b + at), Doubles);
    }
  }
  SumAndProduct rest;
  for (; i < count; ++i) {
    const auto value = static_cast<double>(a[i]);
    rest.a += value;
    rest.ab += value * static_cast<double>(b[i]);
  }
  return {total(sums) + rest.a, total(products) + rest.ab};
}

}  // namespace fastprune::masked_norm
