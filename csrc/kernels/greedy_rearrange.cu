#include <algorithm>
#include <numeric>

#include "greedy_rearrange.cuh"

namespace fastprune {
namespace {

using namespace greedy_rearrange;

int64_t total_units(const GreedyRearrangeArgs& args) {
  return std::accumulate(args.sizes, args.sizes + args.sites, int64_t{0});
}

// The widest array first keeps every array aligned.
State carve(void* workspace, int64_t count) {
  auto* response = static_cast<double*>(workspace);
  auto* diagonal = reinterpret_cast<float*>(response + count);
  auto* rank = reinterpret_cast<int32_t*>(diagonal + count);
  return {response, diagonal, rank, rank + count};
}

}  // namespace

int64_t greedy_rearrange_workspace(const GreedyRearrangeArgs& args) {
  return kStateBytes * args.problems * total_units(args);
}

Status greedy_rearrange_cuda(const GreedyRearrangeArgs& args, void* workspace, Stream stream) {
  if (args.problems == 0 || args.sites == 0) return Status::ok;
  const int64_t units = total_units(args);
  const State state = carve(workspace, args.problems * units);
  const int64_t widest = *std::max_element(args.sizes, args.sizes + args.sites);
  const int64_t threads = min_of(ceil_div(widest, kWarpSize) * kWarpSize, kMaxThreads);

  const auto units_of = [](int64_t units) { return units; };
  return for_each_batch(args.sizes, args.sites, units_of, [&](const SiteBatch& batch) {
    return launch(kernel, grid_for(batch.count, args.problems),
                  dim3(static_cast<unsigned>(threads)), sizeof(Storage), stream, args, batch, units,
                  state);
  });
}

}  // namespace fastprune
