#include <algorithm>

#include "block_lstsq.cuh"

namespace fastprune {
namespace {

using namespace block_lstsq;

// Work of the small kernel (systems) and of the large ones (doubles of workspace), per system.
constexpr auto small_work = [](int64_t n) { return int64_t{n <= kTile}; };

auto large_work(int64_t columns) {
  return [=](int64_t n) { return n <= kTile ? 0 : augmented_doubles(n, columns); };
}

template <typename Element>
Status solve_large(const BlockLstsqArgs& args, const SiteBatch& batch, double* workspace,
                   Stream stream) {
  const dim3 block(kThreads);
  const int64_t widest = *std::max_element(batch.units, batch.units + batch.count);
  const int64_t load_tiles = triangle_tiles(ceil_div(widest, kTurn));
  const auto failed = [](Status status) { return status != Status::ok; };

  Status status = launch(prepare_kernel<Element>, grid_for(batch.count), block,
                         sizeof(PrepareStorage), stream, args, batch, workspace);
  if (failed(status)) return status;
  status = launch(load_kernel<Element>, grid_for(load_tiles, batch.count), block,
                  sizeof(LoadStorage), stream, args, batch, workspace);
  if (failed(status)) return status;

  for (int64_t first = 0; first < widest; first += kTile) {
    status = launch(factor_kernel<Element>, grid_for(batch.count), block, sizeof(FactorStorage),
                    stream, args, batch, workspace, first);
    if (failed(status)) return status;

    const int64_t right = widest + args.columns - first - 1;  // at least the columns to the right
    status = launch(panel_kernel, grid_for(ceil_div(right, kStrip), batch.count), block,
                    sizeof(PanelStorage), stream, args, batch, workspace, first);
    if (failed(status)) return status;

    const int64_t rows_below = widest - first - kTile;
    if (rows_below <= 0) continue;
    dim3 grid = grid_for(ceil_div(right, kTile), ceil_div(rows_below, kTile));
    grid.z = batch.count;
    status = launch(update_kernel, grid, block, sizeof(syrk64::Storage<double>), stream, args,
                    batch, workspace, first);
    if (failed(status)) return status;
  }
  return launch(solve_kernel<Element>, grid_for(ceil_div(args.columns, kStrip), batch.count), block,
                sizeof(SolveStorage), stream, args, batch, workspace);
}

}  // namespace

int64_t block_lstsq_workspace(const BlockLstsqArgs& args) {
  // Batches run one after another on the stream and share the workspace.
  int64_t doubles = 0;
  for_each_batch(args.sizes, args.sites, large_work(args.columns), [&](const SiteBatch& batch) {
    doubles = max_of(doubles, batch.work);
    return Status::ok;
  });
  return doubles * static_cast<int64_t>(sizeof(double));
}

Status block_lstsq_cuda(const BlockLstsqArgs& args, void* workspace, Stream stream) {
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Element = typename decltype(tag)::Type;
    const Status status =
        for_each_batch(args.sizes, args.sites, small_work, [&](const SiteBatch& batch) {
          return launch(small_kernel<Element>, grid_for(batch.count), dim3(kThreads),
                        sizeof(SmallStorage), stream, args, batch);
        });
    if (status != Status::ok) return status;
    return for_each_batch(
        args.sizes, args.sites, large_work(args.columns), [&](const SiteBatch& batch) {
          return solve_large<Element>(args, batch, static_cast<double*>(workspace), stream);
        });
  });
}

}  // namespace fastprune
