// gram on the CPU: the SYRK core over the valid rows and chosen columns, in AMX tiles for bf16.
#include "gram.h"

#include "../common/amx_syrk.h"
#include "../common/syrk.h"

namespace fastprune {
namespace {

template <class Sum>
void accumulate(const GramArgs& args, const TaskRunner& run) {
  const MatrixView x{args.x, args.dtype, args.row_stride, args.columns};
  Sum* out = static_cast<Sum*>(args.out);
  if (args.dtype == DType::bf16 && amx::available()) {
    amx::accumulate_syrk(x, args.selected, args.rows, args.valid, out, run);
    return;
  }
  const TriangleTiles tiles(args.selected);
  run(tiles.count(),
      [&](int64_t tile) { accumulate_syrk_tile(x, args.rows, args.valid, tiles, tile, out); });
}

}  // namespace

Status gram_cpu(const GramArgs& args, const TaskRunner& run) {
  if (args.dtype == DType::f64) return Status::unsupported_dtype;
  switch (args.out_dtype) {
    case DType::f32:
      accumulate<float>(args, run);
      return Status::ok;
    case DType::f64:
      accumulate<double>(args, run);
      return Status::ok;
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
