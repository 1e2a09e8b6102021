#include "masked_norm_backward.cuh"

namespace fastprune {

int64_t masked_norm_backward_workspace(const MaskedNormBackwardArgs& args) {
  const int64_t bytes = args.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  return masked_norm::parts_of(args.rows) * 2 * args.width * bytes;
}

Status masked_norm_backward_cuda(const MaskedNormBackwardArgs& args, void* workspace,
                                 Stream stream) {
  using namespace masked_norm;
  const int64_t parts = parts_of(args.rows), spans = ceil_div(args.width, kLanes);
  const dim3 block(kThreads);
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    auto* partial = static_cast<Real*>(workspace);
    Status status = launch(row_kernel<Real>, grid_for(ceil_div(args.rows, kRowsPerBlock)), block, 0,
                           stream, args);
    if (status != Status::ok) return status;
    status = launch(part_kernel<Real>, grid_for(spans, parts), block, sizeof(Storage<Real>), stream,
                    args, parts, partial);
    if (status != Status::ok) return status;
    return launch(column_kernel<Real>, grid_for(spans), block, sizeof(Storage<double>), stream,
                  args, parts, partial);
  });
}

}  // namespace fastprune
