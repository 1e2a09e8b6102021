// out += X^T X, the core of gram and fisher_outer: one block of 256 threads per 128 x 128 tile of
// the lower triangle, whose mirror image it writes too.
//
// v1: 64 x 64 tiles, 4 x 4 results per thread, scalar loads, two barriers per 16 rows. 16 FMA per
// 32
//     bytes of shared memory, which takes as long as the FMA or longer; nothing hides the loads.
// v2: 128 x 128 tiles, 8 x 8 results per thread: 64 FMA per 64 bytes of shared memory, in four
//     conflict-free 16-byte loads, which take half as long as the FMA, or as long at worst. 16-byte
//     global loads where alignment permits; the next slab is fetched into registers during the
//     arithmetic; two buffers, one barrier per slab. Of 596 instructions in the loop 512 are FMA
//     (gathered columns: of 693). Should reach 65 to 80 % of the FMA peak, not far from cuBLAS, on
//     half of a GEMM's work. Halves go to the tensor cores (syrk_core.cuh).
//
//     Sums of 256 rows ("parts") are f32, the sum of the parts is Out. 64 f32 partial sums take
//     half of the 128 registers that let two blocks share an SM; 64 totals more would not fit,
//     least of all in f64. So each part is added to the tile in `out`, which this block alone owns
//     and which stays in L2: 128 KB (f64: 256 KB) of traffic per 32,768 cycles of FMA, 4 to 8 bytes
//     per cycle and SM of the 30 or more that L2 gives, while the other block of the SM computes.
//
//     Rows left out by `valid` are squeezed out per part, so padding costs no arithmetic.
//
//     Too few tiles for the GPU: rows are split over blocks, whose partial tiles a second pass adds
//     in a fixed order (syrk_plan.h).
// Next: asynchronous copies and wgmma for halves; skip the upper half of diagonal tiles.
#pragma once

#include "../common/launch.cuh"
#include "syrk_output.cuh"

namespace fastprune::syrk {

template <typename Element, typename Out>
struct alignas(32) Storage {
  union {
    Slab<Element> slabs[2][2];  // buffer, side
    Stage stage;
  };
  RowList rows;
  ColumnList<Element> columns;
  // About the tile in work; no register is left for this during the arithmetic.
  Panel<Element> panel;
  Target<Out> target;
  int last_part;
  bool vectors;
};

// core += the products of the `count` listed rows of the part. Called by the whole block.
template <bool kVector, typename Element, typename Out>
__device__ __forceinline__ void multiply_part(int part, int count, Storage<Element, Out>& shared,
                                              CoreOf<Element>& core) {
  using Loader = SlabLoader<Element, kVector>;
  constexpr int kDepth = Slab<Element>::kDepth;
  const int thread = thread_index();
  const Place place(thread);
  Loader loader(thread);
#pragma unroll
  for (int phase = 0; phase < Loader::kPhases; ++phase) {
    loader.fetch(shared.panel, part, shared.columns, shared.rows, 0, count, phase);
    loader.store(shared.slabs[0], phase);
  }
  __syncthreads();
  int buffer = 0;
  for (int row = 0; row < count; row += kDepth) {
    // The other buffer was read for the last time before the previous barrier.
#pragma unroll
    for (int phase = 0; phase < Loader::kPhases; ++phase) {
      loader.fetch(shared.panel, part, shared.columns, shared.rows, row + kDepth, count, phase);
      core.multiply(shared.slabs[buffer], place, phase, Loader::kPhases);
      loader.store(shared.slabs[buffer ^ 1], phase);
    }
    buffer ^= 1;
    __syncthreads();
  }
}

// Piece `split` of tile `tile` of out[width, width] += X^T X; `slot` is its place in the workspace.
template <typename Element, typename Out>
__device__ __forceinline__ void accumulate(const Panel<Element>& panel, int64_t tile,
                                           const Plan& plan, int split, int slot,
                                           Storage<Element, Out>& shared, Out* out,
                                           Out* workspace) {
  const TilePosition position = triangle_tile(tile);
  const int first_part = split * plan.split_parts;
  __syncthreads();  // the previous tile has been written
  if (threadIdx.x == 0) {
    shared.panel = panel;
    shared.target =
        plan.splits > 1 ? target_in(workspace, slot) : target_in(out, panel.width, position);
    shared.last_part = first_part + plan.split_parts - 1;  // parts past the last row are empty
    shared.vectors = vector_loads(panel);
  }
  list_columns(panel, position.row * kTile, position.column * kTile, shared.columns);
  __syncthreads();

  bool fresh = plan.splits > 1;
  for (int part = first_part;; ++part) {
    const int count = list_rows(shared.panel, part, shared.rows);
    if (count == 0 && part != shared.last_part) continue;
    CoreOf<Element> core;
    core.clear();
    if (shared.vectors) {
      multiply_part<true>(part, count, shared, core);
    } else {
      multiply_part<false>(part, count, shared, core);
    }
    const bool last = part == shared.last_part;
    for_each_quad(core, shared.stage, [&](int row, int column, const auto& value) {
      add_quad<1>(shared.target, row, column, value, fresh, last && !shared.target.partial);
    });
    if (last) break;
    fresh = false;
  }
}

// The second pass, by kCombineBlocks blocks per tile, a quad per thread: adds the partial tiles in
// slots first_slot, first_slot + tiles, ... to tile `tile` of out[width, width].
constexpr int kCombineBlocks = kTileResults / (kQuad * kQuad) / kThreads;

template <typename Out>
__device__ __forceinline__ void combine(int64_t width, int64_t tile, int64_t tiles,
                                        const Plan& plan, int64_t first_slot, int piece, Out* out,
                                        const Out* workspace) {
  const int index = piece * kThreads + threadIdx.x;
  const int row = index / (kTile / kQuad) * kQuad;
  const int column = index % (kTile / kQuad) * kQuad;
  Out quad[kQuad][kQuad] = {};
  for (int64_t split = 0; split < plan.splits; ++split) {
    const Out* partial =
        workspace + (first_slot + split * tiles) * kTileResults + row * kTile + column;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      Out four[kQuad];
      load_four(partial + i * kTile, four);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) quad[i][j] += four[j];
    }
  }
  add_quad<kQuad>(
      target_in(out, width, triangle_tile(tile)), row, column,
      [&](int i, int j) { return quad[i][j]; }, false, true);
}

}  // namespace fastprune::syrk
