// Storage types of the kernels and their value; branch-free, so loops over them vectorise.
#pragma once

#include <bit>
#include <cstdint>

#include "target.h"

namespace fastprune {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

FASTPRUNE_INLINE float value_of(float value) { return value; }
FASTPRUNE_INLINE double value_of(double value) { return value; }

FASTPRUNE_INLINE float value_of(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

FASTPRUNE_INLINE float value_of(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Exponent bias 15 becomes 127; infinities and NaNs need the largest exponent of a float.
  const uint32_t special = magnitude >= 0x7c00u ? 0x38000000u : 0u;
  const uint32_t normal = (magnitude << 13) + 0x38000000u + special;
  // A subnormal is magnitude * 2^-24: planted below 0.5 and 0.5 taken away again, exactly.
  const float subnormal = std::bit_cast<float>(magnitude | 0x3f000000u) - 0.5f;
  const uint32_t chosen = magnitude < 0x0400u ? std::bit_cast<uint32_t>(subnormal) : normal;
  return std::bit_cast<float>(chosen | sign);
}

}  // namespace fastprune
