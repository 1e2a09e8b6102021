// fisher_outer on the CPU: the SYRK core, site by site.
#include "fisher_outer.h"

#include "../common/syrk.h"

namespace fastprune {

int64_t fisher_outer_tiles(const FisherOuterArgs& args) {
  int64_t tiles = 0;
  for (int64_t s = 0; s < args.sites; ++s) tiles += TriangleTiles(args.sizes[s]).count();
  return tiles;
}

Status fisher_outer_cpu(const FisherOuterArgs& args, int64_t begin_tile, int64_t end_tile) {
  if (args.dtype == DType::f64) return Status::unsupported_dtype;
  const int64_t element = args.dtype == DType::f32 ? 4 : 2;
  const char* columns = static_cast<const char*>(args.grads);
  float* block = args.blocks;
  int64_t first = 0;  // first tile of the site
  for (int64_t s = 0; s < args.sites && first < end_tile; ++s) {
    const int64_t units = args.sizes[s];
    const TriangleTiles tiles(units);
    const MatrixView site{columns, args.dtype, args.row_stride};
    const int64_t end = std::min(end_tile, first + tiles.count());
    for (int64_t tile = std::max(begin_tile, first); tile < end; ++tile) {
      accumulate_syrk_tile(site, args.rows, nullptr, tiles, tile - first, block);
    }
    first += tiles.count();
    columns += units * element;
    block += units * units;
  }
  return Status::ok;
}

}  // namespace fastprune
