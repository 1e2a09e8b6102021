#include "obs_greedy_loops.h"

#include "../common/target.h"

namespace fastprune::obs_greedy {
namespace {

template <class Real>
struct VectorOf {
  typedef Real type __attribute__((vector_size(kLine), aligned(sizeof(Real)), may_alias));
};

}  // namespace

template <class Real>
FASTPRUNE_CLONES void subtract_panel(Panel<Real> panel, int64_t column, int64_t count, Real* p,
                                     Real* m) {
  using Vector = typename VectorOf<Real>::type;
  for (int64_t j = 0; j < count; j += kVectors * kLanes<Real>) {
    Vector* p_out = reinterpret_cast<Vector*>(p + j);
    Vector* m_out = reinterpret_cast<Vector*>(m + j);
    Vector p0 = p_out[0], p1 = p_out[1], p2 = p_out[2], p3 = p_out[3];
    Vector m0 = m_out[0], m1 = m_out[1], m2 = m_out[2], m3 = m_out[3];
    for (int64_t q = 0; q < panel.depth; ++q) {
      const Vector* l = reinterpret_cast<const Vector*>(panel.l + q * panel.stride + j);
      const Vector* z = reinterpret_cast<const Vector*>(panel.z + q * panel.stride + j);
      const Real own_l = panel.l[q * panel.stride + column];
      const Real own_z = panel.z[q * panel.stride + column];
      p0 -= own_l * l[0], m0 -= own_l * z[0], m0 -= own_z * l[0];
      p1 -= own_l * l[1], m1 -= own_l * z[1], m1 -= own_z * l[1];
      p2 -= own_l * l[2], m2 -= own_l * z[2], m2 -= own_z * l[2];
      p3 -= own_l * l[3], m3 -= own_l * z[3], m3 -= own_z * l[3];
    }
    p_out[0] = p0, p_out[1] = p1, p_out[2] = p2, p_out[3] = p3;
    m_out[0] = m0, m_out[1] = m1, m_out[2] = m2, m_out[3] = m3;
  }
}

template <class Real>
FASTPRUNE_CLONES void advance(Real pivot, Real half_cost, int64_t count, Real* l, Real* z, Real* p,
                              Real* m, Real* cost) {
  using Vector = typename VectorOf<Real>::type;
  const Vector zero = {};
  const Vector infinity = zero + kInfinity<Real>;
  for (int64_t j = 0; j < count; j += kLanes<Real>) {
    const Vector l_new = *reinterpret_cast<Vector*>(l + j) / pivot;
    const Vector z_new = *reinterpret_cast<Vector*>(z + j) / pivot - half_cost * l_new;
    const Vector p_new = *reinterpret_cast<Vector*>(p + j) - l_new * l_new;
    const Vector m_new = *reinterpret_cast<Vector*>(m + j) - 2 * z_new * l_new;
    *reinterpret_cast<Vector*>(l + j) = l_new;
    *reinterpret_cast<Vector*>(z + j) = z_new;
    *reinterpret_cast<Vector*>(p + j) = p_new;
    *reinterpret_cast<Vector*>(m + j) = m_new;
    const Vector value = m_new / p_new;
    const auto usable =
        (p_new > zero) & (p_new < infinity) & (value < infinity) & (value > -infinity);
    const Vector clamped = value > zero ? value : zero;
    *reinterpret_cast<Vector*>(cost + j) = usable ? clamped : infinity;
  }
}

template <class Real>
FASTPRUNE_CLONES void advance_blocks(Panel<Real> panel, int64_t group, int64_t count,
                                     Real* __restrict p, Real* __restrict m) {
  for (int64_t unit = 0; unit < count; ++unit) {
    for (int64_t q = 0; q < panel.depth; ++q) {
      const Real* l = panel.l + q * panel.stride + unit * group;
      const Real* z = panel.z + q * panel.stride + unit * group;
      for (int64_t i = 0; i < group; ++i) {
        Real* p_row = p + (unit * group + i) * group;
        Real* m_row = m + (unit * group + i) * group;
        for (int64_t j = 0; j < group; ++j) {
          p_row[j] -= l[i] * l[j];
          m_row[j] -= z[i] * l[j] + l[i] * z[j];
        }
      }
    }
  }
}

template <class Real>
FASTPRUNE_CLONES Real smallest(const Real* values, int64_t count) {
  using Vector = typename VectorOf<Real>::type;
  Vector least = *reinterpret_cast<const Vector*>(values);
  for (int64_t j = kLanes<Real>; j < count; j += kLanes<Real>) {
    const Vector value = *reinterpret_cast<const Vector*>(values + j);
    least = value < least ? value : least;
  }
  Real result = least[0];
  for (int64_t k = 1; k < kLanes<Real>; ++k) result = least[k] < result ? least[k] : result;
  return result;
}

#define FASTPRUNE_INSTANTIATE(Real)                                              \
  template void subtract_panel(Panel<Real>, int64_t, int64_t, Real*, Real*);     \
  template void advance(Real, Real, int64_t, Real*, Real*, Real*, Real*, Real*); \
  template void advance_blocks(Panel<Real>, int64_t, int64_t, Real*, Real*);     \
  template Real smallest(const Real*, int64_t);
FASTPRUNE_INSTANTIATE(float)
FASTPRUNE_INSTANTIATE(double)

}  // namespace fastprune::obs_greedy
