// Element types: conversion on the device, dispatch on the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>
#include <type_traits>

#include "types.h"

namespace fastprune {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// `Real` is the arithmetic type: float for everything that fits it, double for double.
template <typename Real, typename Element>
__device__ __forceinline__ Real to_real(Element value) {
  if constexpr (sizeof(Element) == sizeof(double)) {
    return static_cast<Real>(value);
  } else {
    return static_cast<Real>(to_float(value));
  }
}

// N elements moved by one load; the address must be a multiple of the pack's size.
template <typename Element, int N>
struct alignas(sizeof(Element) * N) Pack {
  Element values[N];
};

// The bits of a pack, which cost no more registers than they have, where the compiler would give
// every half a register of its own; `{}` is zeros.
template <typename Packed>
using Bits = std::conditional_t<sizeof(Packed) == 16, uint4,
                                std::conditional_t<sizeof(Packed) == 4, uint32_t, uint16_t>>;

// A load of what nobody reads again: it leaves the caches to others.
template <typename Packed, typename Element>
__device__ __forceinline__ Bits<Packed> load_once(const Element* address) {
  static_assert(sizeof(Bits<Packed>) == sizeof(Packed));
  return __ldcs(reinterpret_cast<const Bits<Packed>*>(address));
}

template <typename Packed>
__device__ __forceinline__ Packed unpack(const Bits<Packed>& bits) {
  Packed packed;
  memcpy(static_cast<void*>(&packed), &bits, sizeof packed);
  return packed;
}

template <typename Element>
struct TypeTag {
  using Type = Element;
};

// Calls body(TypeTag<Element>) for the element type that `dtype` names.
template <typename Body>
Status dispatch_input(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body(TypeTag<float>{});
    case DType::bf16:
      return body(TypeTag<__nv_bfloat16>{});
    case DType::f16:
      return body(TypeTag<__half>{});
    default:
      return Status::unsupported_dtype;
  }
}

// The same for statistics, which are f32 or f64.
template <typename Body>
Status dispatch_statistic(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body(TypeTag<float>{});
    case DType::f64:
      return body(TypeTag<double>{});
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
