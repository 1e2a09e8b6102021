#include "fisher_outer.cuh"

namespace fastprune {
namespace {

// Calls body(batch, plan) for each batch of sites.
template <typename Body>
Status for_each_plan(const FisherOuterArgs& args, const Body& body) {
  return for_each_batch(args.sizes, args.sites, syrk::tiles_of, [&](const SiteBatch& batch) {
    return body(batch, syrk::plan_for(batch.work, args.rows, args.dtype));
  });
}

}  // namespace

int64_t fisher_outer_workspace(const FisherOuterArgs& args) {
  // Batches run one after another on the stream and share the workspace.
  int64_t elements = 0;
  for_each_plan(args, [&](const SiteBatch& batch, const syrk::Plan& plan) {
    elements = max_of(elements, syrk::workspace_elements(batch.work, plan));
    return Status::ok;
  });
  return elements * static_cast<int64_t>(sizeof(float));
}

Status fisher_outer_cuda(const FisherOuterArgs& args, void* scratch, Stream stream) {
  auto* workspace = static_cast<float*>(scratch);
  return dispatch_input(args.dtype, [&](auto tag) {
    using Element = typename decltype(tag)::Type;
    return for_each_plan(args, [&](const SiteBatch& batch, const syrk::Plan& plan) {
      const Status status = launch(
          fisher_outer::kernel<Element>, grid_for(batch.work * plan.splits), dim3(syrk::kThreads),
          sizeof(syrk::Storage<Element, float>), stream, args, batch, plan, workspace);
      if (status != Status::ok || plan.splits == 1) return status;
      return launch(fisher_outer::combine_kernel, grid_for(batch.work * syrk::kCombineBlocks),
                    dim3(syrk::kThreads), 0, stream, args.blocks, batch, plan, workspace);
    });
  });
}

}  // namespace fastprune
