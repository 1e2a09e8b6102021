// Two rows at unit length, and their difference to the last digit that the rows determine: the
// arithmetic that both kernels of trajectory_distance share.
//
// For rows s and t let a = 1 / |s| and b = 1 / |t|. In d = a s - b t the terms may agree in all the
// digits of f32. With e = s - t, which is exact in f64 where they do,
//
//   d = b e + (a - b) s   if |s| <= |t|, else   a e + (a - b) t
//   a - b = -(s.s - t.t) (a b)^2 / (a + b),     s.s - t.t = e.(s + t)
//
// Equal rows therefore give zero exactly, and the error of d is a few width * 2^-53 of |b e| (or
// |a e|), not of unit length. No term is longer than 2, however different the lengths are. A zero
// row has a = 0 here, and so stays zero.
#pragma once

#include "../common/index.cuh"
#include "../common/target.h"

namespace fastprune {

// d = difference * (s - t) + own_shift * s + teacher_shift * t; one of the shifts is zero.
struct RowFactors {
  double teacher;  // b
  double difference, own_shift, teacher_shift;
};

// From s.s, t.t and (s - t).(s + t). What is not finite in a row makes its d so, in one entry at
// least: infinity times zero.
FASTPRUNE_HOST_DEVICE FASTPRUNE_INLINE RowFactors row_factors(double own, double teacher,
                                                              double gap) {
  const double a = own == 0 ? 0 : 1 / sqrt(own);
  const double b = teacher == 0 ? 0 : 1 / sqrt(teacher);
  const double shift = a + b > 0 ? -gap * (a * b) * (a * b) / (a + b) : 0;
  if (own <= teacher) return {b, b, shift, 0};
  return {b, a, 0, shift};
}

// An entry of the mean of both rows and of their difference, rounded once.
struct UnitPair {
  float mean, difference;
};

FASTPRUNE_HOST_DEVICE FASTPRUNE_INLINE UnitPair unit_pair(const RowFactors& factors, double own,
                                                          double teacher) {
  const double difference = factors.difference * (own - teacher) + factors.own_shift * own +
                            factors.teacher_shift * teacher;
  const double mean = factors.teacher * teacher + difference / 2;
  return {static_cast<float>(mean), static_cast<float>(difference)};
}

}  // namespace fastprune
