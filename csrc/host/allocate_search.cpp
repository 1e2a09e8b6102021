#include "allocate_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace fastprune {
namespace {

constexpr double kSame = 1e-12;  // relative: the rounding of sums
constexpr double kFirstGap = 1e-6;
constexpr double kGrowth = 4.0;

bool steeper(const HullSegment& a, const HullSegment& b) { return a.slope > b.slope; }

// The last of the ascending `costs` that fits into `left`, from `at` downwards; 0 if none does.
size_t last_fit(const std::vector<double>& costs, double left, size_t at) {
  while (at > 0 && costs[at] > left) --at;
  return at;
}

}  // namespace

AllocateSearch::AllocateSearch(const std::vector<std::vector<SiteOption>>& sites,
                               const std::vector<int32_t>& base, double lambda, double unspent,
                               double limit)
    : lambda_(lambda), unspent_(unspent), same_cost_(kSame * limit), same_error_(0.0) {
  const double gap = lambda * unspent;
  for (size_t s = 0; s < sites.size(); ++s) {
    const SiteOption& origin = sites[s][base[s]];
    same_error_ += kSame * std::abs(origin.error);
    options_.emplace_back();
    for (const SiteOption& option : sites[s]) {
      const SiteOption moved{option.cost - origin.cost, option.error - origin.error, option.index};
      if (moved.error + lambda * moved.cost <= gap) options_.back().push_back(moved);
    }
  }
}

bool AllocateSearch::improve(int64_t* chosen) {
  const double bound = -lambda_ * unspent_;
  if (best_ - bound <= same_error_) return true;
  for (double gap = kFirstGap * (best_ - bound);; gap *= kGrowth) {
    const bool complete = round(std::min(gap, best_ - bound), chosen);
    if (!complete || best_ - bound <= gap) return complete;
  }
}

void AllocateSearch::prepare(double gap) {
  const size_t count = options_.size();
  std::vector<std::vector<SiteOption>> close(count);
  for (size_t s = 0; s < count; ++s) {
    std::copy_if(options_[s].begin(), options_[s].end(), std::back_inserter(close[s]),
                 [&](const SiteOption& o) { return o.error + lambda_ * o.cost <= gap; });
  }
  order_.clear();
  for (size_t s = 0; s < count; ++s) {
    if (close[s].size() > 1) order_.push_back(s);
  }
  // Long lists first: while there are few partial choices to extend.
  std::stable_sort(order_.begin(), order_.end(),
                   [&](size_t a, size_t b) { return close[a].size() > close[b].size(); });
  close_.clear();
  for (size_t s : order_) close_.push_back(std::move(close[s]));

  rest_.assign(order_.size() + 1, Rest{0.0, 0.0, {}, {}, {}});
  for (size_t t = order_.size(); t-- > 0;) {
    const Rest& later = rest_[t + 1];
    Rest& rest = rest_[t];
    rest.cost = close_[t].front().cost + later.cost;
    rest.error = close_[t].front().error + later.error;
    std::vector<HullSegment> own;
    append_hull(close_[t], static_cast<int32_t>(t), own);
    std::merge(own.begin(), own.end(), later.segments.begin(), later.segments.end(),
               std::back_inserter(rest.segments), steeper);
  }
  for (Rest& rest : rest_) {
    rest.costs.push_back(rest.cost);
    rest.errors.push_back(rest.error);
    for (const HullSegment& segment : rest.segments) {
      rest.costs.push_back(rest.costs.back() + segment.cost);
      rest.errors.push_back(rest.errors.back() + segment.error);
    }
  }
}

// All choices within `gap` of the bound. False if the cap left some out.
bool AllocateSearch::round(double gap, int64_t* chosen) {
  prepare(gap);
  const double worst = gap - lambda_ * unspent_;
  history_.clear();
  bool complete = true;
  Partials partials{{0.0, 0.0, 0, 0}};
  for (size_t t = 0; t < order_.size() && !partials.empty(); ++t) {
    partials = extend(partials, t, 0, close_[t].size(), worst);
    complete &= settle(partials, t, worst, chosen);
  }
  return complete;
}

