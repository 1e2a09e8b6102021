#include "trajectory_distance.cuh"

namespace fastprune {
namespace {

using namespace trajectory_distance;

// As many blocks as an H100 holds at a time: 12 variants of 768 rows. Their panels are 28 MB at a
// width of 384, so they are still in its L2 cache when they are multiplied.
constexpr int64_t kTilesPerPass = 264;

// The first pass, as large as any.
Pass first_pass(const TrajectoryDistanceArgs& args) {
  const int64_t tiles = syrk::tiles_of(args.rows);
  const int64_t most = max_of(1, kTilesPerPass / max_of(1, tiles));
  return {0, min_of(most, args.variants), tiles, 4 * ceil_div(args.rows, 4), nullptr, nullptr};
}

int64_t panel_elements(const TrajectoryDistanceArgs& args, const Pass& pass) {
  return pass.variants * args.width * 2 * pass.stride;
}

template <typename Element>
Status launch_pass(const TrajectoryDistanceArgs& args, const Pass& pass, Stream stream) {
  Status status =
      launch(form_kernel<Element>, grid_for(ceil_div(pass.stride, kFormRows), pass.variants),
             dim3(kThreads), sizeof(FormStorage), stream, args, pass);
  if (status != Status::ok) return status;
  status = launch(distance_kernel, grid_for(pass.variants * pass.tiles), dim3(kThreads),
                  sizeof(DistanceStorage), stream, args.rows, args.width, pass);
  if (status != Status::ok) return status;
  return launch(combine_kernel, grid_for(pass.variants), dim3(kThreads), sizeof(CombineStorage),
                stream, pass, args.out);
}

}  // namespace

int64_t trajectory_distance_workspace(const TrajectoryDistanceArgs& args) {
  const Pass pass = first_pass(args);
  return panel_elements(args, pass) * static_cast<int64_t>(sizeof(float)) +
         pass.variants * pass.tiles * static_cast<int64_t>(sizeof(double));
}

Status trajectory_distance_cuda(const TrajectoryDistanceArgs& args, void* workspace,
                                Stream stream) {
  if (args.variants == 0 || args.rows == 0 || args.width == 0) return Status::ok;
  Pass pass = first_pass(args);
  pass.panels = static_cast<float*>(workspace);
  pass.sums = reinterpret_cast<double*>(pass.panels + panel_elements(args, pass));
  const int64_t most = pass.variants;
  return dispatch_input(args.dtype, [&](auto tag) {
    using Element = typename decltype(tag)::Type;
    for (; pass.first < args.variants; pass.first += most) {
      pass.variants = min_of(most, args.variants - pass.first);
      const Status status = launch_pass<Element>(args, pass, stream);
      if (status != Status::ok) return status;
    }
    return Status::ok;
  });
}

}  // namespace fastprune
