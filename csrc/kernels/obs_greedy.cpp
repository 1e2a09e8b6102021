// obs_greedy on the CPU: one site at a time, as a Cholesky factorisation that waits.
//
// The rows L and Z of the columns removed last wait in a panel. Until they are applied, only the
// diagonal blocks of P and M are kept up to date (the costs need no more), and the columns of the
// unit that goes are formed from the matrices and the panel. A full panel is applied by the micro
// kernel. The last unit takes the place of the one that went, so those left are always the first.
#include "obs_greedy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../common/panels.h"
#include "../common/transpose.h"
#include "../common/triangular.h"
#include "obs_greedy_loops.h"

namespace fastprune {
namespace {

using namespace obs_greedy;

constexpr int64_t kPanelRows = 64;             // columns that wait, unless a unit has more
constexpr int64_t kTile = 4 * kPanelMultiple;  // of M = W W^T; every row is a multiple of it
constexpr int64_t kStrip = 2 * kTile;          // columns updated while their panels are in cache

template <class Real>
Buffer<Real> zeros(int64_t count) {
  Buffer<Real> buffer(count);
  prefer_huge_pages(buffer.get(), count * static_cast<int64_t>(sizeof(Real)));
  std::fill_n(buffer.get(), count, Real{0});
  return buffer;
}

template <class Real>
class Site {
 public:
  Site(const Real* inverse, const Real* weight, int64_t units, int64_t group, int64_t outputs)
      : group_(group),
        units_(units),
        columns_(units * group),
        // An odd number of cache lines, so that a column does not fall into a few sets.
        stride_(round_up(columns_, kTile) + kLanes<Real>),
        capacity_(std::max(kPanelRows, group)),
        p_(zeros<Real>(round_up(columns_, kPanelMultiple) * stride_)),
        m_(zeros<Real>(round_up(columns_, kPanelMultiple) * stride_)),
        panel_(zeros<Real>(2 * capacity_ * stride_)),
        packed_(4 * capacity_ * stride_),
        p_blocks_(zeros<Real>(stride_ * group)),
        m_blocks_(zeros<Real>(stride_ * group)),
        factor_(group * group),
        kernel_(group * group),
        scratch_(group * group),
        cost_(stride_),
        unit_(units) {
    std::iota(unit_.begin(), unit_.end(), int32_t{0});
    std::fill_n(cost_.get(), stride_, kInfinity<Real>);
    for (int64_t i = 0; i < columns_; ++i) {
      for (int64_t j = 0; j <= i; ++j) p_.get()[i * stride_ + j] = -inverse[i * columns_ + j];
    }
    multiply_weights(weight, outputs);
    read_blocks(p_.get(), p_blocks_.get());
    read_blocks(m_.get(), m_blocks_.get());
    if (group_ == 1) {
      advance<Real>(1, 0, lanes(units_), l_row(0), z_row(0), p_blocks_.get(), m_blocks_.get(),
                    cost_.get());  // by nothing
    } else {
      evaluate();
    }
  }

  // Removes every unit that can go; returns the site's info.
  int32_t run(int32_t* order, Real* curve) {
    double total = 0;
    for (int64_t step = 0; units_ > 0; ++step) {
      const int64_t chosen = cheapest();
      const Real cost = cost_.get()[chosen];
      if (cost == kInfinity<Real>) {
        std::sort(unit_.begin(), unit_.begin() + units_);
        std::copy_n(unit_.begin(), units_, order + step);
        std::fill_n(curve + step, units_, kInfinity<Real>);
        return static_cast<int32_t>(step) + 1;
      }
      total += static_cast<double>(cost);
      order[step] = unit_[chosen];
      curve[step] = static_cast<Real>(total);
      remove(chosen);
    }
    return 0;
  }

 private:
  static int64_t lanes(int64_t count) { return round_up(count, kLanes<Real>); }
  static constexpr DType dtype() { return sizeof(Real) == sizeof(float) ? DType::f32 : DType::f64; }

  Real* l_row(int64_t q) { return panel_.get() + q * stride_; }
  Real* z_row(int64_t q) { return panel_.get() + (capacity_ + q) * stride_; }
  int64_t block_size() const { return group_ * group_; }

  // The lower triangle of -W W^T.
  void multiply_weights(const Real* weight, int64_t outputs) {
    Buffer<Real> turned(outputs * columns_);
    transpose(weight, outputs, columns_, outputs, turned.get(), columns_);
    const MatrixView view = {turned.get(), dtype(), columns_};
    PanelProduct<Real, Real> product(kTile, kTile);
    for (int64_t i = 0; i < columns_; i += kTile) {
      const int64_t rows = std::min(kTile, columns_ - i);
      for (int64_t j = 0; j <= i; j += kTile) {
        const int64_t columns = std::min(kTile, columns_ - j);
        // Of a tile on the diagonal it gives the upper half.
        product.compute({view, j, columns}, {view, i, rows}, 0, outputs);
        for (int64_t r = 0; r < rows; ++r) {
          Real* target = m_.get() + (i + r) * stride_ + j;
          const int64_t end = std::min(columns, i + r + 1 - j);
          for (int64_t c = 0; c < end; ++c) target[c] = -product.row(c)[r];
        }
      }
    }
  }

