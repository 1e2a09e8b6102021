// greedy_rearrange on the CPU: one (mask, site) pair at a time, two linear passes per step.
#include "greedy_rearrange.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "../common/target.h"

namespace fastprune {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

FASTPRUNE_CLONES void add_row(const float* row, double sign, int64_t units, double* r) {
  for (int64_t j = 0; j < units; ++j) r[j] += sign * static_cast<double>(row[j]);
}

// cost[j] = base[j] - 2 r[j], where `base` is F_jj in M and infinity outside; returns the smallest.
// Eight running minima, since the compiler may not reorder a single one.
FASTPRUNE_CLONES double removal_costs(const double* base, const double* r, int64_t units,
                                      double* cost) {
  constexpr int kLanes = 8;
  double smallest[kLanes];
  for (int k = 0; k < kLanes; ++k) smallest[k] = kInfinity;
  int64_t j = 0;
  for (; j + kLanes <= units; j += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      const double value = base[j + k] - 2.0 * r[j + k];
      cost[j + k] = value;
      smallest[k] = value < smallest[k] ? value : smallest[k];
    }
  }
  for (; j < units; ++j) {
    cost[j] = base[j] - 2.0 * r[j];
    smallest[0] = cost[j] < smallest[0] ? cost[j] : smallest[0];
  }
  for (int k = 1; k < kLanes; ++k) {
    smallest[0] = smallest[k] < smallest[0] ? smallest[k] : smallest[0];
  }
  return smallest[0];
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
        cost_(units) {
    std::iota(order_.begin(), order_.end(), int64_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return diagonal(a) < diagonal(b); });
    for (int64_t i = 0; i < units; ++i) rank_[order_[i]] = i;
  }

  // Writes the mask with `pruned` units removed.
  void run(int64_t pruned, float* out) {
    for (int64_t i = 0; i < units_; ++i) {
      insert(order_[i]);
      if (i >= pruned) remove(cheapest(order_[i]));
    }
    for (int64_t j = 0; j < units_; ++j) out[j] = base_[j] == kInfinity ? 1.0f : 0.0f;
  }

 private:
  double diagonal(int64_t unit) const { return fisher_[unit * units_ + unit]; }

  void insert(int64_t unit) {
    base_[unit] = diagonal(unit);
    add_row(fisher_ + unit * units_, 1.0, units_, r_.data());
  }

  void remove(int64_t unit) {
    base_[unit] = kInfinity;
    add_row(fisher_ + unit * units_, -1.0, units_, r_.data());
  }

  // Units enter M once, in order, so insertion order is the rank.
  int64_t cheapest(int64_t newest) {
    const double smallest = removal_costs(base_.data(), r_.data(), units_, cost_.data());
    int64_t best = newest;
    for (int64_t j = 0; j < units_; ++j) {
      if (cost_[j] == smallest && rank_[j] <= rank_[best]) best = j;
    }
    return best;
  }

  const float* fisher_;
  int64_t units_;
  std::vector<int64_t> order_, rank_;
  std::vector<double> base_, r_, cost_;
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
