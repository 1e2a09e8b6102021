// The arithmetic of a 128 x 128 tile: 8 warps, 4 x 2 of them, each with 32 x 64 results. A thread
// hands out four quads (4 x 4 results) at the same places whichever core computed them.
#pragma once

#include <mma.h>

#include "syrk_slab.cuh"

namespace fastprune::syrk {

constexpr int kQuad = 4;
constexpr int kWarpRows = 32;
constexpr int kWarpColumns = 64;
constexpr int kQuadRows = 16;     // of a warp, between a thread's first and second quad
constexpr int kQuadColumns = 32;  // likewise

// Where a thread's first quad is. Among the 4 x 8 lanes of a warp, eight in a row read two
// different quads of rows and four of columns, so that a 16-byte load of the warp costs no more
// than the different data it returns.
struct Place {
  int warp, warp_row, warp_column, lane_row, lane_column;

  __device__ __forceinline__ explicit Place(int thread)
      : warp(thread / kWarpSize),
        warp_row(warp / 2 * kWarpRows),
        warp_column(warp % 2 * kWarpColumns),
        lane_row((thread % kWarpSize / 16 * 2 + thread % 2) * kQuad),
        lane_column(thread % 16 / 2 * kQuad) {}
};

// Results leave a core through shared memory, a quad per lane at a time: which lane of a tensor
// core holds what is not specified, and indexing from there takes fewer registers. Eight rows of 36
// floats start in different banks. It may lie where the slabs were, once the block is done with
// them.
using WarpStage = float[kQuadRows][kQuadColumns + 4];
using Stage = WarpStage[kThreads / kWarpSize];

// f32 by plain FMA, never TF32: 8 x 8 results per thread. 64 FMA for 64 bytes of shared memory.
class FmaCore {
 public:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2 * kQuad; ++i) {
#pragma unroll
      for (int j = 0; j < 2 * kQuad; ++j) partial_[i][j] = 0;
    }
  }

  // Does this phase's share of the slabs' arithmetic.
  __device__ __forceinline__ void multiply(const Slab<float> (&slabs)[2], const Place& place,
                                           int phase, int phases) {
    const int rows = Slab<float>::kDepth / phases;
    const int row = place.warp_row + place.lane_row;
    const int column = place.warp_column + place.lane_column;
#pragma unroll
    for (int k = phase * rows; k < (phase + 1) * rows; ++k) {
      Pack<float, kQuad> left[2], right[2];
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        left[q] = quad_at(&slabs[0].values[k][row + q * kQuadRows]);
        right[q] = quad_at(&slabs[1].values[k][column + q * kQuadColumns]);
      }
#pragma unroll
      for (int i = 0; i < 2 * kQuad; ++i) {
#pragma unroll
        for (int j = 0; j < 2 * kQuad; ++j) {
          partial_[i][j] += left[i / kQuad].values[i % kQuad] * right[j / kQuad].values[j % kQuad];
        }
      }
    }
  }

  // Quads (qi, qj) of the warp's lanes.
  __device__ __forceinline__ void put(int qi, int qj, const Place& place, WarpStage& stage) const {
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        stage[place.lane_row + i][place.lane_column + j] = partial_[qi * kQuad + i][qj * kQuad + j];
      }
    }
  }

 private:
  __device__ __forceinline__ static Pack<float, kQuad> quad_at(const float* from) {
    return *reinterpret_cast<const Pack<float, kQuad>*>(from);
  }

  float partial_[2 * kQuad][2 * kQuad];
};

// X^T from the left slab, whose rows are the inner dimension, and X from the right one.
constexpr int kSide = 16;  // of a fragment
template <typename Element>
using LeftFragment = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, kSide, kSide, kSide, Element,
                                            nvcuda::wmma::col_major>;
template <typename Element>
using RightFragment = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, kSide, kSide, kSide, Element,
                                             nvcuda::wmma::row_major>;

// load_matrix_sync() from shared memory. For bf16, mma.h only has loads from anywhere, which the
// compiler takes apart into 4-byte loads and transpositions; said to be shared, one ldmatrix does.
template <typename Fragment>
__device__ __forceinline__ void load_shared(Fragment& fragment, const __half* from, int stride) {
  nvcuda::wmma::load_matrix_sync(fragment, from, stride);
}

