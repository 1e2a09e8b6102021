// Slabs of X on their way to shared memory: kDepth listed rows of the 128 columns on the left and
// on the right of a tile. A thread fetches its share into registers while the block multiplies the
// slab before, and stores it afterwards. A whole slab of single elements would take too many
// registers on its way: without vectors this happens in phases, a share of the slab each.
#pragma once

#include "../common/convert.cuh"
#include "syrk_rows.cuh"

namespace fastprune::syrk {

template <typename Element>
struct Slab {
  // 8 rows of f32 keep 256 threads busy for 1024 cycles of FMA. Tensor cores are through with 32
  // rows of halves in a quarter to half of that.
  static constexpr int kDepth = sizeof(Element) == 4 ? 8 : 32;
  // Tensor cores read eight rows at once, so those of halves must start in different banks.
  static constexpr int kPad = sizeof(Element) == 4 ? 0 : 8;

  Element values[kDepth][kTile + kPad];
};

// Elements on their way are bits: two halves kept apart would take two registers.
template <typename Element>
using BitsOf = std::conditional_t<sizeof(Element) == 4, uint32_t, uint16_t>;

// Where the columns on either side of a tile are in the first row of X; null past the edge. In
// shared memory, to leave the registers to the arithmetic.
template <typename Element>
struct ColumnList {
  const BitsOf<Element>* columns[2][kTile];
};

// Called by the whole block; list_rows() tells it when the list is there.
template <typename Element>
__device__ __forceinline__ void list_columns(const Panel<Element>& panel, int64_t first_left,
                                             int64_t first_right, ColumnList<Element>& list) {
  static_assert(kThreads == 2 * kTile);  // a thread per column
  const int thread = thread_index();
  const int place = thread % kTile;
  const int side = thread / kTile;
  const int64_t column = (side == 0 ? first_left : first_right) + place;
  const auto* bits = reinterpret_cast<const BitsOf<Element>*>(panel.data);
  list.columns[side][place] =
      column < panel.width ? bits + (panel.columns ? panel.columns[column] : column) : nullptr;
}

// `kVector`: 16 bytes per access, for which columns must be in order and aligned; otherwise words
// of 4 bytes are put together from one or two columns.
template <typename Element, bool kVector>
class SlabLoader {
 public:
  __device__ __forceinline__ explicit SlabLoader(int thread) : thread_(thread) {}

  // Fragments of f16 take twice the registers of those of bf16.
  static constexpr int kPhases =
      kVector ? (std::is_same_v<Element, __half> ? 2 : 1) : (sizeof(Element) == 4 ? 2 : 4);

  // Fetches this phase's share of the rows [first, first + kDepth) of `count` listed in the part.
  __device__ __forceinline__ void fetch(const Panel<Element>& panel, int part,
                                        const ColumnList<Element>& columns, const RowList& rows,
                                        int first, int count, int phase) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      next_[0][pass] = next_[1][pass] = {};
      const int position = first + own_row(phase * kPasses + pass);
      if (position >= count) continue;
      const int64_t row = (int64_t{part} * kPartialRows + rows.rows[position]) * panel.row_stride;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const auto& own = columns.columns[side];
        if constexpr (kVector) {
          const auto* column = own[own_column()];
          if (column) next_[side][pass] = *reinterpret_cast<const Chunk*>(column + row);
        } else {
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            const auto* column = own[own_column() + i];
            if (column) next_[side][pass].values[0] |= uint32_t{column[row]} << 16 * i;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void store(Slab<Element> (&slabs)[2], int phase) const {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        Element* to = &slabs[side].values[own_row(phase * kPasses + pass)][own_column()];
        *reinterpret_cast<Chunk*>(to) = next_[side][pass];
      }
    }
  }

 private:
  static constexpr int kWords = kVector ? 4 : 1;                              // at a time
  static constexpr int kWidth = kWords * sizeof(uint32_t) / sizeof(Element);  // in elements
  static constexpr int kChunks = kTile / kWidth;                              // per row
  static constexpr int kRowsPerPass = kThreads / kChunks;
  static constexpr int kPasses = Slab<Element>::kDepth / kRowsPerPass / kPhases;
  using Chunk = Pack<uint32_t, kWords>;

  __device__ __forceinline__ int own_row(int pass) const {
    return thread_ / kChunks + pass * kRowsPerPass;
  }
  __device__ __forceinline__ int own_column() const { return thread_ % kChunks * kWidth; }

  int thread_;
  Chunk next_[2][kPasses];
};

// Whether 16-byte accesses will do.
template <typename Element>
__device__ __forceinline__ bool vector_loads(const Panel<Element>& panel) {
  constexpr int64_t kWidth = 16 / sizeof(Element);
  return !panel.columns && reinterpret_cast<uintptr_t>(panel.data) % 16 == 0 &&
         panel.row_stride % kWidth == 0 && panel.width % kWidth == 0;
}

}  // namespace fastprune::syrk
