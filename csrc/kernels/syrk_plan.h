// How the work of gram and fisher_outer is cut into blocks: tiles of X^T X, and few tiles of many
// rows once more along the rows. Depends on the shapes alone, never on the device, so that a result
// is bitwise the same on every GPU.
#pragma once

#include "../common/index.cuh"
#include "../common/types.h"

namespace fastprune::syrk {

constexpr int kTile = 128;         // side of a tile of X^T X
constexpr int kPartialRows = 256;  // rows of a part, whose products are summed in f32
constexpr int kTileResults = kTile * kTile;

// Tiles of the triangle of a matrix of `width` columns. Kernels count them in 32 bits: 2^31 would
// be 140 TB.
inline int64_t tiles_of(int64_t width) { return triangle_tiles(ceil_div(width, kTile)); }

// The parts of a tile go to `splits` blocks, `split_parts` in a row to each. With more than one
// block to a tile, they leave partial tiles in the workspace for a second pass to sum.
struct Plan {
  int splits;
  int split_parts;
};

// Times are in units of that in which a GPU full of blocks sums one part each. The constants:
// writing that many partial tiles and reading them again.
//
// On an H100, 132 SMs hold two blocks each. A pair sums 256 rows in 65,536 cycles of FMA, 38 us at
// 1.7 GHz, or in about 8 us on the tensor cores. 264 tiles of f64 are 34 MB, so twice that at about
// 3 TB/s takes 23 us, f32 half as long.
constexpr double kCombineFma = 0.6;
constexpr double kCombineTensor = 3;

inline Plan plan_for(int64_t tiles, int64_t rows, DType dtype) {
  constexpr int kResident = 264;              // blocks at a time
  constexpr int kMostBlocks = 4 * kResident;  // more would take more than 132 MiB of workspace
  constexpr double kSecondPass = 1;           // launching it, and having partial tiles at all
  constexpr double kPerSplit = 1. / 64;       // a block of the second pass reads 32 KB per split
  const double combine = dtype == DType::f32 ? kCombineFma : kCombineTensor;
  const int parts = static_cast<int>(max_of(ceil_div(rows, kPartialRows), 1));

  Plan best = {1, parts};
  double best_cost = static_cast<double>(ceil_div(tiles, kResident)) * parts;
  for (int splits = 2; splits <= min_of(parts, kMostBlocks / max_of(tiles, 1)); ++splits) {
    const int split_parts = static_cast<int>(ceil_div(parts, splits));
    const Plan plan = {static_cast<int>(ceil_div(parts, split_parts)), split_parts};
    const int64_t blocks = tiles * plan.splits;
    const double cost = static_cast<double>(ceil_div(blocks, kResident)) * split_parts +
                        kSecondPass + kPerSplit * plan.splits +
                        combine * static_cast<double>(blocks) / kResident;
    if (cost < best_cost) {
      best = plan;
      best_cost = cost;
    }
  }
  return best;
}

// Elements of `out`'s type in the workspace.
inline int64_t workspace_elements(int64_t tiles, const Plan& plan) {
  return plan.splits == 1 ? 0 : tiles * plan.splits * kTileResults;
}

}  // namespace fastprune::syrk
