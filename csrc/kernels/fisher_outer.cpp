// fisher_outer on the CPU: a SYRK for every site.
#include "fisher_outer.h"

#include <vector>

#include "../common/panel_rows.h"
#include "../common/syrk.h"

namespace fastprune {

Status fisher_outer_cpu(const FisherOuterArgs& args, const TaskRunner& run) {
  if (args.dtype == DType::f64) return Status::unsupported_dtype;
  struct Site {
    const char* grads;
    int64_t units;
    float* block;
  };
  std::vector<Site> small, large;  // of one tile, of several
  const int64_t element = args.dtype == DType::f32 ? 4 : 2;
  const char* grads = static_cast<const char*>(args.grads);
  float* block = args.blocks;
  for (int64_t s = 0; s < args.sites; ++s) {
    const int64_t units = args.sizes[s];
    (units <= syrk_block(units) ? small : large).push_back({grads, units, block});
    grads += units * element;
    block += units * units;
  }
  const auto accumulate = [&](const Site& site, const TaskRunner& inner) {
    accumulate_syrk<PanelRows>({site.grads, args.dtype, args.row_stride}, site.units, args.rows,
                               nullptr, site.block, inner);
  };
  run(static_cast<int64_t>(small.size()), [&](int64_t i) { accumulate(small[i], run_serially); });
  for (const Site& site : large) accumulate(site, run);
  return Status::ok;
}

}  // namespace fastprune
