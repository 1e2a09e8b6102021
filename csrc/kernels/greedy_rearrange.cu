#include <algorithm>
#include <numeric>

#include "greedy_rearrange.cuh"

namespace fastprune {
namespace {

using namespace greedy_rearrange;

int64_t total_units(const GreedyRearrangeArgs& args) {
  return std::accumulate(args.sizes, args.sizes + args.sites, int64_t{0});
}

constexpr int64_t kWidestInRegisters = kMostInRegisters * kThreads;

// The widest array first keeps every array aligned.
Memory carve(void* workspace, int64_t count) {
  auto* response = static_cast<double*>(workspace);
  auto* diagonal = reinterpret_cast<float*>(response + count);
  auto* rank = reinterpret_cast<int32_t*>(diagonal + count);
  return {response, diagonal, rank, rank + count};
}

// The kernel for sites of up to `widest` units, with its shared memory.
struct Chosen {
  decltype(&kernel<kInMemory>) function;
  size_t shared_bytes;
};
template <int kUnits>
constexpr Chosen chosen = {kernel<kUnits>, sizeof(Storage<kUnits>)};

Chosen kernel_for(int64_t widest) {
  switch (ceil_div(widest, kThreads)) {
    case 0:
    case 1:
      return chosen<1>;
    case 2:
      return chosen<2>;
    case 3:
    case 4:
      return chosen<4>;
    case 5:
    case 6:
      return chosen<6>;
    case 7:
    case kMostInRegisters:
      return chosen<kMostInRegisters>;
    default:
      return chosen<kInMemory>;
  }
}

}  // namespace

int64_t greedy_rearrange_workspace(const GreedyRearrangeArgs& args) {
  const bool wide = std::any_of(args.sizes, args.sizes + args.sites,
                                [](int64_t units) { return units > kWidestInRegisters; });
  return wide ? kStateBytes * args.problems * total_units(args) : 0;
}

Status greedy_rearrange_cuda(const GreedyRearrangeArgs& args, void* workspace, Stream stream) {
  if (args.problems == 0 || args.sites == 0) return Status::ok;
  const int64_t units = total_units(args);
  const Memory memory = carve(workspace, args.problems * units);
  const auto units_of = [](int64_t units) { return units; };
  return for_each_batch(args.sizes, args.sites, units_of, [&](const SiteBatch& batch) {
    const int64_t widest = *std::max_element(batch.units, batch.units + batch.count);
    const int64_t threads = min_of(ceil_div(widest, kWarpSize) * kWarpSize, kThreads);
    const Chosen fitting = kernel_for(widest);
    return launch(fitting.function, grid_for(batch.count, args.problems),
                  dim3(static_cast<unsigned>(threads)), fitting.shared_bytes, stream, args, batch,
                  units, memory);
  });
}

}  // namespace fastprune
