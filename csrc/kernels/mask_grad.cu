#include "mask_grad.cuh"

namespace fastprune {
namespace {

using namespace mask_grad;

constexpr int64_t kLoadBytes = 16;

// Whether every row of a span starts on a 16-byte boundary and ends on one.
bool vectorisable(const MaskGradArgs& args, const Spans& spans, int64_t width) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kLoadBytes == 0;
  };
  const bool padded = args.offsets == nullptr;
  const int64_t columns = args.units * args.group;
  return aligned(args.x) && aligned(args.grad) && columns % width == 0 &&
         (spans.count == 1 || spans.units * args.group % width == 0) &&
         args.x_strides[1] % width == 0 && args.grad_strides[1] % width == 0 &&
         (!padded || (args.x_strides[0] % width == 0 && args.grad_strides[0] % width == 0));
}

template <typename Element>
Status launch_for(const MaskGradArgs& args, Stream stream) {
  constexpr int kWidth = kLoadBytes / sizeof(Element);
  const Spans spans = cut_spans(args.units, args.group);
  const dim3 grid = grid_for(spans.count, args.samples);
  const auto chosen =
      vectorisable(args, spans, kWidth) ? kernel<Element, kWidth> : kernel<Element, 1>;
  return launch(chosen, grid, dim3(kThreads), sizeof(Storage), stream, args, spans);
}

}  // namespace

Status mask_grad_cuda(const MaskGradArgs& args, Stream stream) {
  if (args.samples == 0 || args.units == 0) return Status::ok;
  return dispatch_input(
      args.dtype, [&](auto tag) { return launch_for<typename decltype(tag)::Type>(args, stream); });
}

}  // namespace fastprune
