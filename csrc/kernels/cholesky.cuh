// Cholesky on one tile in shared memory: A = U^T U with U upper triangular, and its two triangular
// solves for a strip of right-hand sides. Called by the whole block, with the factor visible to it.
//
// v1: three barriers and a root per column, a division per unknown.
// v2: one barrier per column, and the reciprocal diagonal in place of divisions.
#pragma once

#include "../common/launch.cuh"

namespace fastprune::cholesky {

constexpr int kTile = 64;   // unknowns
constexpr int kStrip = 16;  // right-hand sides
constexpr int kThreads = 256;

using Factor = double[kTile][kTile + 1];  // [row][column], column >= row; padded against conflicts
using Strip = double[kTile][kStrip];

// A thread owns the elements (strip_row() + k * kStripRows, strip_column()) of a strip: here and
// wherever a strip is filled or emptied. So the solves need one barrier per unknown, and when they
// return nobody reads another thread's elements, or the factor, any more.
constexpr int kStripRows = kThreads / kStrip;
__device__ __forceinline__ int strip_row() { return threadIdx.x / kStrip; }
__device__ __forceinline__ int strip_column() { return threadIdx.x % kStrip; }

// The thread that loads, computes and stores element (row, column) of a factor.
constexpr int kFactorRows = kThreads / kTile;
__device__ __forceinline__ int factor_row() { return threadIdx.x / kTile; }
__device__ __forceinline__ int factor_column() { return threadIdx.x % kTile; }

// Overwrites the upper triangle of A by U, but the diagonal by 1 / U_jj. Returns 0, or 1 + the
// index of the first bad pivot.
__device__ inline int factor(Factor& u, int n) {
  const int column = factor_column();
  for (int j = 0; j < n; ++j) {
    const double pivot = u[j][j];
    if (!(pivot > 0 && isfinite(pivot))) return j + 1;
    // Row j stays unscaled until all is done, so nobody waits for it.
    if (column > j && column < n) {
      const double scaled = u[j][column] / pivot;
      for (int i = j + 1 + factor_row(); i <= column; i += kFactorRows) {
        u[i][column] -= u[j][i] * scaled;
      }
    }
    __syncthreads();
  }
  for (int j = factor_row(); j < n; j += kFactorRows) {
    if (column > j && column < n) u[j][column] *= rsqrt(u[j][j]);
  }
  __syncthreads();
  for (int j = factor_row(); j < n; j += kFactorRows) {
    if (column == j) u[j][j] = rsqrt(u[j][j]);
  }
  return 0;
}

// Solves U^T Y = B in place.
__device__ inline void solve_transposed(const Factor& u, Strip& b, int n) {
  const int column = strip_column();
  const int row = strip_row();
  for (int j = 0; j < n; ++j) {
    if (row == j % kStripRows) b[j][column] *= u[j][j];
    __syncthreads();
    for (int i = row; i < n; i += kStripRows) {
      if (i > j) b[i][column] -= u[j][i] * b[j][column];
    }
  }
}

// Solves U X = Y in place.
__device__ inline void solve(const Factor& u, Strip& y, int n) {
  const int column = strip_column();
  const int row = strip_row();
  for (int j = n - 1; j >= 0; --j) {
    if (row == j % kStripRows) y[j][column] *= u[j][j];
    __syncthreads();
    for (int i = row; i < j; i += kStripRows) y[i][column] -= u[i][j] * y[j][column];
  }
}

}  // namespace fastprune::cholesky
