// mask_grad on CUDA.
//
// v1: one block per (sample, span of units). A span covers up to 128 adjacent columns of whole
//     units (a wider unit is walked in pieces), so each block owns its outputs: no atomics.
//     16 lanes read 16 bytes each of a token row, 16 token slices run side by side.
// v2: a thread has up to four tokens of both tensors in flight, whether valid or not, and three
//     blocks fit a multiprocessor: 96 KiB in flight, where an H200 needs about 30 KiB (4.8 TB/s
//     times 0.8 us over 132). Loads do not stay in the caches. Few samples are split over blocks by
//     tokens; a second kernel adds the parts in order.
// Bound: memory bandwidth, both tensors once.
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
constexpr int kBlocksPerProcessor = 3;

// Tokens of which a thread loads both rows before it uses them: four loads of each tensor, or one
// token where a row alone takes more.
template <int Width>
constexpr int kBatch = static_cast<int>(max_of(1, 4 * Width / kPerThread));

// How a row's units are cut into spans that one block can own.
struct Spans {
  int64_t units;  // units per span
  int64_t count;  // spans per row
};

inline Spans cut_spans(int64_t units, int64_t group) {
  const int64_t per_span = max_of(1, kSpan / group);
  return {per_span, ceil_div(units, per_span)};
}

// How samples are cut into parts of consecutive tokens, so that there are enough blocks.
constexpr int64_t kEnoughBlocks = 2 * 132;  // what an H100 needs in flight, twice
constexpr int64_t kLeastTokens = 64;        // of a part

inline int64_t cut_parts(const MaskGradArgs& args, const Spans& spans) {
  const int64_t wanted = ceil_div(kEnoughBlocks, max_of(1, spans.count * args.samples));
  return max_of(1, min_of(wanted, args.tokens / kLeastTokens));
}

struct Storage {
  float partial[kSlices][kSpan];  // columns in the order of column_of()
  float total[kSpan];
};

// Which column of the span is a thread's `i`-th one, at so many elements per load.
template <int Width>
__device__ __forceinline__ int column_of(int lane, int i) {
  return (i / Width * kLanes + lane) * Width + i % Width;
}

// Where the tokens of one part of one sample are.
template <typename Element>
struct Tokens {
  const Element* x;
  const Element* grad;
  const uint8_t* valid;  // null: all are
  int64_t begin;
  int64_t end;
};

template <typename Element>
__device__ __forceinline__ Tokens<Element> tokens_of(const MaskGradArgs& args, int64_t sample,
                                                     int64_t part, int64_t parts) {
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
  return {static_cast<const Element*>(args.x) + x_start,
          static_cast<const Element*>(args.grad) + grad_start, valid, tokens * part / parts,
          tokens * (part + 1) / parts};
}

// Units [first_unit, first_unit + units) over those tokens; the units fit one span or are a single
// one. `Width` elements per load: 16 bytes, or 1 where alignment forbids it.
template <typename Element, int Width>
__device__ __forceinline__ void sum_span(const MaskGradArgs& args, const Tokens<Element>& tokens,
                                         int64_t first_unit, int64_t units, Storage& shared,
                                         float* out) {
  constexpr int kTokens = kBatch<Width>;
  constexpr int kLoads = kPerThread / Width;
  using Packed = Pack<Element, Width>;
  const int lane = threadIdx.x % kLanes;
  const int slice = threadIdx.x / kLanes;
  const int64_t first_column = first_unit * args.group;
  const int64_t end_column = first_column + units * args.group;

  // Multiply and accumulate: a thread keeps its columns over all tokens of its slice. Only a unit
  // wider than the span takes a second piece, and then every column belongs to that unit.
  float sums[kPerThread] = {};
  for (int64_t piece = first_column; piece < end_column; piece += kSpan) {
    for (int64_t first = tokens.begin + slice; first < tokens.end; first += kTokens * kSlices) {
      uint8_t used[kTokens];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) used[t] = first + t * kSlices < tokens.end;
      if (tokens.valid) {
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          used[t] = used[t] ? tokens.valid[first + t * kSlices] : uint8_t{0};
        }
      }
      // Zeros stand for what is not there or not valid, so that every load is under way before the
      // first product.
      Bits<Packed> a[kTokens][kLoads] = {};
      Bits<Packed> b[kTokens][kLoads] = {};
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const int64_t token = first + t * kSlices;
#pragma unroll
        for (int load = 0; load < kLoads; ++load) {
          const int64_t column = piece + column_of<Width>(lane, load * Width);
          if (!used[t] || column >= end_column) continue;
          a[t][load] = load_once<Packed>(tokens.x + token * args.x_strides[1] + column);
          b[t][load] = load_once<Packed>(tokens.grad + token * args.grad_strides[1] + column);
        }
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
#pragma unroll
        for (int load = 0; load < kLoads; ++load) {
          const auto left = unpack<Packed>(a[t][load]);
          const auto right = unpack<Packed>(b[t][load]);
#pragma unroll
          for (int i = 0; i < Width; ++i) {
            sums[load * Width + i] += to_float(left.values[i]) * to_float(right.values[i]);
          }
        }
      }
    }
  }

  // Sum over token slices.
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) shared.partial[slice][i * kLanes + lane] = sums[i];
  __syncthreads();
  if (threadIdx.x < kSpan) {
    float sum = 0;
    for (int s = 0; s < kSlices; ++s) sum += shared.partial[s][threadIdx.x];
    shared.total[column_of<Width>(threadIdx.x % kLanes, threadIdx.x / kLanes)] = sum;
  }
  __syncthreads();

  // Sum over each unit's columns: a thread per narrow unit, a warp per wide one.
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

// `sums` is [samples, parts, units]: the output itself if there is one part.
template <typename Element, int Width>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    kernel(MaskGradArgs args, Spans spans, int64_t parts, float* sums) {
  auto& shared = shared_storage<Storage>();
  for (int64_t slot = blockIdx.y; slot < args.samples * parts; slot += gridDim.y) {
    const auto tokens = tokens_of<Element>(args, slot / parts, slot % parts, parts);
    for (int64_t span = blockIdx.x; span < spans.count; span += gridDim.x) {
      const int64_t first_unit = span * spans.units;
      const int64_t units = min_of(spans.units, args.units - first_unit);
      sum_span<Element, Width>(args, tokens, first_unit, units, shared,
                               sums + slot * args.units + first_unit);
    }
  }
}

// out = sums over the parts, in order.
__global__ void __launch_bounds__(kThreads)
    combine_kernel(MaskGradArgs args, int64_t parts, const float* sums) {
  for (int64_t sample = blockIdx.y; sample < args.samples; sample += gridDim.y) {
    for (int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x; unit < args.units;
         unit += int64_t{gridDim.x} * kThreads) {
      float sum = 0;
      for (int64_t part = 0; part < parts; ++part) {
        sum += sums[(sample * parts + part) * args.units + unit];
      }
      args.out[sample * args.units + unit] = sum;
    }
  }
}

}  // namespace fastprune::mask_grad
