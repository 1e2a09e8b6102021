// Products of bfloat16 matrices in AMX tiles, on the CPUs that have them.
//
// An operand is packed in strips of kStrip columns. 32 rows of a strip, a step, are two tiles of 16
// columns and 1 KiB each. A line of a tile is one column in the left form of an operand and a pair
// of rows, number by number in turn, in its right form: one is the other transposed by pairs.
//
// AMX sums products in f32 and takes bfloat16 numbers below 2^-126 in magnitude for zero.
#pragma once

#include <cstdint>

#include "half.h"
#include "row_chunks.h"

namespace fastprune::amx {

constexpr int64_t kStrip = 32;
constexpr int64_t kStepRows = 32;
constexpr int64_t kTile = 16 * kStepRows;  // numbers

// Whether the CPU has the tiles and the kernel lends them to this process. Asked for once;
// FASTPRUNE_AMX=off says no. Nothing else here may be called without them.
bool available();

// The bf16 core of a SYRK.
struct StripRows : RowChunks {
  int64_t strips;   // of all columns
  BFloat16* left;   // by chunks, then by strips
  BFloat16* right;  // the same in the right form

  static constexpr int64_t kMultiple = kStrip;
  static int64_t steps(int64_t rows) { return (rows + kStepRows - 1) / kStepRows; }
  static int64_t size(int64_t rows, int64_t strips) { return steps(rows) * strips * 2 * kTile; }
  static int64_t bytes(int64_t depth, int64_t width) {
    return 2 * size(depth, round_up(width, kStrip) / kStrip) * sizeof(BFloat16);
  }
  StripRows(int64_t row_count, int64_t width, void* memory)
      : RowChunks{row_count},
        strips(round_up(width, kStrip) / kStrip),
        left(static_cast<BFloat16*>(memory)),
        right(left + size(row_count, strips)) {}

  int64_t offset(int64_t chunk, int64_t column) const {
    return size(kPanelDepth, chunk * strips) + size(rows(chunk), column / kStrip);
  }

  void pack(const MatrixView& matrix, const int64_t* listed, int64_t chunk, int64_t first,
            int64_t count) const;
  template <class Sum>
  void multiply(int64_t a, int64_t a_count, int64_t b, int64_t b_count, Sum* sums,
                int64_t stride) const;
};

}  // namespace fastprune::amx
