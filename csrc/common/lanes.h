// Sums of a row on the CPU, in several parts side by side: so a long sum is a loop of vectors, in
// an order that is the same on every CPU.
#pragma once

#include <cstdint>

#include "target.h"

namespace fastprune {

template <int64_t Lanes>
struct LaneSums {
  double sums[Lanes] = {};

  FASTPRUNE_INLINE double total() const {
    double total = 0;
    for (double sum : sums) total += sum;
    return total;
  }
};

}  // namespace fastprune
