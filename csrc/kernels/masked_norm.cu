#include "masked_norm.cuh"

namespace fastprune {

Status masked_norm_cuda(const MaskedNormArgs& args, Stream stream) {
  using namespace masked_norm;
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    return launch(kernel<Real>, grid_for(ceil_div(args.rows, kRowsPerBlock)), dim3(kThreads), 0,
                  stream, args);
  });
}

}  // namespace fastprune
