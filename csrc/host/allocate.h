// allocate: how much each site keeps under a budget (the multiple-choice knapsack problem; Sinha &
// Zoltners 1979 for the problem, its convex relaxation and the dominance rules).
//
//   minimise  sum_s error[s][k_s]   subject to   sum_s cost[s][k_s] <= budget (1 + 1e-9)
//
// Bound. With every site's options replaced by the lower convex hull of (cost, error), the best
// split buys hull segments in the order of their slopes until the next one, of slope -lambda, no
// longer fits. That leaves a feasible choice, the base, and some unspent budget; no choice gains
// more than lambda * unspent on the base.
//
// Search. Relative to the base, option k of site s wastes r = d_error + lambda * d_cost >= 0, and a
// choice within g of the bound wastes at most g in total. So for a growing g, the options with
// r <= g are combined site by site, as a list of partial choices that are Pareto optimal in
// (cost, error) and whose own bound, over the hulls of the sites still to come, is within g and
// better than the best choice known. A round that finds a choice within its g has proved it
// optimal.
//
// Ties. Of a site's options, one that is no cheaper and no better than another is never chosen; of
// equal ones, the lower index is. The first choice found stays unless another is better by 1e-12 of
// the base's sum of |error|. Costs that differ by 1e-12 of the budget count as equal.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastprune {

struct SiteOption {
  double cost;
  double error;
  int64_t index;  // among the options as they were given
};

// A step along the hull of one site, to its option number `to`.
struct HullSegment {
  double slope;  // error saved per cost
  double cost;   // additional
  double error;  // additional, negative
  int32_t site;
  int32_t to;
};

// Adds the hull of `options` (cost increasing, error decreasing), steepest segment first.
void append_hull(std::span<const SiteOption> options, int32_t site, std::vector<HullSegment>& to);

class Allocator {
 public:
  // One span per site; every site has as many errors as costs, and at least one.
  Allocator(const std::vector<std::span<const double>>& errors,
            const std::vector<std::span<const double>>& costs);

  // The option of every site, or -1 for all if even the cheapest ones cost too much. Returns
  // whether the choice is proved optimal; see kMostCandidates in allocate_search.h.
  bool solve(double budget, int64_t* chosen) const;

 private:
  std::vector<std::vector<SiteOption>> sites_;  // Pareto optimal, by increasing cost
  std::vector<HullSegment> segments_;           // of all sites, steepest first
};

}  // namespace fastprune
