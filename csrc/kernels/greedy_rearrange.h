// greedy_rearrange: mask rearrangement under the block-diagonal Fisher, every site of every mask.
//
// Per (mask, site) with Fisher block F and p pruned units: order the units by ascending F_jj (ties:
// lower index first); start with M = the first p of that order. For each further unit u in order:
// add u to M, then take out of M the unit j with the smallest
//   1_M^T F 1_M - 2 r_j + F_jj,   r = F 1_M
// (ties: the earliest in M's insertion order, where u is the last). Finally M is what is pruned.
// Kwon et al. 2022, section 4.2. r is kept up to date in f64, so a step costs O(units).
// The number of kept units per site never changes. Sites with nothing kept or nothing pruned are
// copied through.
#pragma once

#include "../common/types.h"

namespace fastprune {

struct GreedyRearrangeArgs {
  const float* blocks;  // [sum(sizes^2)], layout of fisher_outer
  const float* masks;   // [problems, sum(sizes)] contiguous, nonzero = kept
  int64_t problems;     // independent masks (budgets)
  int64_t sites;
  const int64_t* sizes;  // [sites], host memory
  float* out;            // [problems, sum(sizes)] contiguous, 0 or 1
};

// Pairs (problem, site), problem-major, [begin, end) on the calling thread.
Status greedy_rearrange_cpu(const GreedyRearrangeArgs& args, int64_t begin, int64_t end);
// `workspace` is device memory of at least greedy_rearrange_workspace(args) bytes.
int64_t greedy_rearrange_workspace(const GreedyRearrangeArgs& args);
Status greedy_rearrange_cuda(const GreedyRearrangeArgs& args, void* workspace, Stream stream);

}  // namespace fastprune
