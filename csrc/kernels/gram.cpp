// gram on the CPU: a SYRK over the valid rows and chosen columns, in AMX tiles for bf16.
#include "gram.h"

#include "../common/amx.h"
#include "../common/panel_rows.h"
#include "../common/syrk.h"

namespace fastprune {
namespace {

template <class Sum>
Status accumulate(const GramArgs& args, const TaskRunner& run) {
  const bool tiles = args.dtype == DType::bf16 && amx::available();
  const auto syrk = tiles ? accumulate_syrk<amx::StripRows, Sum> : accumulate_syrk<PanelRows, Sum>;
  syrk({args.x, args.dtype, args.row_stride, args.columns}, args.selected, args.rows, args.valid,
       static_cast<Sum*>(args.out), run);
  return Status::ok;
}

}  // namespace

Status gram_cpu(const GramArgs& args, const TaskRunner& run) {
  if (args.dtype == DType::f64) return Status::unsupported_dtype;
  if (args.out_dtype == DType::f64) return accumulate<double>(args, run);
  if (args.out_dtype == DType::f32) return accumulate<float>(args, run);
  return Status::unsupported_dtype;
}

}  // namespace fastprune
