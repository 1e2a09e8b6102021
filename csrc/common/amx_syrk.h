// The SYRK core in AMX tiles: packs every row once, then multiplies in tiles of the upper triangle.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "amx.h"
#include "syrk.h"

namespace fastprune::amx {

// Rows that do not fit into this much memory in both forms are added in several passes. From
// 32 MiB on, glibc returns memory at once, and fresh pages would cost more than packing does.
constexpr int64_t kPackedBytes = 28 << 20;

// Adds X^T X over the valid rows (null = all) to `out` [width, width], both triangles.
template <class Sum>
void accumulate_syrk(const MatrixView& matrix, int64_t width, int64_t row_count,
                     const uint8_t* valid, Sum* out, const TaskRunner& run) {
  std::vector<int64_t> rows;
  rows.reserve(row_count);
  for (int64_t row = 0; row < row_count; ++row) {
    if (!valid || valid[row]) rows.push_back(row);
  }
  const int64_t count = static_cast<int64_t>(rows.size());
  const TriangleTiles tiles(width, round_up(syrk_block(width), kStrip));
  const auto strips = [](int64_t columns) { return (columns + kStrip - 1) / kStrip; };

  const int64_t chunk_bytes = 2 * sizeof(BFloat16) * PackedRows::size(kPanelDepth, strips(width));
  // Whole chunks, so where a pass ends does not change them.
  const int64_t pass =
      std::max<int64_t>(1, kPackedBytes / std::max<int64_t>(1, chunk_bytes)) * kPanelDepth;
  const int64_t size = PackedRows::size(std::min(pass, count), strips(width));
  Buffer<BFloat16> forms(2 * size);

  int64_t begin = 0;
  do {
    const PackedRows packed{std::min(pass, count - begin), strips(width), forms.get(),
                            forms.get() + size};
    run(packed.chunks() * tiles.blocks(), [&](int64_t task) {
      const int64_t block = task % tiles.blocks();
      pack_strips(matrix, rows.data() + begin, task / tiles.blocks(), block * tiles.block,
                  tiles.extent(block), packed);
    });
    run(tiles.count(), [&](int64_t index) {
      const auto [row, column] = tiles.pair(index);
      const int64_t a = strips(row * tiles.block), b = strips(column * tiles.block);
      Buffer<Sum> sums(tiles.block * tiles.block);
      multiply_strips(packed, a, a + strips(tiles.extent(row)), b, b + strips(tiles.extent(column)),
                      sums.get(), tiles.block);
      add_mirrored(sums.get(), tiles.block, tiles, index, out);
    });
    begin += pass;
  } while (begin < count);
}

}  // namespace fastprune::amx
