#include "fisher_outer.cuh"

namespace fastprune {

Status fisher_outer_cuda(const FisherOuterArgs& args, Stream stream) {
  return dispatch_input(args.dtype, [&](auto element) {
    const auto kernel = fisher_outer::kernel<typename decltype(element)::Type>;
    return for_each_batch(args.sizes, args.sites, syrk::tiles_of, [&](const SiteBatch& batch) {
      return launch(kernel, grid_for(batch.work), dim3(syrk::kThreads),
                    sizeof(syrk::Storage<float>), stream, args, batch);
    });
  });
}

}  // namespace fastprune
