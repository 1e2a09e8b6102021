// The exact part of allocate (allocate.h): from the base choice to the best one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "allocate.h"

namespace fastprune {

// A site's options times the partial choices that they extend. Beyond it, only the most promising
// of every few partial choices of like cost goes on, and the result, though feasible and no worse
// than the base, is not proved.
constexpr size_t kMostCandidates = size_t{1} << 20;

class AllocateSearch {
 public:
  // `base`: an option number per site; `lambda`: error per cost; `unspent`: what the base leaves of
  // `limit`.
  AllocateSearch(const std::vector<std::vector<SiteOption>>& sites,
                 const std::vector<int32_t>& base, double lambda, double unspent, double limit);

  // Replaces the base in `chosen` by a better choice if there is one. Whether it is now optimal.
  bool improve(int64_t* chosen);

 private:
  // A choice for the first sites. Costs and errors here are differences from the base.
  struct Partial {
    double cost;
    double error;
    int32_t parent;  // the partial choice it extends
    int32_t option;
  };
  using Partials = std::vector<Partial>;

  // The best that the sites still to come could do: the sums before each segment of their hulls.
  struct Rest {
    std::vector<HullSegment> segments;
    std::vector<double> costs, errors;  // [segments + 1]
  };

  class Cursor;

  void fill(int64_t* chosen);
  bool round(double gap, int64_t* chosen);
  void prepare(double gap);
  void find_room();
  void drop_site(size_t level);
  Partials extend(const Partials& partials, size_t level, size_t first, size_t last, double worst);
  Partials merge(const Partials& a, const Partials& b) const;
  bool settle(Partials& partials, size_t level, double worst, int64_t* chosen);
  void write(const Partials& partials, size_t level, size_t partial, size_t steps,
             int64_t* chosen) const;

  std::vector<std::vector<SiteOption>> options_;  // all, differences from the base
  std::vector<int64_t> base_;
  double lambda_;
  double unspent_;
  double limit_;
  double same_cost_;
  double same_error_;
  double best_ = 0.0;  // error of the best choice, at most that of the base

  // Of the current round.
  std::vector<size_t> order_;                   // sites with a choice, most options first
  std::vector<std::vector<SiteOption>> close_;  // their options with r <= gap
  Rest rest_;
  double room_;  // what of unspent_ can be spent at all
  std::vector<std::vector<std::pair<int32_t, int32_t>>> history_;  // parents and options
};

}  // namespace fastprune
