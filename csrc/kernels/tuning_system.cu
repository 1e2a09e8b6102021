#include "tuning_system.cuh"

namespace fastprune {
namespace {

using namespace tuning_system;

template <typename Stat, typename Weight>
Status launch_for(const TuningSystemArgs& args, Stream stream) {
  const int64_t tiles = triangle_tiles(ceil_div(args.units, units_in(kTile, args.group)));
  const Status status = launch(matrix_kernel<Stat, Weight>, grid_for(tiles), dim3(kThreads),
                               sizeof(MatrixStorage<RealOf<Weight>>), stream, args, tiles);
  if (status != Status::ok) return status;
  return launch(vector_kernel<Stat, Weight>,
                grid_for(ceil_div(args.units, units_in(kSpan, args.group))), dim3(kThreads),
                sizeof(VectorStorage<Stat>), stream, args);
}

}  // namespace

Status tuning_system_cuda(const TuningSystemArgs& args, Stream stream) {
  if (args.units == 0) return Status::ok;
  return dispatch_statistic(args.stat_dtype, [&](auto stat) {
    using Stat = typename decltype(stat)::Type;
    if (args.weight_dtype == DType::f64) return launch_for<Stat, double>(args, stream);
    return dispatch_input(args.weight_dtype, [&](auto weight) {
      return launch_for<Stat, typename decltype(weight)::Type>(args, stream);
    });
  });
}

}  // namespace fastprune
