#include "hard_concrete.cuh"

namespace fastprune {
namespace {

// Calls body(batch) for batches of all parts: one that is empty has a mean, too.
template <typename Body>
Status for_each_part(const HardConcreteArgs& args, const Body& body) {
  return for_each_batch(args.sizes, args.sites + 2, [](int64_t) { return int64_t{1}; }, body);
}

}  // namespace

Status hard_concrete_cuda(const HardConcreteArgs& args, Stream stream) {
  using namespace hard_concrete;
  Sublayers sublayers{0, args.sizes[args.sites]};
  for (int64_t site = 0; site < args.sites; ++site) sublayers.first += args.sizes[site];
  const dim3 block(kThreads);
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    const Status drawn = for_each_part(args, [&](const SiteBatch& batch) {
      return launch(draw_kernel<Real>, grid_for(batch.work), block, sizeof(Storage), stream, args,
                    batch);
    });
    if (drawn != Status::ok) return drawn;
    return for_each_part(args, [&](const SiteBatch& batch) {
      return launch(slope_kernel<Real>, grid_for(batch.work), block, sizeof(Storage), stream, args,
                    batch, sublayers);
    });
  });
}

}  // namespace fastprune
