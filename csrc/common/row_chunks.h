// The rows of a matrix in chunks: how the SYRK cores pack and sum them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "panels.h"

namespace fastprune {

struct RowChunks {
  int64_t depth;  // rows

  // At least one, maybe empty: it is the first chunk that sets the sums.
  int64_t chunks() const { return std::max<int64_t>(1, (depth + kPanelDepth - 1) / kPanelDepth); }
  int64_t rows(int64_t chunk) const { return std::min(kPanelDepth, depth - chunk * kPanelDepth); }
};

}  // namespace fastprune
