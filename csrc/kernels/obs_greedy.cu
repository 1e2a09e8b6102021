#include <algorithm>

#include "obs_greedy_steps.cuh"

namespace fastprune {
namespace {

using namespace obs_greedy;

// Calls body(batch) for consecutive batches of the sites that have units of one column, or of more.
template <typename Real, typename Body>
Status for_each_batch(const ObsGreedyArgs& args, bool wide, const Body& body) {
  Batch batch;
  Site site = {};
  for (int64_t s = 0; s < args.sites; ++s) {
    const int64_t units = args.sizes[s];
    const int64_t columns = units * args.groups[s];
    if (columns > std::numeric_limits<int32_t>::max()) return Status::too_large;
    site.index = static_cast<int32_t>(s);
    site.units = static_cast<int32_t>(units);
    site.group = static_cast<int32_t>(args.groups[s]);
    if (wide == (site.group > 1)) {
      if (batch.count == obs_greedy::kSitesPerBatch) {
        if (const Status status = body(batch); status != Status::ok) return status;
        batch = {};
      }
      site.work_offset = batch.work;
      State<Real> state;
      batch.work = lay_out(site, args.outputs, batch.work, state);
      batch.most_units = std::max(batch.most_units, site.units);
      batch.most_columns = max_of(batch.most_columns, columns);
      batch.sites[batch.count++] = site;
    }
    site.unit_offset += units;
    site.column_offset += columns;
    site.block_offset += columns * columns;
  }
  return batch.count ? body(batch) : Status::ok;
}

// The launches for one batch, in order; the first that fails ends them.
template <typename Real>
class Sequence {
 public:
  Sequence(const ObsGreedyArgs& args, const Batch& batch, void* workspace, Stream stream)
      : args_(args), batch_(batch), workspace_(workspace), stream_(stream) {}

  Status run(bool wide) {
    const int64_t n = batch_.most_columns;
    next(load_kernel<Real>, n, sizeof(LoadStorage));
    next(product_kernel<Real>, triangle_tiles(ceil_div(n, kTile)), sizeof(syrk64::Storage<Real>));
    next(start_kernel<Real>, blocks(batch_.most_units), sizeof(StartStorage));
    if (wide) {
      remove_blocks();
    } else {
      remove_columns();
    }
    if (status_ != Status::ok) return status_;
    return launch(finish_kernel<Real>, grid_for(batch_.count), dim3(kThreads), 0, stream_, args_,
                  batch_, workspace_);
  }

 private:
  static int64_t blocks(int64_t columns) { return ceil_div(columns, kThreads); }

  template <typename... Parameters, typename... Arguments>
  void next(void (*kernel)(Parameters...), int64_t blocks, size_t shared_bytes,
            const Arguments&... arguments) {
    if (status_ != Status::ok) return;
    status_ = launch(kernel, grid_for(blocks, batch_.count), dim3(kThreads), shared_bytes, stream_,
                     args_, batch_, workspace_, arguments...);
  }

  void remove_columns() {
    const int units = batch_.most_units;
    for (int step = 0; step < units && status_ == Status::ok; ++step) {
      next(step_kernel<Real>, blocks(units - step / kPanel * kPanel), sizeof(StepStorage<Real>),
           step);
      if ((step + 1) % kPanel == 0) apply(step + 1, kPanel, units - step - 1);
    }
  }

  void remove_blocks() {
    for (int step = 0; step < batch_.most_units && status_ == Status::ok; ++step) {
      next(cost_kernel<Real>, batch_.most_units - step, sizeof(CostStorage), step);
      next(rows_kernel<Real>, blocks(batch_.most_columns), sizeof(RowsStorage), step);
      apply(step + 1, 1, batch_.most_columns);
    }
  }

  // The panel of `removed` units, when `step` are gone and at most `columns` are left.
  void apply(int step, int removed, int64_t columns) {
    if (step >= batch_.most_units) return;
    next(move_kernel<Real>, blocks(columns), sizeof(MoveStorage), step, removed);
    next(update_kernel<Real>, triangle_tiles(ceil_div(columns, kTile)),
         sizeof(syrk64::Storage<Real>), step, removed);
  }

  const ObsGreedyArgs& args_;
  const Batch& batch_;
  void* workspace_;
  Stream stream_;
  Status status_ = Status::ok;
};

}  // namespace

int64_t obs_greedy_workspace(const ObsGreedyArgs& args) {
  // Batches run one after another on the stream and share the workspace.
  int64_t bytes = 0;
  dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    for (bool wide : {false, true}) {
      for_each_batch<Real>(args, wide, [&](const Batch& batch) {
        bytes = max_of(bytes, batch.work);
        return Status::ok;
      });
    }
    return Status::ok;
  });
  return bytes;
}

Status obs_greedy_cuda(const ObsGreedyArgs& args, void* workspace, Stream stream) {
  return dispatch_statistic(args.dtype, [&](auto tag) {
    using Real = typename decltype(tag)::Type;
    for (bool wide : {false, true}) {
      const Status status = for_each_batch<Real>(args, wide, [&](const Batch& batch) {
        return Sequence<Real>(args, batch, workspace, stream).run(wide);
      });
      if (status != Status::ok) return status;
    }
    return Status::ok;
  });
}

}  // namespace fastprune
