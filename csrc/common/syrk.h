// The SYRK core: X^T X in square tiles of the upper triangle, shared by every kernel that needs it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "panels.h"

namespace fastprune {

// A tile pair costs block^2 products for 2 * block packed numbers, so big blocks amortise packing
// and small ones give idle threads something to take.
inline int64_t syrk_block(int64_t width) {
  return (width > 768 ? 4 : width > 96 ? 2 : 1) * kPanelMultiple;
}

// The tiles of one triangle, row by row: (0,0) (0,1) .. (1,1) (1,2) ..
struct TriangleTiles {
  int64_t width;
  int64_t block;

  explicit TriangleTiles(int64_t columns) : TriangleTiles(columns, syrk_block(columns)) {}
  TriangleTiles(int64_t columns, int64_t block_columns) : width(columns), block(block_columns) {}

  int64_t blocks() const { return (width + block - 1) / block; }
  int64_t count() const { return blocks() * (blocks() + 1) / 2; }
  int64_t extent(int64_t index) const { return std::min(block, width - index * block); }

  struct Pair {
    int64_t row, column;
  };
  Pair pair(int64_t tile) const {
    int64_t row = 0;
    for (int64_t length = blocks(); tile >= length; --length, ++row) tile -= length;
    return {row, row + tile};
  }
};

// Adds a tile of sums to `out` [width, width] and mirrors it, so both triangles agree bitwise. Of a
// tile on the diagonal only the upper triangle is read.
template <class Sum>
void add_mirrored(const Sum* sums, int64_t stride, const TriangleTiles& tiles, int64_t index,
                  Sum* out);

// Adds X^T X of one tile to `out`.
template <class Sum>
void accumulate_syrk_tile(const MatrixView& matrix, int64_t rows, const uint8_t* valid,
                          const TriangleTiles& tiles, int64_t index, Sum* out) {
  const auto [row, column] = tiles.pair(index);
  const int64_t a = row * tiles.block, a_count = tiles.extent(row);
  const int64_t b = column * tiles.block, b_count = tiles.extent(column);
  PanelProduct<float, Sum> product(a_count, b_count);
  product.compute({matrix, a, a_count}, {matrix, b, b_count}, 0, rows, valid);
  add_mirrored(product.row(0), product.stride(), tiles, index, out);
}

}  // namespace fastprune