// `partials` with each of the options [first, last) of site `level`: by halves, then merged.
AllocateSearch::Partials AllocateSearch::extend(const Partials& partials, size_t level,
                                                size_t first, size_t last, double worst) {
  if (last - first > 1) {
    const size_t middle = first + (last - first) / 2;
    return merge(extend(partials, level, first, middle, worst),
                 extend(partials, level, middle, last, worst));
  }
  const SiteOption& option = close_[level][first];
  const Rest& rest = rest_[level + 1];
  const double most = std::min(worst, best_ - same_error_);
  Partials extended;
  size_t at = rest.segments.size();
  for (size_t i = 0; i < partials.size(); ++i) {
    const double cost = partials[i].cost + option.cost;
    const double error = partials[i].error + option.error;
    const double left = unspent_ - cost;
    if (rest.cost > left) break;
    at = last_fit(rest.costs, left, at);
    double bound = error + rest.errors[at];
    if (at < rest.segments.size()) bound -= rest.segments[at].slope * (left - rest.costs[at]);
    if (bound <= most) {
      extended.push_back({cost, error, static_cast<int32_t>(i), static_cast<int32_t>(first)});
    }
  }
  return extended;
}

AllocateSearch::Partials AllocateSearch::merge(const Partials& a, const Partials& b) const {
  // Over all sites and halvings, what is given up here stays below same_error_.
  const double same_error = same_error_ / (32.0 * static_cast<double>(order_.size()));
  Partials merged;
  merged.reserve(a.size() + b.size());
  double first_cost = 0.0;  // of those whose costs count as equal
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool from_b = i == a.size() || (j < b.size() && std::pair(b[j].cost, b[j].error) <
                                                              std::pair(a[i].cost, a[i].error));
    const Partial& next = from_b ? b[j++] : a[i++];
    if (!merged.empty() && !(next.error < merged.back().error - same_error)) continue;
    if (!merged.empty() && next.cost - first_cost <= same_cost_) {
      merged.back() = next;
    } else {
      merged.push_back(next);
      first_cost = next.cost;
    }
  }
  return merged;
}

// Completes each partial choice by the whole hull segments that still fit, keeps the best, and
// drops the partial choices that cannot beat it, or, for the next site, the worst beyond the cap.
bool AllocateSearch::settle(Partials& partials, size_t level, double worst, int64_t* chosen) {
  const Rest& rest = rest_[level + 1];
  std::vector<double> bounds(partials.size());
  size_t at = rest.segments.size();
  size_t best_partial = 0, best_steps = 0;
  bool better = false;
  for (size_t i = 0; i < partials.size(); ++i) {
    const double left = unspent_ - partials[i].cost;
    at = last_fit(rest.costs, left, at);
    const double error = partials[i].error + rest.errors[at];
    bounds[i] = error;
    if (at < rest.segments.size()) {
      bounds[i] -= rest.segments[at].slope * (left - rest.costs[at]);
    }
    if (error < best_ - same_error_) {
      best_ = error;
      best_partial = i;
      best_steps = at;
      better = true;
    }
  }
  if (better) write(partials, level, best_partial, best_steps, chosen);

  const double most = std::min(worst, best_ - same_error_);
  std::vector<size_t> kept;
  for (size_t i = 0; i < partials.size(); ++i) {
    if (bounds[i] <= most) kept.push_back(i);
  }
  const size_t options = level + 1 < close_.size() ? close_[level + 1].size() : 1;
  const size_t cap = std::max<size_t>(kMostCandidates / std::max<size_t>(options, 8), 1);
  const bool complete = kept.size() <= cap;
  if (!complete) {
    std::nth_element(kept.begin(), kept.begin() + cap, kept.end(), [&](size_t a, size_t b) {
      return std::pair(bounds[a], a) < std::pair(bounds[b], b);
    });
    kept.resize(cap);
    std::sort(kept.begin(), kept.end());
  }
  history_.emplace_back();
  for (size_t to = 0; to < kept.size(); ++to) {
    partials[to] = partials[kept[to]];
    history_.back().emplace_back(partials[to].parent, partials[to].option);
  }
  partials.resize(kept.size());
  return complete;
}

// The choice behind partial choice number `partial` of site `level`, completed by `steps` segments.
void AllocateSearch::write(const Partials& partials, size_t level, size_t partial, size_t steps,
                           int64_t* chosen) const {
  std::vector<int32_t> taken(order_.size(), 0);
  taken[level] = partials[partial].option;
  for (size_t t = level, parent = partials[partial].parent; t-- > 0;) {
    taken[t] = history_[t][parent].second;
    parent = history_[t][parent].first;
  }
  for (size_t i = 0; i < steps; ++i) {
    taken[rest_[level + 1].segments[i].site] = rest_[level + 1].segments[i].to;
  }
  for (size_t t = 0; t < order_.size(); ++t) chosen[order_[t]] = close_[t][taken[t]].index;
}

}  // namespace fastprune
