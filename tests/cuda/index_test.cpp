// Checks csrc/common/index.cuh where 32-bit arithmetic, or the rounding of a square root, would
// fail. Silent and 0 if all is well.
#include "common/index.cuh"

#include <cstdio>

using namespace fastprune;

namespace {

int failures = 0;

void expect_tile(int64_t tile, int64_t row, int64_t column) {
  const TilePosition position = triangle_tile(tile);
  if (position.row == row && position.column == column) return;
  ++failures;
  std::printf("triangle_tile(%lld) = (%lld, %lld), not (%lld, %lld)\n",
              static_cast<long long>(tile), static_cast<long long>(position.row),
              static_cast<long long>(position.column), static_cast<long long>(row),
              static_cast<long long>(column));
}

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("not true: %s\n", what);
}

}  // namespace

int main() {
  constexpr int64_t k31 = int64_t{1} << 31;

  // Every tile of a small triangle, in order.
  int64_t tile = 0;
  for (int64_t row = 0; row < 300; ++row) {
    for (int64_t column = 0; column <= row; ++column) expect_tile(tile++, row, column);
  }
  // First and last tile of rows around powers of two, up to 2^61 tiles.
  for (int power = 9; power <= 30; ++power) {
    for (int64_t row = (int64_t{1} << power) - 2; row <= (int64_t{1} << power) + 2; ++row) {
      const int64_t first = row * (row + 1) / 2;
      expect_tile(first, row, 0);
      expect_tile(first + row, row, row);
      expect(triangle_tiles(row) == first, "triangle_tiles counts the rows above");
    }
  }

  expect(ceil_div(0, 64) == 0 && ceil_div(1, 64) == 1 && ceil_div(64, 64) == 1, "ceil_div, small");
  expect(ceil_div(65 * k31 + 1, 65) == k31 + 1, "ceil_div, beyond 2^31");
  expect(triangle_tiles(k31) == k31 / 2 * (k31 + 1), "triangle_tiles, beyond 2^31");
  expect(min_of(k31, k31 + 1) == k31 && max_of(-k31, k31) == k31, "min_of and max_of");
  return failures != 0;
}
