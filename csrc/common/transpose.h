// Transposed copy in small squares: a plain loop would touch a new cache line for every number.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastprune {

// target[j][i] = source[i][j] for i < rows, j < columns.
template <class Source, class Target>
void transpose(const Source* source, int64_t source_stride, int64_t rows, int64_t columns,
               Target* target, int64_t target_stride) {
  constexpr int64_t kSquare = 16;
  for (int64_t j0 = 0; j0 < columns; j0 += kSquare) {
    const int64_t j_end = std::min(j0 + kSquare, columns);
    for (int64_t i0 = 0; i0 < rows; i0 += kSquare) {
      const int64_t i_end = std::min(i0 + kSquare, rows);
      for (int64_t j = j0; j < j_end; ++j) {
        for (int64_t i = i0; i < i_end; ++i) {
          target[j * target_stride + i] = static_cast<Target>(source[i * source_stride + j]);
        }
      }
    }
  }
}

}  // namespace fastprune
