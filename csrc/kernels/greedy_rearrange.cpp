// greedy_rearrange on the CPU: one (mask, site) pair at a time, one linear pass per step.
#include "greedy_rearrange.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "../common/target.h"

namespace fastprune {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr int64_t kLine = 16;  // floats of a cache line

// r += row. Rows lie anywhere, so the next one is fetched meanwhile.
FASTPRUNE_CLONES void add_row(const float* row, const float* next, int64_t units, double* r) {
  for (int64_t begin = 0; begin < units; begin += kLine) {
    __builtin_prefetch(next + begin, 0, 2);
    const int64_t end = std::min(begin + kLine, units);
    for (int64_t j = begin; j < end; ++j) r[j] += static_cast<double>(row[j]);
  }
}

// Units whose smallest cost is noted, so that the search for the cheapest one is short.
constexpr int64_t kBlock = 64;

// One step: r loses the row of the unit that left and gains that of the one that joins, in this
// order; cost[j] = base[j] - 2 r[j], where `base` is F_jj in M and infinity outside. Notes the
// smallest cost of every block, and fetches the row that joins next: which one is known.
FASTPRUNE_CLONES void exchange(const float* leaving, const float* joining, const float* next,
                               const double* base, int64_t units, double* r, double* cost,
                               double* smallest) {
  constexpr int kLanes = 8;
  typedef double Vector __attribute__((vector_size(64), aligned(8), may_alias));
  typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
  for (int64_t begin = 0; begin < units; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, units);
    for (int64_t j = begin; j < end; j += kLine) __builtin_prefetch(next + j, 0, 2);
    Vector lowest;
    for (int k = 0; k < kLanes; ++k) lowest[k] = kInfinity;
    int64_t j = begin;
    for (; j + kLanes <= end; j += kLanes) {
      const Vector gone =
          __builtin_convertvector(*reinterpret_cast<const Floats*>(leaving + j), Vector);
      const Vector come =
          __builtin_convertvector(*reinterpret_cast<const Floats*>(joining + j), Vector);
      Vector& sum = *reinterpret_cast<Vector*>(r + j);
      sum = sum - gone + come;
      const Vector value = *reinterpret_cast<const Vector*>(base + j) - 2.0 * sum;
      *reinterpret_cast<Vector*>(cost + j) = value;
      lowest = value < lowest ? value : lowest;
    }
    double least = kInfinity;
    for (int k = 0; k < kLanes; ++k) least = lowest[k] < least ? lowest[k] : least;
    for (; j < end; ++j) {
      r[j] = r[j] - static_cast<double>(leaving[j]) + static_cast<double>(joining[j]);
      cost[j] = base[j] - 2.0 * r[j];
      least = cost[j] < least ? cost[j] : least;
    }
    smallest[begin / kBlock] = least;
  }
}

class Rearrangement {
 public:
  Rearrangement(const float* fisher, int64_t units)
      : fisher_(fisher),
        units_(units),
        order_(units),
        rank_(units),
        base_(units, kInfinity),
        r_(units, 0.0),
        cost_(units),
        smallest_((units + kBlock - 1) / kBlock),
        nothing_(units, 0.0f),
        diagonal_(units),
        member_(units, false) {
    for (int64_t j = 0; j < units; ++j) diagonal_[j] = row(j)[j];
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return diagonal_[a] < diagonal_[b]; });
    for (int64_t i = 0; i < units; ++i) rank_[order_[i]] = i;
  }

  // Writes the mask with `pruned` units removed.
  void run(int64_t pruned, float* out) {
    for (int64_t i = 0; i < pruned; ++i) {
      enter(order_[i]);
      add_row(row(order_[i]), row(next(i)), units_, r_.data());
    }
    const float* leaving = nothing_.data();
    for (int64_t i = pruned; i < units_; ++i) {
      const int64_t joining = order_[i];
      enter(joining);
      exchange(leaving, row(joining), row(next(i)), base_.data(), units_, r_.data(), cost_.data(),
               smallest_.data());
      const int64_t left = cheapest(joining);
      base_[left] = kInfinity;
      member_[left] = false;
      leaving = row(left);
    }
    for (int64_t j = 0; j < units_; ++j) out[j] = member_[j] ? 0.0f : 1.0f;
  }

 private:
  void enter(int64_t unit) {
    base_[unit] = diagonal_[unit];
    member_[unit] = true;
  }

  int64_t next(int64_t i) const { return order_[std::min(i + 1, units_ - 1)]; }
  const float* row(int64_t unit) const { return fisher_ + unit * units_; }

  // Units enter M once, in order, so insertion order is the rank. Where no cost compares (NaN), the
  // newest goes.
  int64_t cheapest(int64_t newest) const {
    const double lowest = *std::min_element(smallest_.begin(), smallest_.end());
    int64_t best = newest;
    for (int64_t block = 0; block * kBlock < units_; ++block) {
      if (smallest_[block] != lowest) continue;
      const int64_t end = std::min((block + 1) * kBlock, units_);
      for (int64_t j = block * kBlock; j < end; ++j) {
        if (cost_[j] == lowest && member_[j] && rank_[j] <= rank_[best]) best = j;
      }
    }
    return best;
  }

  const float* fisher_;
  int64_t units_;
  std::vector<int64_t> order_, rank_;
  std::vector<double> base_, r_, cost_, smallest_;
  std::vector<float> nothing_;
  std::vector<double> diagonal_;
  std::vector<bool> member_;
};

}  // namespace

Status greedy_rearrange_cpu(const GreedyRearrangeArgs& args, int64_t begin, int64_t end) {
  const int64_t total = std::accumulate(args.sizes, args.sizes + args.sites, int64_t{0});
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t problem = pair / args.sites;
    const int64_t site = pair % args.sites;
    int64_t column = problem * total;
    const float* fisher = args.blocks;
    for (int64_t s = 0; s < site; ++s) {
      column += args.sizes[s];
      fisher += args.sizes[s] * args.sizes[s];
    }
    const int64_t units = args.sizes[site];
    const float* mask = args.masks + column;
    float* out = args.out + column;
    const int64_t pruned = std::count(mask, mask + units, 0.0f);
    if (pruned == 0 || pruned == units) {
      std::fill_n(out, units, pruned == 0 ? 1.0f : 0.0f);
    } else {
      Rearrangement(fisher, units).run(pruned, out);
    }
  }
  return Status::ok;
}

}  // namespace fastprune
