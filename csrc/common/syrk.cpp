#include "syrk.h"

#include "target.h"

namespace fastprune {
namespace {

constexpr int64_t kSquare = 16;

// target += sums and mirrored = target^T, for a full square.
template <class Sum>
FASTPRUNE_CLONES void add_square(const Sum* sums, int64_t stride, Sum* target, Sum* mirrored,
                                 int64_t width) {
  Sum square[kSquare][kSquare];
  for (int64_t i = 0; i < kSquare; ++i) {
    for (int64_t j = 0; j < kSquare; ++j)
      square[i][j] = target[i * width + j] + sums[i * stride + j];
    for (int64_t j = 0; j < kSquare; ++j) target[i * width + j] = square[i][j];
  }
  for (int64_t j = 0; j < kSquare; ++j) {
    for (int64_t i = 0; i < kSquare; ++i) mirrored[j * width + i] = square[i][j];
  }
}

// The same for a ragged one, or with `upper` from the diagonal on.
template <class Sum>
void add_corner(const Sum* sums, int64_t stride, int64_t rows, int64_t columns, bool upper,
                Sum* target, Sum* mirrored, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = upper ? i : 0; j < columns; ++j) {
      const Sum sum = target[i * width + j] + sums[i * stride + j];
      target[i * width + j] = sum;
      mirrored[j * width + i] = sum;
    }
  }
}

}  // namespace

template <class Sum>
void add_mirrored(const Sum* sums, int64_t stride, const TriangleTiles& tiles, int64_t index,
                  Sum* out) {
  const auto [row, column] = tiles.pair(index);
  const int64_t rows = tiles.extent(row), columns = tiles.extent(column), width = tiles.width;
  Sum* target = out + row * tiles.block * width + column * tiles.block;
  Sum* mirrored = out + column * tiles.block * width + row * tiles.block;
  // Down the rows first: the mirrored squares then lie side by side.
  for (int64_t j = 0; j < columns; j += kSquare) {
    for (int64_t i = 0; i < (row == column ? j + 1 : rows); i += kSquare) {
      const int64_t height = std::min(kSquare, rows - i), length = std::min(kSquare, columns - j);
      const bool diagonal = row == column && i == j;
      const Sum* square = sums + i * stride + j;
      Sum* to = target + i * width + j;
      Sum* mirror = mirrored + j * width + i;
      if (height < kSquare || length < kSquare || diagonal) {
        add_corner(square, stride, height, length, diagonal, to, mirror, width);
      } else {
        add_square(square, stride, to, mirror, width);
      }
    }
  }
}

template void add_mirrored(const float*, int64_t, const TriangleTiles&, int64_t, float*);
template void add_mirrored(const double*, int64_t, const TriangleTiles&, int64_t, double*);

}  // namespace fastprune
