// nvcuda::wmma as far as the kernels use it: 16 x 16 x 16, operands of halves, f32 accumulators.
// Loads and products start when all lanes of the warp have reached them. A store does not wait: it
// promises nothing about the order of the lanes' writes and what others read. A lane holds 8
// elements of each fragment, scattered, so that nothing but these operations makes sense of them.
#pragma once

#include <utility>

#include "../cuda_on_cpu.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

constexpr unsigned kSide = 16;
constexpr unsigned kElements = kSide * kSide / emulator::kWarp;  // per lane

template <typename Use, int m, int n, int k, typename Element, typename Layout = void>
struct fragment {
  static_assert(m == kSide && n == kSide && k == kSide);
  Element x[kElements];
};

// Where element `e` of a lane is in the matrix, row by row. 37 is coprime to 256.
constexpr unsigned place(unsigned lane, unsigned e) { return (lane * kElements + e) * 37 % 256; }

// The alignment that the hardware requires of addresses (256 bits) and strides (16 bytes).
template <typename Element>
void require_aligned(const Element* address, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(address) % 32 != 0 || stride * sizeof(Element) % 16 != 0) {
    std::fprintf(stderr, "emulator: misaligned matrix operation\n");
    std::abort();
  }
}

template <typename Use, typename Element, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, Element, Layout>& to, const Element* from,
                      unsigned stride) {
  require_aligned(from, stride);
  __syncwarp();
  for (unsigned e = 0; e < kElements; ++e) {
    const unsigned row = place(emulator::machine.lane(), e) / kSide;
    const unsigned column = place(emulator::machine.lane(), e) % kSide;
    to.x[e] = std::is_same_v<Layout, row_major> ? from[row * stride + column]
                                                : from[column * stride + row];
  }
}

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& to, float value) {
  for (float& x : to.x) x = value;
}

inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from,
                              unsigned stride, layout_t layout) {
  require_aligned(to, stride);
  for (unsigned e = 0; e < kElements; ++e) {
    const unsigned row = place(emulator::machine.lane(), e) / kSide;
    const unsigned column = place(emulator::machine.lane(), e) % kSide;
    to[layout == mem_row_major ? row * stride + column : column * stride + row] = from.x[e];
  }
}

inline float value_of(__half value) { return __half2float(value); }
inline float value_of(__nv_bfloat16 value) { return __bfloat162float(value); }

// Lanes read each other's operands, and wait until all have: a lane that went on could leave the
// function whose variables its operands are.
template <typename Element, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, Element, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, Element, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
  const std::pair operands(&a, &b);
  const auto all = emulator::machine.exchange(&operands);
  float left[kSide * kSide], right[kSide * kSide];
  for (unsigned lane = 0; lane < emulator::kWarp; ++lane) {
    for (unsigned e = 0; e < kElements; ++e) {
      left[place(lane, e)] = value_of(all[lane]->first->x[e]);
      right[place(lane, e)] = value_of(all[lane]->second->x[e]);
    }
  }
  __syncwarp();
  for (unsigned e = 0; e < kElements; ++e) {
    const unsigned row = place(emulator::machine.lane(), e) / kSide;
    const unsigned column = place(emulator::machine.lane(), e) % kSide;
    float sum = c.x[e];
    for (unsigned k = 0; k < kSide; ++k) sum += left[row * kSide + k] * right[k * kSide + column];
    d.x[e] = sum;
  }
}

}  // namespace nvcuda::wmma
