// Products of bfloat16 matrices in AMX tiles, on the CPUs that have them.
//
// An operand is packed in strips of kStrip columns. 32 rows of a strip, a step, are two tiles of 16
// columns and 1 KiB each. A line of a tile is one column in the left form of an operand and a pair
// of rows, number by number in turn, in its right form: one is the other transposed by pairs.
//
// AMX sums products in f32 and takes bfloat16 numbers below 2^-126 in magnitude for zero.
#pragma once

#include <algorithm>
#include <cstdint>

#include "half.h"
#include "panels.h"

namespace fastprune::amx {

constexpr int64_t kStrip = 32;
constexpr int64_t kStepRows = 32;
constexpr int64_t kTile = 16 * kStepRows;  // numbers

// Whether the CPU has the tiles and the kernel lends them to this process. Asked for once;
// FASTPRUNE_AMX=off says no. Nothing else here may be called without them.
bool available();

// Where both forms of some rows of a matrix lie: in chunks of kPanelDepth rows, strip after strip.
struct PackedRows {
  int64_t depth;   // rows
  int64_t strips;  // of all columns
  BFloat16* left;
  BFloat16* right;

  static int64_t steps(int64_t rows) { return (rows + kStepRows - 1) / kStepRows; }
  static int64_t size(int64_t rows, int64_t strips) { return steps(rows) * strips * 2 * kTile; }

  // At least one, maybe empty: it is the first chunk that sets the sums.
  int64_t chunks() const { return std::max<int64_t>(1, (depth + kPanelDepth - 1) / kPanelDepth); }
  int64_t rows(int64_t chunk) const { return std::min(kPanelDepth, depth - chunk * kPanelDepth); }
  int64_t offset(int64_t chunk, int64_t strip) const {
    return size(kPanelDepth, chunk * strips) + size(rows(chunk), strip);
  }
};

// Packs a chunk of columns [first, first + count) of the listed bf16 rows; `first` is the first
// column of a strip. Missing rows and columns are zero.
void pack_strips(const MatrixView& matrix, const int64_t* rows, int64_t chunk, int64_t first,
                 int64_t count, const PackedRows& packed);

// sums[i][j] = sum over all rows p of x[p][i] * x[p][j], for columns i of the strips [a, a_end) and
// j of [b, b_end). Over a chunk in f32, over the chunks in Sum. Where a is b, what lies wholly
// below the diagonal is left out.
template <class Sum>
void multiply_strips(const PackedRows& packed, int64_t a, int64_t a_end, int64_t b, int64_t b_end,
                     Sum* sums, int64_t stride);

}  // namespace fastprune::amx
