#include "path_step.cuh"

namespace fastprune {

Status path_step_cuda(const PathStepArgs& args, Stream stream) {
  using namespace path_step;
  if (args.paths == 0 || args.units == 0) return Status::ok;
  const dim3 grid = grid_for(ceil_div(args.units, kThreads), args.paths);
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    return launch(kernel<Real>, grid, dim3(kThreads), 0, stream, args);
  });
}

}  // namespace fastprune
