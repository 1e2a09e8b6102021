// X^T X in square tiles of the upper triangle.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "panels.h"

namespace fastprune {

// A tile costs block^2 products for 2 * block packed numbers, so big blocks amortise reading them
// and small ones give idle threads something to take.
inline int64_t syrk_block(int64_t width) {
  return (width > 768 ? 4 : width > 96 ? 2 : 1) * kPanelMultiple;
}

// The tiles of one triangle, row by row: (0,0) (0,1) .. (1,1) (1,2) ..
struct TriangleTiles {
  int64_t width;
  int64_t block;

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

// Rows that do not fit into this much memory when packed are added in several passes. From 32 MiB
// on, glibc returns memory at once, and fresh pages would cost as much as packing.
constexpr int64_t kPackedBytes = 28 << 20;

// Adds X^T X over the valid rows (null = all) to `out` [width, width], both triangles. Rows are
// packed once for all tiles. A core packs and multiplies:
//
//   Core::kMultiple       tiles begin at a multiple of this many columns
//   Core::bytes           memory of packed rows
//   core.pack             columns [first, first + count) of a chunk of the listed rows
//   core.multiply         sums[i][j] = sum over all rows p of x[p][a + i] * x[p][b + j], over a
//                         chunk in f32, over the chunks in Sum; extents are rounded up to
//                         kMultiple, and if a == b, what lies below the diagonal is undefined
template <class Core, class Sum>
void accumulate_syrk(const MatrixView& matrix, int64_t width, int64_t row_count,
                     const uint8_t* valid, Sum* out, const TaskRunner& run) {
  std::vector<int64_t> rows;
  rows.reserve(row_count);
  for (int64_t row = 0; row < row_count; ++row) {
    if (!valid || valid[row]) rows.push_back(row);
  }
  const int64_t count = static_cast<int64_t>(rows.size());
  const TriangleTiles tiles{width, round_up(syrk_block(width), Core::kMultiple)};
  // Whole chunks, so where a pass ends does not change them.
  const int64_t chunk_bytes = std::max<int64_t>(1, Core::bytes(kPanelDepth, width));
  const int64_t pass = std::max<int64_t>(1, kPackedBytes / chunk_bytes) * kPanelDepth;
  Buffer<char> memory(Core::bytes(std::min(pass, count), width));

  int64_t begin = 0;
  do {
    const Core packed(std::min(pass, count - begin), width, memory.get());
    run(packed.chunks() * tiles.blocks(), [&](int64_t task) {
      const int64_t chunk = task / tiles.blocks(), block = task % tiles.blocks();
      packed.pack(matrix, rows.data() + begin, chunk, block * tiles.block, tiles.extent(block));
    });
    run(tiles.count(), [&](int64_t index) {
      const auto [row, column] = tiles.pair(index);
      Buffer<Sum> sums(tiles.block * tiles.block);
      packed.multiply(row * tiles.block, tiles.extent(row), column * tiles.block,
                      tiles.extent(column), sums.get(), tiles.block);
      add_mirrored(sums.get(), tiles.block, tiles, index, out);
    });
    begin += pass;
  } while (begin < count);
}

}  // namespace fastprune
