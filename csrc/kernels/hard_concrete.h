// hard_concrete: one draw of all gates of a model, and the sparsity that is expected of them.
//
//   s = sigmoid((logit(u) + alpha) / T)            u: noise, kept within [eps, 1 - eps]
//   gate = clip(s (r - l) + l, 0, 1)               T = 2/3, l = -0.1, r = 1.1
//   p = P(gate > 0) = sigmoid(alpha - T ln(-l / r))
//   sparsity = 1 - mean(p of hidden) sum_j share_j (p of sublayer j) mean(p of the units of site j)
//
// Louizos, Welling, Kingma 2018, "Learning sparse neural networks through L0 regularization"; the
// sparsity is CoFi's (Xia, Zhong, Chen 2022), with the weights of a site as its share of them all.
// Gates lie site after site, then one per site for its sublayer, then those of hidden dimensions.
// What is not there counts as open: a site without units, a model without gates of a kind.
//
// With x = exp(-alpha), both sigmoids need one exponential: 1 / T = 3/2, so that
//   s = 1 / (1 + y sqrt(y)),  y = x (1 - u) / u     and     p = 1 / (1 + x (-l / r)^T).
#pragma once

#include "../common/index.cuh"
#include "../common/types.h"

namespace fastprune {

struct HardConcreteArgs {
  DType dtype;  // f32 or f64: of alpha and noise, gates and slopes
  const void* alpha;
  const void* noise;
  int64_t sites;
  const int64_t* sizes;  // [sites + 2], host memory: units by site, sublayers, hidden dimensions
  const double* shares;  // [sites]
  void* gates;
  void* slopes;      // d gate / d alpha
  double* open;      // [sites + 2], the mean of p over each of the sizes; 1 if nothing is there
  double* sparsity;  // one
  void* sparsity_slopes;  // d sparsity / d alpha
};

Status hard_concrete_cpu(const HardConcreteArgs& args);
Status hard_concrete_cuda(const HardConcreteArgs& args, Stream stream);

namespace gates {

constexpr double kLow = -0.1;
constexpr double kHigh = 1.1;
constexpr double kLeastNoise = 1e-6;
constexpr double kOdds = 0.20218000823357415;  // (-kLow / kHigh)^(2/3)

template <typename Real>
struct Draw {
  Real gate;
  Real slope;  // d gate / d alpha
  Real open;   // p
};

// p from x = exp(-alpha), which may be infinite.
template <typename Real>
FASTPRUNE_HOST_DEVICE inline Real open_probability(Real x) {
  return Real(1) / (Real(1) + x * static_cast<Real>(kOdds));
}

template <typename Real>
FASTPRUNE_HOST_DEVICE inline Draw<Real> draw(Real x, Real noise) {
  constexpr Real kLeast = static_cast<Real>(kLeastNoise), kMost = Real(1) - kLeast;
  constexpr Real kFloor = static_cast<Real>(kLow), kWidth = static_cast<Real>(kHigh - kLow);
  using std::sqrt;  // that of Real
  Real u = noise < kLeast ? kLeast : noise;
  u = u > kMost ? kMost : u;
  const Real y = x * (Real(1) - u) / u;
  const Real s = Real(1) / (Real(1) + y * sqrt(y));
  const Real stretched = s * kWidth + kFloor;
  const Real slope = kWidth * Real(1.5) * s * (Real(1) - s);
  Real gate = stretched < 0 ? Real(0) : stretched;
  gate = gate > 1 ? Real(1) : gate;
  return {gate, gate == stretched ? slope : Real(0), open_probability(x)};
}

// The mean of p over `gates` gates; where there are none, what is gated is always there.
FASTPRUNE_HOST_DEVICE inline double mean_open(double open, int64_t gates) {
  return gates ? open / static_cast<double>(gates) : 1.0;
}

}  // namespace gates
}  // namespace fastprune
