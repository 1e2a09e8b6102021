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
Status launch_for(const MaskGradArgs& args, float* workspace, Stream stream) {
  constexpr int kWidth = kLoadBytes / sizeof(Element);
  const Spans spans = cut_spans(args.units, args.group);
  const int64_t parts = cut_parts(args, spans);
  const auto chosen =
      vectorisable(args, spans, kWidth) ? kernel<Element, kWidth> : kernel<Element, 1>;
  float* sums = parts == 1 ? args.out : workspace;
  const Status status = launch(chosen, grid_for(spans.count, args.samples * parts), dim3(kThreads),
                               sizeof(Storage), stream, args, spans, parts, sums);
  if (parts == 1 || status != Status::ok) return status;
  return launch(combine_kernel, grid_for(ceil_div(args.units, kThreads), args.samples),
                dim3(kThreads), 0, stream, args, parts, sums);
}

}  // namespace

int64_t mask_grad_workspace(const MaskGradArgs& args) {
  const int64_t parts = cut_parts(args, cut_spans(args.units, args.group));
  return parts == 1 ? 0 : parts * args.samples * args.units * static_cast<int64_t>(sizeof(float));
}

Status mask_grad_cuda(const MaskGradArgs& args, void* workspace, Stream stream) {
  if (args.samples == 0 || args.units == 0) return Status::ok;
  return dispatch_input(args.dtype, [&](auto tag) {
    using Element = typename decltype(tag)::Type;
    return launch_for<Element>(args, static_cast<float*>(workspace), stream);
  });
}

}  // namespace fastprune
