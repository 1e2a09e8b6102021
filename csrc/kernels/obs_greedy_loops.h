// The inner loops of obs_greedy on the CPU, vectorized over the columns that are left.
#pragma once

#include <cstdint>
#include <limits>

namespace fastprune::obs_greedy {

constexpr int64_t kLine = 64;    // bytes
constexpr int64_t kVectors = 4;  // of a column, kept in registers

template <class Real>
constexpr int64_t kLanes = kLine / static_cast<int64_t>(sizeof(Real));
template <class Real>
constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

// Rows of L and Z, `stride` apart.
template <class Real>
struct Panel {
  const Real* l;
  const Real* z;
  int64_t depth;
  int64_t stride;
};

// Makes one column of P and of M current, l and z being its own entries: p -= L^T l,
// m -= Z^T l + L^T z. `count` is a multiple of kVectors * kLanes.
template <class Real>
void subtract_panel(Panel<Real> panel, int64_t column, int64_t count, Real* p, Real* m);

// Units of one column: l and z, the columns of P and of M of the unit that goes, become its rows L
// and Z; the diagonals p and m become current, and the costs. `count` is a multiple of kLanes.
template <class Real>
void advance(Real pivot, Real half_cost, int64_t count, Real* l, Real* z, Real* p, Real* m,
             Real* cost);

// Wider units: the diagonal blocks of all `count` become current.
template <class Real>
void advance_blocks(Panel<Real> panel, int64_t group, int64_t count, Real* p, Real* m);

// `count` is a multiple of kLanes, not 0; no value is NaN.
template <class Real>
Real smallest(const Real* values, int64_t count);

}  // namespace fastprune::obs_greedy