template <typename Fragment>
__device__ __forceinline__ void load_shared(Fragment& fragment, const __nv_bfloat16* from,
                                            int stride) {
#ifdef __CUDA_ARCH__
  auto* x = reinterpret_cast<unsigned*>(&fragment);
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  if constexpr (std::is_same_v<Fragment, LeftFragment<__nv_bfloat16>>) {
    asm volatile("wmma.load.a.sync.aligned.col.m16n16k16.shared.bf16 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address), "r"(stride)
                 : "memory");
  } else {
    static_assert(std::is_same_v<Fragment, RightFragment<__nv_bfloat16>>);
    asm volatile("wmma.load.b.sync.aligned.row.m16n16k16.shared.bf16 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address), "r"(stride)
                 : "memory");
  }
#else
  nvcuda::wmma::load_matrix_sync(fragment, from, stride);
#endif
}

// Halves on the tensor cores, accumulated in f32. Products of halves are exact. A tensor core adds
// 9 or 17 terms at once, cutting each off at two bits or more below the last one of the largest in
// f32 (measured for A100 by Fasi et al. 2021). With u = 2^-24 that is at most u / 2 per term and 2
// u for the sum: over 256 rows, in steps of 8, 32 * (9 / 2 + 2) u = 208 u, below the 256 u of plain
// f32.
template <typename Element>
class TensorCore {
 public:
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) nvcuda::wmma::fill_fragment(partial_[i][j], 0.0f);
    }
  }

  // A step is 16 rows of the slabs times half of the warp's columns.
  __device__ __forceinline__ void multiply(const Slab<Element> (&slabs)[2], const Place& place,
                                           int phase, int phases) {
    constexpr int kStride = kTile + Slab<Element>::kPad;
    const int steps = 2 * Slab<Element>::kDepth / kSide / phases;
    LeftFragment<Element> left[kRowFragments];
#pragma unroll
    for (int step = phase * steps; step < (phase + 1) * steps; ++step) {
      const int k = step / 2 * kSide;
      const bool new_rows = step % 2 == 0 || step == phase * steps;
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        if (!new_rows) continue;
        load_shared(left[i], &slabs[0].values[k][place.warp_row + i * kSide], kStride);
      }
#pragma unroll
      for (int half = 0; half < kColumnFragments / 2; ++half) {
        const int j = step % 2 * (kColumnFragments / 2) + half;
        RightFragment<Element> right;
        load_shared(right, &slabs[1].values[k][place.warp_column + j * kSide], kStride);
#pragma unroll
        for (int i = 0; i < kRowFragments; ++i) {
          nvcuda::wmma::mma_sync(partial_[i][j], left[i], right, partial_[i][j]);
        }
      }
    }
  }

  __device__ __forceinline__ void put(int qi, int qj, const Place&, WarpStage& stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      nvcuda::wmma::store_matrix_sync(&stage[0][half * kSide], partial_[qi][2 * qj + half],
                                      kQuadColumns + 4, nvcuda::wmma::mem_row_major);
    }
  }

 private:
  static constexpr int kRowFragments = kWarpRows / kSide;
  static constexpr int kColumnFragments = kWarpColumns / kSide;
  static_assert(kQuadRows == kSide && kQuadColumns == 2 * kSide);

  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kSide, kSide, kSide, float>
      partial_[kRowFragments][kColumnFragments];
};

template <typename Element>
using CoreOf = std::conditional_t<std::is_same_v<Element, float>, FmaCore, TensorCore<Element>>;

// Calls body(row, column, value) for each of the thread's four quads, value(i, j) being its
// results.
template <typename Core, typename Body>
__device__ __forceinline__ void for_each_quad(const Core& core, Stage& stage, const Body& body) {
  const Place place(thread_index());
  WarpStage& own = stage[place.warp];
#pragma unroll
  for (int qi = 0; qi < kWarpRows / kQuadRows; ++qi) {
#pragma unroll
    for (int qj = 0; qj < kWarpColumns / kQuadColumns; ++qj) {
      core.put(qi, qj, place, own);
      __syncwarp();
      body(place.warp_row + qi * kQuadRows + place.lane_row,
           place.warp_column + qj * kQuadColumns + place.lane_column,
           [&](int i, int j) { return own[place.lane_row + i][place.lane_column + j]; });
      __syncwarp();
    }
  }
}

}  // namespace fastprune::syrk
