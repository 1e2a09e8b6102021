// block_lstsq on the CPU: left-looking blocked Cholesky A = U^T U in f64, then two triangular
// solves.
//
// The upper triangle of the work matrix becomes U, the lower one its transpose: with both, every
// product below sums over the rows of row-major operands, which is what packed panels want.
#include "block_lstsq.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "../common/panels.h"
#include "../common/transpose.h"
#include "../common/triangular.h"

namespace fastprune {
namespace {

constexpr int64_t kBlock = 4 * kPanelMultiple;
constexpr int64_t kLanes = 32;  // columns of a back substitution kept in registers

// One system in f64.
class Cholesky {
 public:
  template <class T>
  Cholesky(const T* matrix, int64_t unknowns, double damping)
      : n_(unknowns), work_(unknowns * unknowns) {
    transpose(matrix, n_, n_, n_, work_.get(), n_);
    if (damping == 0.0) return;
    double trace = 0.0;
    for (int64_t i = 0; i < n_; ++i) trace += at(i, i);
    for (int64_t i = 0; i < n_; ++i) at(i, i) += damping * (trace / static_cast<double>(n_));
  }

  // 0, or 1 + the first pivot that is not positive and finite.
  int32_t factor(const TaskRunner& run) {
    for (int64_t i = 0; i < n_; i += kBlock) {
      const int64_t rows = std::min(kBlock, n_ - i);
      const int64_t strips = (n_ - i + kBlock - 1) / kBlock;
      if (i > 0) run(strips, [&](int64_t strip) { update(i, rows, i + strip * kBlock); });
      if (const int32_t bad = factor_diagonal(i, rows)) return bad;
      run(strips - 1, [&](int64_t strip) { finish(i, rows, i + (strip + 1) * kBlock); });
    }
    return 0;
  }

  // Overwrites `b` [n, columns], rows `stride` apart, with the solution.
  void solve(double* b, int64_t stride, int64_t columns) const {
    std::unique_ptr<Product> product;
    if (n_ > kBlock) product = std::make_unique<Product>(kBlock, columns);
    const auto subtract_known = [&](int64_t i, int64_t rows, int64_t begin, int64_t end) {
      if (begin == end) return;
      product->compute({view(), i, rows}, {{b, DType::f64, stride}, 0, columns}, begin, end);
      subtract(*product, rows, columns, b + i * stride, stride);
    };
    for (int64_t i = 0; i < n_; i += kBlock) {
      const int64_t rows = std::min(kBlock, n_ - i);
      subtract_known(i, rows, 0, i);
      solve_transposed(rows, address(i, i), n_, b + i * stride, stride, columns);
    }
    for (int64_t i = (n_ - 1) / kBlock * kBlock; i >= 0; i -= kBlock) {
      const int64_t rows = std::min(kBlock, n_ - i);
      subtract_known(i, rows, i + rows, n_);
      solve_diagonal(i, rows, b + i * stride, stride, columns);
    }
  }

 private:
  using Product = PanelProduct<double, double>;

  double& at(int64_t i, int64_t j) { return work_.get()[i * n_ + j]; }
  const double* address(int64_t i, int64_t j) const { return work_.get() + i * n_ + j; }
  MatrixView view() const { return {work_.get(), DType::f64, n_}; }

  static void subtract(Product& product, int64_t rows, int64_t columns, double* target,
                       int64_t stride) {
    for (int64_t i = 0; i < rows; ++i, target += stride) {
      for (int64_t j = 0; j < columns; ++j) target[j] -= product.row(i)[j];
    }
  }

  // Block row i, columns from j: take away what the rows of U above it explain.
  void update(int64_t i, int64_t rows, int64_t j) {
    const int64_t columns = std::min(kBlock, n_ - j);
    Product product(rows, columns);
    product.compute({view(), i, rows}, {view(), j, columns}, 0, i);
    subtract(product, rows, columns, &at(i, j), n_);
  }

  int32_t factor_diagonal(int64_t i, int64_t rows) {
    const int32_t bad = factor_upper(rows, &at(i, i), n_);
    return bad ? static_cast<int32_t>(i) + bad : 0;
  }

  void finish(int64_t i, int64_t rows, int64_t j) {
    const int64_t columns = std::min(kBlock, n_ - j);
    solve_transposed(rows, address(i, i), n_, &at(i, j), n_, columns);
    transpose(address(i, j), n_, rows, columns, &at(j, i), n_);
  }

  // U_ii X = B, in place.
  void solve_diagonal(int64_t i, int64_t rows, double* b, int64_t stride, int64_t columns) const {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t width = std::min(kLanes, columns - c);
      for (int64_t r = rows - 1; r >= 0; --r) {
        double* row = b + r * stride + c;
        subtract_rows(rows - 1 - r, address(i + r, i + r) + 1, 1, row + stride, stride, row, width);
        divide(row, width, *address(i + r, i + r));
      }
    }
  }

  int64_t n_;
  Buffer<double> work_;
};

template <class T>
int32_t solve_system(const T* matrix, const T* rhs, int64_t unknowns, int64_t columns,
                     double damping, T* out, const TaskRunner& run) {
  const int64_t count = unknowns * columns;
  std::fill_n(out, count, T{0});
  if (unknowns == 0) return 0;
  Cholesky cholesky(matrix, unknowns, damping);
  if (const int32_t bad = cholesky.factor(run)) return bad;
  if (!std::all_of(rhs, rhs + count, [](T value) { return std::isfinite(value); })) return -1;
  Buffer<double> x(count);
  std::copy_n(rhs, count, x.get());
  run((columns + kBlock - 1) / kBlock, [&](int64_t strip) {
    const int64_t first = strip * kBlock;
    cholesky.solve(x.get() + first, columns, std::min(kBlock, columns - first));
  });
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(x.get()[i]);
  return 0;
}

template <class T>
void solve_all(const BlockLstsqArgs& args, const TaskRunner& run) {
  struct System {
    int64_t index, unknowns, matrix, row;
  };
  std::vector<System> small, large;
  int64_t matrix = 0, row = 0;
  for (int64_t s = 0; s < args.sites; ++s) {
    const int64_t n = args.sizes[s];
    (n <= 2 * kBlock ? small : large).push_back({s, n, matrix, row});
    matrix += n * n;
    row += n;
  }
  const auto solve = [&](const System& system, const TaskRunner& inner) {
    const int64_t first = system.row * args.columns;
    args.info[system.index] =
        solve_system(static_cast<const T*>(args.systems) + system.matrix,
                     static_cast<const T*>(args.rhs) + first, system.unknowns, args.columns,
                     args.damping, static_cast<T*>(args.out) + first, inner);
  };
  run(static_cast<int64_t>(small.size()), [&](int64_t i) { solve(small[i], run_serially); });
  for (const System& system : large) solve(system, run);
}

}  // namespace

Status block_lstsq_cpu(const BlockLstsqArgs& args, const TaskRunner& run) {
  if (args.dtype == DType::f32) {
    solve_all<float>(args, run);
  } else if (args.dtype == DType::f64) {
    solve_all<double>(args, run);
  } else {
    return Status::unsupported_dtype;
  }
  return Status::ok;
}

}  // namespace fastprune
