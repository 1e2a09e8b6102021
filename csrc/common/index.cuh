// Index arithmetic shared by host and device. Everything is 64-bit: a Gram matrix of 65,536
// columns already has 2^32 elements.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FASTPRUNE_HOST_DEVICE __host__ __device__
#else
#define FASTPRUNE_HOST_DEVICE
#endif

namespace fastprune {

FASTPRUNE_HOST_DEVICE constexpr int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

FASTPRUNE_HOST_DEVICE constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
FASTPRUNE_HOST_DEVICE constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Tiles of a lower triangle, diagonal included, `side` tiles on each axis.
FASTPRUNE_HOST_DEVICE constexpr int64_t triangle_tiles(int64_t side) {
  return side * (side + 1) / 2;
}

struct TilePosition {
  int64_t row;
  int64_t column;  // <= row
};

// The inverse of tile = row * (row + 1) / 2 + column. The square root may be off by one at either
// end of a row once `tile` outgrows the 53-bit mantissa, hence the two corrections.
FASTPRUNE_HOST_DEVICE inline TilePosition triangle_tile(int64_t tile) {
  int64_t row = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(tile) + 1.0) - 1.0) / 2.0);
  while (triangle_tiles(row) > tile) --row;
  while (triangle_tiles(row + 1) <= tile) ++row;
  return {row, tile - triangle_tiles(row)};
}

}  // namespace fastprune
