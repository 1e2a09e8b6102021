#include "gram.cuh"

namespace fastprune {
namespace {

syrk::Plan plan_of(const GramArgs& args) {
  return syrk::plan_for(syrk::tiles_of(args.selected), args.rows, args.dtype);
}

template <typename Element, typename Out>
Status launch_for(const GramArgs& args, void* scratch, Stream stream) {
  const syrk::Panel<Element> panel = {static_cast<const Element*>(args.x),
                                      args.rows,
                                      args.row_stride,
                                      args.selected,
                                      args.columns,
                                      args.valid};
  const int tiles = static_cast<int>(syrk::tiles_of(args.selected));
  const syrk::Plan plan = plan_of(args);
  auto* out = static_cast<Out*>(args.out);
  auto* workspace = static_cast<Out*>(scratch);
  const Status status =
      launch(gram::kernel<Element, Out>, grid_for(tiles * plan.splits), dim3(syrk::kThreads),
             sizeof(syrk::Storage<Element, Out>), stream, panel, tiles, plan, out, workspace);
  if (status != Status::ok || plan.splits == 1) return status;
  return launch(gram::combine_kernel<Out>, grid_for(tiles * syrk::kCombineBlocks),
                dim3(syrk::kThreads), 0, stream, args.selected, tiles, plan, out, workspace);
}

}  // namespace

int64_t gram_workspace(const GramArgs& args) {
  const int64_t bytes = args.out_dtype == DType::f64 ? sizeof(double) : sizeof(float);
  return bytes * syrk::workspace_elements(syrk::tiles_of(args.selected), plan_of(args));
}

Status gram_cuda(const GramArgs& args, void* workspace, Stream stream) {
  if (args.selected == 0) return Status::ok;
  return dispatch_input(args.dtype, [&](auto element) {
    return dispatch_statistic(args.out_dtype, [&](auto out) {
      return launch_for<typename decltype(element)::Type, typename decltype(out)::Type>(
          args, workspace, stream);
    });
  });
}

}  // namespace fastprune
