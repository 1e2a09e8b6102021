#include "allocate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "allocate_search.h"

namespace fastprune {
namespace {

constexpr double kSlack = 1e-9;  // relative: a choice that exactly fits is not lost to rounding

std::vector<SiteOption> pareto(std::span<const double> errors, std::span<const double> costs) {
  std::vector<int64_t> order(errors.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return costs[a] < costs[b] || (costs[a] == costs[b] && errors[a] < errors[b]);
  });
  std::vector<SiteOption> kept;
  for (int64_t k : order) {
    if (kept.empty() || errors[k] < kept.back().error) kept.push_back({costs[k], errors[k], k});
  }
  return kept;
}

double slope(const SiteOption& from, const SiteOption& to) {
  return (from.error - to.error) / (to.cost - from.cost);
}

}  // namespace

void append_hull(std::span<const SiteOption> options, int32_t site, std::vector<HullSegment>& to) {
  // Points on a straight piece stay, so that the base can stop at each: rounding must not drop
  // them.
  constexpr double kStraight = 1e-12;
  std::vector<int32_t> hull;
  for (int32_t k = 0; k < static_cast<int32_t>(options.size()); ++k) {
    while (hull.size() > 1) {
      const double before = slope(options[hull.end()[-2]], options[hull.back()]);
      if (slope(options[hull.back()], options[k]) <= before * (1 + kStraight)) break;
      hull.pop_back();
    }
    hull.push_back(k);
  }
  double steepest = std::numeric_limits<double>::max();
  for (size_t i = 1; i < hull.size(); ++i) {
    const SiteOption& a = options[hull[i - 1]];
    const SiteOption& b = options[hull[i]];
    steepest = std::min(steepest, slope(a, b));
    to.push_back({steepest, b.cost - a.cost, b.error - a.error, site, hull[i]});
  }
}

Allocator::Allocator(const std::vector<std::span<const double>>& errors,
                     const std::vector<std::span<const double>>& costs) {
  for (size_t s = 0; s < errors.size(); ++s) {
    sites_.push_back(pareto(errors[s], costs[s]));
    append_hull(sites_.back(), static_cast<int32_t>(s), segments_);
  }
  std::stable_sort(segments_.begin(), segments_.end(),
                   [](const auto& a, const auto& b) { return a.slope > b.slope; });
}

bool Allocator::solve(double budget, int64_t* chosen) const {
  const double limit = std::isfinite(budget) ? budget + kSlack * std::abs(budget) : budget;
  double spent = 0.0;
  for (const auto& site : sites_) spent += site.front().cost;
  if (spent > limit) {
    std::fill_n(chosen, sites_.size(), int64_t{-1});
    return true;
  }
  std::vector<int32_t> base(sites_.size(), 0);
  auto next = segments_.begin();
  for (; next != segments_.end() && spent + next->cost <= limit; ++next) {
    spent += next->cost;
    base[next->site] = next->to;
  }
  for (size_t s = 0; s < sites_.size(); ++s) chosen[s] = sites_[s][base[s]].index;
  return next == segments_.end() ||
         AllocateSearch(sites_, base, next->slope, limit - spent, limit).improve(chosen);
}

}  // namespace fastprune
