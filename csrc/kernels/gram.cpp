// gram on the CPU: the SYRK core over the valid rows and chosen columns.
#include "gram.h"

#include "../common/syrk.h"

namespace fastprune {

int64_t gram_tiles(const GramArgs& args) { return TriangleTiles(args.selected).count(); }

Status gram_cpu(const GramArgs& args, int64_t begin_tile, int64_t end_tile) {
  if (args.dtype == DType::f64) return Status::unsupported_dtype;
  const TriangleTiles tiles(args.selected);
  const MatrixView x{args.x, args.dtype, args.row_stride, args.columns};
  for (int64_t tile = begin_tile; tile < end_tile; ++tile) {
    if (args.out_dtype == DType::f64) {
      accumulate_syrk_tile(x, args.rows, args.valid, tiles, tile, static_cast<double*>(args.out));
    } else if (args.out_dtype == DType::f32) {
      accumulate_syrk_tile(x, args.rows, args.valid, tiles, tile, static_cast<float*>(args.out));
    } else {
      return Status::unsupported_dtype;
    }
  }
  return Status::ok;
}

}  // namespace fastprune