  void read_blocks(const Real* matrix, Real* blocks) const {
    for (int64_t i = 0; i < columns_; ++i) {
      const int64_t first = i / group_ * group_;
      for (int64_t j = first; j <= i; ++j) {
        blocks[i * group_ + j - first] = blocks[j * group_ + i - first] = -matrix[i * stride_ + j];
      }
    }
  }

  // Units of several columns. R^T into `factor_` and K into `kernel_`; false where R does not
  // exist.
  bool factor(int64_t slot) {
    std::copy_n(p_blocks_.get() + slot * block_size(), block_size(), factor_.get());
    if (factor_upper(group_, factor_.get(), group_) != 0) return false;
    std::copy_n(m_blocks_.get() + slot * block_size(), block_size(), scratch_.get());
    solve_transposed(group_, factor_.get(), group_, scratch_.get(), group_, group_);
    transpose(scratch_.get(), group_, group_, group_, kernel_.get(), group_);
    solve_transposed(group_, factor_.get(), group_, kernel_.get(), group_, group_);
    return true;
  }

  void evaluate() {
    for (int64_t slot = 0; slot < units_; ++slot) {
      Real cost = kInfinity<Real>;
      if (factor(slot)) {
        double trace = 0;
        for (int64_t i = 0; i < group_; ++i) trace += kernel_.get()[i * group_ + i];
        if (std::isfinite(trace)) cost = static_cast<Real>(std::max(trace, 0.0));
      }
      cost_.get()[slot] = cost;
    }
  }

  int64_t cheapest() const {
    const Real* cost = cost_.get();
    const Real least = smallest(cost, lanes(units_));
    int64_t best = -1;
    for (int64_t slot = 0; slot < units_; ++slot) {
      if (cost[slot] == least && (best < 0 || unit_[slot] < unit_[best])) best = slot;
    }
    return best;
  }

  void remove(int64_t slot) {
    const int64_t first = slot * group_;
    const int64_t width = round_up(columns_, kVectors * kLanes<Real>);
    for (int64_t a = 0; a < group_; ++a) {
      Real* l = l_row(depth_ + a);
      Real* z = z_row(depth_ + a);
      take_column(p_.get(), first, a, l);
      take_column(m_.get(), first, a, z);
      subtract_panel<Real>({l_row(0), z_row(0), depth_, stride_}, first + a, width, l, z);
    }
    if (group_ == 1) {
      const Real pivot = p_blocks_.get()[slot];
      advance(std::sqrt(pivot), m_blocks_.get()[slot] / pivot / 2, lanes(units_), l_row(depth_),
              z_row(depth_), p_blocks_.get(), m_blocks_.get(), cost_.get());
    } else {
      finish_rows(slot);
      advance_blocks<Real>({l_row(depth_), z_row(depth_), group_, stride_}, group_, units_,
                           p_blocks_.get(), m_blocks_.get());
    }
    depth_ += group_;
    replace_by_last(slot);
    if (group_ > 1) evaluate();
    if (depth_ + group_ > capacity_) flush();
  }

  // Reads column a of the unit whose columns begin at `first`, but for the unit's own rows, and
  // puts that of the last unit in its place: one pass, because every entry of a column is in
  // another page. Up to the diagonal a column is in its row, below in row j.
  void take_column(Real* matrix, int64_t first, int64_t a, Real* out) const {
    const int64_t last = columns_ - group_;
    const Real* source = matrix + (last + a) * stride_;
    Real* row = matrix + (first + a) * stride_;
    Real* column = matrix + first + a;
    for (int64_t j = 0; j < first; ++j) out[j] = -row[j];
    for (int64_t j = first + group_; j < last; ++j) {
      out[j] = -column[j * stride_];
      column[j * stride_] = source[j];
    }
    for (int64_t j = std::max(last, first + group_); j < columns_; ++j) {
      out[j] = -column[j * stride_];
    }
    std::fill_n(out + first, group_, Real{0});
    std::copy_n(source, first, row);
    std::copy_n(source + last, a + 1, row + first);
  }

  // From columns of P and of M to rows of L and Z.
  void finish_rows(int64_t slot) {
    factor(slot);
    for (int64_t i = 0; i < block_size(); ++i) kernel_.get()[i] /= 2;
    solve_transposed(group_, factor_.get(), group_, l_row(depth_), stride_, columns_);
    solve_transposed(group_, factor_.get(), group_, z_row(depth_), stride_, columns_);
    for (int64_t a = 0; a < group_; ++a) {
      subtract_rows(group_, kernel_.get() + a * group_, 1, l_row(depth_), stride_,
                    z_row(depth_ + a), columns_);
    }
  }

