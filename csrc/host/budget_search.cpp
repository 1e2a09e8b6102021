#include "budget_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastprune {
namespace {

constexpr double kSlack = 1e-9;  // relative: a unit that exactly fits is not lost to rounding

void mark(const std::vector<int64_t>& order, int64_t count, uint8_t* mask) {
  std::fill_n(mask, order.size(), uint8_t{0});
  for (int64_t i = 0; i < count; ++i) mask[order[i]] = 1;
}

}  // namespace

BudgetSearch::Ranking BudgetSearch::rank(std::span<const double> importance) {
  Ranking ranking{std::vector<int64_t>(importance.size()),
                  std::vector<double>(importance.size() + 1, 0.0)};
  std::iota(ranking.order.begin(), ranking.order.end(), int64_t{0});
  std::stable_sort(ranking.order.begin(), ranking.order.end(),
                   [&](int64_t a, int64_t b) { return importance[a] > importance[b]; });
  for (size_t i = 0; i < importance.size(); ++i) {
    ranking.total[i + 1] = ranking.total[i] + importance[ranking.order[i]];
  }
  return ranking;
}

BudgetSearch::BudgetSearch(std::span<const double> heads, std::span<const double> filters,
                           double head_cost, double filter_cost)
    : heads_(rank(heads)),
      filters_(rank(filters)),
      head_cost_(head_cost),
      filter_cost_(filter_cost) {}

UnitCounts BudgetSearch::solve(double budget) const {
  const int64_t heads = static_cast<int64_t>(heads_.order.size());
  const int64_t filters = static_cast<int64_t>(filters_.order.size());
  const double slack = kSlack * std::abs(budget);
  UnitCounts best{0, 0, false};
  double best_importance = 0.0;
  for (int64_t n = std::min<int64_t>(1, heads); n <= heads; ++n) {
    const double left = budget - static_cast<double>(n) * head_cost_;
    if (left < -slack) break;
    // Clamped before the conversion: an unlimited budget buys more than an integer counts.
    const double affordable = std::floor((std::max(left, 0.0) + slack) / filter_cost_);
    const int64_t bought =
        affordable < static_cast<double>(filters) ? static_cast<int64_t>(affordable) : filters;
    const double importance = heads_.total[n] + filters_.total[bought];
    if (!best.feasible || importance > best_importance) {
      best = {n, bought, true};
      best_importance = importance;
    }
  }
  return best;
}

void BudgetSearch::mark_heads(int64_t count, uint8_t* mask) const {
  mark(heads_.order, count, mask);
}

void BudgetSearch::mark_filters(int64_t count, uint8_t* mask) const {
  mark(filters_.order, count, mask);
}

}  // namespace fastprune
