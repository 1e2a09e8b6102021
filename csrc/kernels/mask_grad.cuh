// mask_grad on CUDA.
//
// v1: one block per (sample, span of units). A span covers up to 128 adjacent columns of whole
//     units (a wider unit is walked in pieces), so each block owns its outputs: no atomics.
//     16 lanes read 16 bytes each of a token row, 16 token slices run side by side.
// Next: split long samples over blocks; asynchronous copies.
#pragma once

#include "../common/convert.cuh"
#include "../common/reduce.cuh"
#include "mask_grad.h"

namespace fastprune::mask_grad {

constexpr int kLanes = 16;   // threads along a token row
constexpr int kSlices = 16;  // tokens in flight
constexpr int kThreads = kLanes * kSlices;
constexpr int kPerThread = 8;  // columns per thread
constexpr int kSpan = kLanes * kPerThread;

// How a row's units are cut into spans that one block can own.
struct Spans {
  int64_t units;  // units per span
  int64_t count;  // spans per row
};

inline Spans cut_spans(int64_t units, int64_t group) {
  const int64_t per_span = max_of(1, kSpan / group);
  return {per_span, ceil_div(units, per_span)};
}

struct Storage {
  float partial[kSlices][kSpan];
  float total[kSpan];
};

// Units [first_unit, first_unit + units) of one sample, which fit one span or are a single unit.
// `Width` elements per load: 16 bytes, or 1 where alignment forbids it.
template <typename Element, int Width>
__device__ __forceinline__ void sum_span(const MaskGradArgs& args, int64_t sample,
                                         int64_t first_unit, int64_t units, Storage& shared) {
  const int lane = threadIdx.x % kLanes;
  const int slice = threadIdx.x / kLanes;
  const int64_t first_column = first_unit * args.group;
  const int64_t end_column = first_column + units * args.group;

  // Where the sample's tokens are.
  int64_t tokens = args.tokens;
  int64_t x_start = sample * args.x_strides[0];
  int64_t grad_start = sample * args.grad_strides[0];
  const uint8_t* valid = args.valid ? args.valid + sample * args.tokens : nullptr;
  if (args.offsets) {
    const int64_t first_token = args.offsets[sample];
    tokens = args.offsets[sample + 1] - first_token;
    x_start = first_token * args.x_strides[1];
    grad_start = first_token * args.grad_strides[1];
    valid = nullptr;
  }
  const auto* x = static_cast<const Element*>(args.x) + x_start;
  const auto* grad = static_cast<const Element*>(args.grad) + grad_start;

  // Multiply and accumulate: a thread keeps its columns over all tokens of its slice. Only a unit
  // wider than the span takes a second piece, and then every column belongs to that unit.
  float sums[kPerThread] = {};
  for (int64_t piece = first_column; piece < end_column; piece += kSpan) {
#pragma unroll 2
    for (int64_t token = slice; token < tokens; token += kSlices) {
      if (valid && !valid[token]) continue;
      const Element* x_row = x + token * args.x_strides[1];
      const Element* grad_row = grad + token * args.grad_strides[1];
#pragma unroll
      for (int load = 0; load < kPerThread / Width; ++load) {
        const int64_t column = piece + (load * kLanes + lane) * Width;
        if (column >= end_column) break;
        const auto a = *reinterpret_cast<const Pack<Element, Width>*>(x_row + column);
        const auto b = *reinterpret_cast<const Pack<Element, Width>*>(grad_row + column);
#pragma unroll
        for (int i = 0; i < Width; ++i) {
          sums[load * Width + i] += to_float(a.values[i]) * to_float(b.values[i]);
        }
      }
    }
  }

  // Sum over token slices.
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int column = (i / Width * kLanes + lane) * Width + i % Width;
    shared.partial[slice][column] = sums[i];
  }
  __syncthreads();
  if (threadIdx.x < kSpan) {
    float sum = 0;
    for (int s = 0; s < kSlices; ++s) sum += shared.partial[s][threadIdx.x];
    shared.total[threadIdx.x] = sum;
  }
  __syncthreads();

  // Sum over each unit's columns: a thread per narrow unit, a warp per wide one.
  float* out = args.out + sample * args.units + first_unit;
  const int group = static_cast<int>(min_of(args.group, kSpan));
  if (group < kWarpSize) {
    for (int unit = threadIdx.x; unit < units; unit += kThreads) {
      float sum = 0;
      for (int i = 0; i < group; ++i) sum += shared.total[unit * group + i];
      out[unit] = sum;
    }
  } else {
    for (int unit = threadIdx.x / kWarpSize; unit < units; unit += kThreads / kWarpSize) {
      float sum = 0;
      for (int i = threadIdx.x % kWarpSize; i < group; i += kWarpSize) {
        sum += shared.total[unit * group + i];
      }
      sum = warp_sum(sum);
      if (threadIdx.x % kWarpSize == 0) out[unit] = sum;
    }
  }
}

template <typename Element, int Width>
__global__ void __launch_bounds__(kThreads, 2) kernel(MaskGradArgs args, Spans spans) {
  auto& shared = shared_storage<Storage>();
  for (int64_t sample = blockIdx.y; sample < args.samples; sample += gridDim.y) {
    for (int64_t span = blockIdx.x; span < spans.count; span += gridDim.x) {
      const int64_t first_unit = span * spans.units;
      const int64_t units = min_of(spans.units, args.units - first_unit);
      sum_span<Element, Width>(args, sample, first_unit, units, shared);
    }
  }
}

}  // namespace fastprune::mask_grad