  // The rest of what the last unit takes along.
  void replace_by_last(int64_t slot) {
    --units_;
    columns_ -= group_;
    const int64_t to = slot * group_;
    const int64_t size = block_size();
    for (int64_t q = 0; q < depth_; ++q) {
      std::copy_n(l_row(q) + columns_, group_, l_row(q) + to);
      std::copy_n(z_row(q) + columns_, group_, z_row(q) + to);
    }
    for (Real* blocks : {p_blocks_.get(), m_blocks_.get()}) {
      std::copy_n(blocks + units_ * size, size, blocks + slot * size);
      std::fill_n(blocks + units_ * size, size, Real{0});
    }
    cost_.get()[slot] = cost_.get()[units_];
    cost_.get()[units_] = kInfinity<Real>;
    unit_[slot] = unit_[units_];
  }

  // Applies the panel to what is left: -P += L^T L, -M += Z^T L + L^T Z, with [L; Z] packed on the
  // right and [Z; L] on the left.
  void flush() {
    const MicroKernel<Real, Real>& micro = micro_kernel<Real, Real>();
    const MatrixView view = {panel_.get(), dtype(), stride_};
    const int64_t both = 2 * depth_;
    std::vector<int64_t> rows(2 * both);  // of Z, of L, of Z
    for (int64_t q = 0; q < depth_; ++q) {
      rows[q] = rows[both + q] = capacity_ + q;
      rows[depth_ + q] = q;
    }
    Real* const left = packed_.get();
    Real* const right = left + 2 * capacity_ * stride_;
    pack_panels(view, rows.data(), both, 0, columns_, micro.panel, left);
    pack_panels(view, rows.data() + depth_, both, 0, columns_, micro.panel, right);
    for (int64_t strip = 0; strip < columns_; strip += kStrip) {
      for (int64_t i = strip; i < columns_; i += micro.rows) {
        const Real* z_then_l = left + i / micro.panel * micro.panel * both + i % micro.panel;
        const int64_t end = std::min({strip + kStrip, i + micro.rows, columns_});
        for (int64_t j = strip; j < end; j += micro.panel) {
          const Real* l_then_z = right + j * both;
          Real* p = p_.get() + i * stride_ + j;
          Real* m = m_.get() + i * stride_ + j;
          micro.run(both, z_then_l, l_then_z, m, stride_, z_then_l);
          micro.run(depth_, z_then_l + depth_ * micro.panel, l_then_z, p, stride_, z_then_l);
        }
      }
    }
    depth_ = 0;
  }

  int64_t group_, units_, columns_;  // of the units that are left
  int64_t stride_, capacity_;
  Buffer<Real> p_, m_;   // lower triangles of -P and -M without the panel: an update is a sum
  Buffer<Real> panel_;   // capacity_ rows of L, then as many of Z
  int64_t depth_ = 0;    // rows of each in use
  Buffer<Real> packed_;  // the panel for the micro kernel
  Buffer<Real> p_blocks_, m_blocks_;        // diagonal blocks, current
  Buffer<Real> factor_, kernel_, scratch_;  // of a unit of several columns
  Buffer<Real> cost_;                       // of every unit; infinite = cannot go
  std::vector<int32_t> unit_;
};

template <class Real>
void run_sites(const ObsGreedyArgs& args, const TaskRunner& run) {
  struct Task {
    int64_t site, columns, matrix, column, unit;
  };
  std::vector<Task> tasks;
  int64_t matrix = 0, column = 0, unit = 0;
  for (int64_t s = 0; s < args.sites; ++s) {
    const int64_t columns = args.sizes[s] * args.groups[s];
    tasks.push_back({s, columns, matrix, column, unit});
    matrix += columns * columns;
    column += columns;
    unit += args.sizes[s];
  }
  // The longest first, so that the threads finish together.
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.columns > b.columns; });
  run(args.sites, [&](int64_t i) {
    const Task& task = tasks[i];
    Site<Real> site(static_cast<const Real*>(args.inverse) + task.matrix,
                    static_cast<const Real*>(args.weight) + task.column * args.outputs,
                    args.sizes[task.site], args.groups[task.site], args.outputs);
    args.info[task.site] =
        site.run(args.order + task.unit, static_cast<Real*>(args.curve) + task.unit);
  });
}

}  // namespace

Status obs_greedy_cpu(const ObsGreedyArgs& args, const TaskRunner& run) {
  if (args.dtype == DType::f32) {
    run_sites<float>(args, run);
  } else if (args.dtype == DType::f64) {
    run_sites<double>(args, run);
  } else {
    return Status::unsupported_dtype;
  }
  return Status::ok;
}

}  // namespace fastprune
