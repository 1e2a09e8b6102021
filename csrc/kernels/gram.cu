#include "gram.cuh"

namespace fastprune {
namespace {

template <typename Element, typename Out>
Status launch_for(const GramArgs& args, Stream stream) {
  const syrk::Panel<Element> panel = {static_cast<const Element*>(args.x),
                                      args.rows,
                                      args.row_stride,
                                      args.selected,
                                      args.columns,
                                      args.valid};
  const int64_t tiles = syrk::tiles_of(args.selected);
  return launch(gram::kernel<Element, Out>, grid_for(tiles), dim3(syrk::kThreads),
                sizeof(syrk::Storage<float>), stream, panel, tiles, static_cast<Out*>(args.out));
}

}  // namespace

Status gram_cuda(const GramArgs& args, Stream stream) {
  if (args.selected == 0) return Status::ok;
  return dispatch_input(args.dtype, [&](auto element) {
    return dispatch_statistic(args.out_dtype, [&](auto out) {
      return launch_for<typename decltype(element)::Type, typename decltype(out)::Type>(args,
                                                                                        stream);
    });
  });
}

}  // namespace fastprune
