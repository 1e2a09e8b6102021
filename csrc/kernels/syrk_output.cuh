// Where a tile of X^T X goes, a quad (4 x 4 results) at a time.
#pragma once

#include "syrk_core.cuh"

namespace fastprune::syrk {

template <typename Out>
struct Target {
  Out* tile;    // its first result
  Out* mirror;  // the first result of the transposed tile; for a partial tile, of the tile
  int64_t stride;
  int rows, columns;  // how many of the tile exist
  bool diagonal;      // only the lower half exists
  bool vectors;       // 16-byte accesses are aligned
  bool partial;       // in the workspace, which has no mirror images
};

// The tile at `position` of the triangle of out[width, width], and its mirror image.
template <typename Out>
__device__ __forceinline__ Target<Out> target_in(Out* out, int64_t width, TilePosition position) {
  const int64_t row = position.row * kTile;
  const int64_t column = position.column * kTile;
  return {out + row * width + column,
          out + column * width + row,
          width,
          static_cast<int>(min_of(kTile, width - row)),
          static_cast<int>(min_of(kTile, width - column)),
          row == column,
          reinterpret_cast<uintptr_t>(out) % 16 == 0 && width * sizeof(Out) % 16 == 0,
          false};
}

// A partial tile.
template <typename Out>
__device__ __forceinline__ Target<Out> target_in(Out* workspace, int64_t slot) {
  Out* tile = workspace + slot * kTileResults;
  return {tile, tile, kTile, kTile, kTile, false, true, true};
}

// Four neighbours in memory; `to` and `from` are multiples of 16 bytes.
template <typename Out>
__device__ __forceinline__ void load_four(const Out* from, Out (&four)[kQuad]) {
  constexpr int kWidth = 16 / sizeof(Out);
#pragma unroll
  for (int j = 0; j < kQuad; j += kWidth) {
    const auto pack = *reinterpret_cast<const Pack<Out, kWidth>*>(from + j);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) four[j + i] = pack.values[i];
  }
}

template <typename Out>
__device__ __forceinline__ void store_four(Out* to, const Out (&four)[kQuad]) {
  constexpr int kWidth = 16 / sizeof(Out);
#pragma unroll
  for (int j = 0; j < kQuad; j += kWidth) {
    Pack<Out, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.values[i] = four[j + i];
    *reinterpret_cast<Pack<Out, kWidth>*>(to + j) = pack;
  }
}

// Adds the quad to what the target holds at (row, column), or puts it there if `fresh`; writes the
// mirror image of the sum if `mirrored`. What is above the diagonal is never read. `kUnroll`: 1 if
// value(i, j) may be asked for what is not a constant, else kQuad.
template <int kUnroll, typename Value, typename Out>
__device__ __forceinline__ void add_quad(Target<Out> target, int row, int column,
                                         const Value& value, bool fresh, bool mirrored) {
  if (row >= target.rows || column >= target.columns || (target.diagonal && column > row)) return;
  Out* place = target.tile + row * target.stride + column;
  Out* mirror = target.mirror + column * target.stride + row;
  const bool whole = target.vectors && row + kQuad <= target.rows &&
                     column + kQuad <= target.columns && !(target.diagonal && column == row);
  if (whole) {
    constexpr int kRows = 16 / sizeof(Out);  // as many as make 16 bytes of the mirror image
#pragma unroll
    for (int first = 0; first < kQuad; first += kRows) {
      Out sum[kRows][kQuad] = {};
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (!fresh) load_four(place + (first + i) * target.stride, sum[i]);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j) sum[i][j] += static_cast<Out>(value(first + i, j));
        store_four(place + (first + i) * target.stride, sum[i]);
      }
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        Pack<Out, kRows> turned;
#pragma unroll
        for (int i = 0; i < kRows; ++i) turned.values[i] = sum[i][j];
        auto* to = reinterpret_cast<Pack<Out, kRows>*>(mirror + j * target.stride + first);
        if (mirrored) *to = turned;
      }
    }
    return;
  }
#pragma unroll kUnroll
  for (int i = 0; i < kQuad; ++i) {
#pragma unroll kUnroll
    for (int j = 0; j < kQuad; ++j) {
      if (row + i >= target.rows || column + j >= target.columns) continue;
      if (target.diagonal && column + j > row + i) continue;
      Out& result = place[i * target.stride + j];
      const Out sum = (fresh ? Out(0) : result) + static_cast<Out>(value(i, j));
      result = sum;
      if (mirrored) mirror[j * target.stride + i] = sum;
    }
  }
}

}  // namespace fastprune::syrk
