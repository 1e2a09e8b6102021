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
constexpr double kNoUnit = 1e-11;    // of the limit: the rounding of a remainder
constexpr double kLeastUnit = 1e-8;  // of the limit

// The greatest common divisor of two real numbers, of which those up to `zero` are rounding.
double common_unit(double a, double b, double zero) {
  while (b > zero) a = std::exchange(b, std::abs(std::remainder(a, b)));
  return a;
}

}  // namespace

// Walks down the hull of the sites still to come, as partial choices grow more expensive.
class AllocateSearch::Cursor {
 public:
  Cursor(const Rest& rest, double left) : rest_(rest) {
    const auto above = std::upper_bound(rest.costs.begin(), rest.costs.end(), left);
    steps_ = static_cast<size_t>(std::max<ptrdiff_t>(above - rest.costs.begin(), 1) - 1);
  }

  // Whether the cheapest options fit into `left`, which must not grow from call to call.
  bool down_to(double left) {
    left_ = left;
    while (steps_ > 0 && rest_.costs[steps_] > left) --steps_;
    return rest_.costs[steps_] <= left;
  }

  size_t steps() const { return steps_; }                // segments that fit
  double whole() const { return rest_.errors[steps_]; }  // error after them
  double bound() const {                                 // and with a part of the next
    if (steps_ == rest_.segments.size()) return whole();
    return whole() - rest_.segments[steps_].slope * (left_ - rest_.costs[steps_]);
  }

 private:
  const Rest& rest_;
  size_t steps_;
  double left_ = 0.0;
};

AllocateSearch::AllocateSearch(const std::vector<std::vector<SiteOption>>& sites,
                               const std::vector<int32_t>& base, double lambda, double unspent,
                               double limit)
    : lambda_(lambda),
      unspent_(unspent),
      limit_(limit),
      same_cost_(kSame * limit),
      same_error_(0.0) {
  const double gap = lambda * unspent;
  for (size_t s = 0; s < sites.size(); ++s) {
    const SiteOption& origin = sites[s][base[s]];
    same_error_ += kSame * std::abs(origin.error);
    base_.push_back(origin.index);
    options_.emplace_back();
    for (const SiteOption& option : sites[s]) {
      const SiteOption moved{option.cost - origin.cost, option.error - origin.error, option.index};
      if (moved.error + lambda * moved.cost <= gap) options_.back().push_back(moved);
    }
  }
}

bool AllocateSearch::improve(int64_t* chosen) {
  const double bound = -lambda_ * unspent_;
  fill(chosen);
  bool complete = true;
  for (double gap = kFirstGap * (best_ - bound); best_ - bound > same_error_; gap *= kGrowth) {
    complete = round(std::min(gap, best_ - bound), chosen);
    if (best_ - bound <= gap) break;
  }
  return complete || best_ - bound <= same_error_;
}

// Spends what the base leaves: again and again the one change that gains most, of those that fit.
void AllocateSearch::fill(int64_t* chosen) {
  std::vector<SiteOption> now(options_.size(), SiteOption{0.0, 0.0, 0});
  double left = unspent_;
  for (size_t change = 0; change < options_.size(); ++change) {
    size_t site = 0;
    const SiteOption* to = nullptr;
    double gain = same_error_;
    for (size_t s = 0; s < options_.size(); ++s) {
      // The last option that fits is the best one of its site.
      const auto above = std::upper_bound(
          options_[s].begin(), options_[s].end(), now[s].cost + left,
          [](double most, const SiteOption& option) { return most < option.cost; });
      if (above == options_[s].begin() || now[s].error - above[-1].error <= gain) continue;
      gain = now[s].error - above[-1].error;
      site = s;
      to = &above[-1];
    }
    if (to == nullptr) break;
    left -= to->cost - now[site].cost;
    best_ -= gain;
    now[site] = *to;
    chosen[site] = to->index;
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

  rest_.segments.clear();
  for (size_t t = 0; t < close_.size(); ++t) {
    append_hull(close_[t], static_cast<int32_t>(t), rest_.segments);
  }
  std::stable_sort(rest_.segments.begin(), rest_.segments.end(),
                   [](const auto& a, const auto& b) { return a.slope > b.slope; });
  find_room();
}

// What can be spent: if all costs are multiples of a common unit, whole units. Else what is left of
// one unit would count as a gap, and equal straight curves, which waste nothing wherever they are
// cut, would be tried in every way.
void AllocateSearch::find_room() {
  double unit = 0.0;
  for (const auto& options : close_) {
    for (const SiteOption& option : options) {
      unit = common_unit(unit, std::abs(option.cost), kNoUnit * limit_);
    }
  }
  room_ = unspent_;
  if (unit > kLeastUnit * limit_) {
    room_ = std::min(room_, std::floor(unspent_ / unit + kLeastUnit) * unit + same_cost_);
  }
}

// Leaves only sites after `level` in `rest_`.
void AllocateSearch::drop_site(size_t level) {
  std::erase_if(rest_.segments, [&](const HullSegment& segment) {
    return segment.site == static_cast<int32_t>(level);
  });
  rest_.costs.assign(1, 0.0);
  rest_.errors.assign(1, 0.0);
  for (size_t t = level + 1; t < close_.size(); ++t) {
    rest_.costs[0] += close_[t].front().cost;
    rest_.errors[0] += close_[t].front().error;
  }
  for (const HullSegment& segment : rest_.segments) {
    rest_.costs.push_back(rest_.costs.back() + segment.cost);
    rest_.errors.push_back(rest_.errors.back() + segment.error);
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
    drop_site(t);
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
  const double most = std::min(worst, best_ - same_error_);
  Partials extended;
  Cursor cursor(rest_, room_ - partials.front().cost - option.cost);
  for (size_t i = 0; i < partials.size(); ++i) {
    const double cost = partials[i].cost + option.cost;
    const double error = partials[i].error + option.error;
    if (!cursor.down_to(room_ - cost)) break;
    if (error + cursor.bound() <= most) {
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

// Completes each partial choice by the whole hull segments that still fit, keeps the best, drops
// the partial choices that cannot beat it, and thins what is left down to the cap. False if it had
// to.
bool AllocateSearch::settle(Partials& partials, size_t level, double worst, int64_t* chosen) {
  std::vector<double> bounds(partials.size());
  size_t best_partial = 0, best_steps = 0;
  bool better = false;
  Cursor cursor(rest_, partials.empty() ? 0.0 : room_ - partials.front().cost);
  for (size_t i = 0; i < partials.size(); ++i) {
    cursor.down_to(room_ - partials[i].cost);
    bounds[i] = partials[i].error + cursor.bound();
    const double error = partials[i].error + cursor.whole();
    if (error < best_ - same_error_) {
      best_ = error;
      best_partial = i;
      best_steps = cursor.steps();
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
    // The most promising of every few neighbours in cost: what is lost is small, at any cost.
    const size_t few = (kept.size() + cap - 1) / cap;
    size_t groups = 0;
    for (size_t i = 0; i < kept.size(); i += few) {
      kept[groups++] =
          *std::min_element(kept.begin() + i, kept.begin() + std::min(i + few, kept.size()),
                            [&](size_t a, size_t b) { return bounds[a] < bounds[b]; });
    }
    kept.resize(groups);
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
    taken[rest_.segments[i].site] = rest_.segments[i].to;
  }
  std::copy(base_.begin(), base_.end(), chosen);
  for (size_t t = 0; t < order_.size(); ++t) chosen[order_[t]] = close_[t][taken[t]].index;
}

}  // namespace fastprune
