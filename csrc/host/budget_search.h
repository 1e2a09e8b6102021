// budget_search: the best split of a budget between heads and filters (Kwon et al. 2022, alg. 1).
//
// Units are taken in descending importance (ties: lower index first). For n = 1..H heads (n = 0 if
// there are none) whose cost fits the budget, the rest buys as many filters as it can; the n with
// the largest kept importance wins (ties: the smaller n). Sorting once answers every budget.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastprune {

struct UnitCounts {
  int64_t heads;
  int64_t filters;
  bool feasible;
};

class BudgetSearch {
 public:
  BudgetSearch(std::span<const double> heads, std::span<const double> filters, double head_cost,
               double filter_cost);

  UnitCounts solve(double budget) const;

  // The `count` most important units, 1 = kept; `mask` holds one byte per unit.
  void mark_heads(int64_t count, uint8_t* mask) const;
  void mark_filters(int64_t count, uint8_t* mask) const;

 private:
  struct Ranking {
    std::vector<int64_t> order;  // by descending importance
    std::vector<double> total;   // [n + 1] importance of the first n
  };
  static Ranking rank(std::span<const double> importance);

  Ranking heads_;
  Ranking filters_;
  double head_cost_;
  double filter_cost_;
};

}  // namespace fastprune
