// mask_grad on the CPU: sums per column over the tokens, then per unit over its columns. The
// column sums stay in cache, so both tensors stream through once, in memory order.
#include "mask_grad.h"

#include <algorithm>
#include <vector>

#include "../common/half.h"
#include "../common/target.h"

namespace fastprune {
namespace {

template <class T>
FASTPRUNE_CLONES void add_products(const T* x, const T* grad, int64_t columns, float* sums) {
  for (int64_t j = 0; j < columns; ++j) sums[j] += value_of(x[j]) * value_of(grad[j]);
}

template <class T>
void run(const MaskGradArgs& args, int64_t begin, int64_t end) {
  const int64_t columns = args.units * args.group;
  std::vector<float> sums(columns);
  for (int64_t i = begin; i < end; ++i) {
    // Packed samples are ranges of rows of one long sample.
    const int64_t sample = args.offsets ? 0 : i;
    const int64_t first = args.offsets ? args.offsets[i] : 0;
    const int64_t last = args.offsets ? args.offsets[i + 1] : args.tokens;
    const T* x = static_cast<const T*>(args.x) + sample * args.x_strides[0];
    const T* grad = static_cast<const T*>(args.grad) + sample * args.grad_strides[0];
    const uint8_t* valid = args.valid ? args.valid + i * args.tokens : nullptr;

    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t t = first; t < last; ++t) {
      if (valid && !valid[t]) continue;
      add_products(x + t * args.x_strides[1], grad + t * args.grad_strides[1], columns,
                   sums.data());
    }
    for (int64_t u = 0; u < args.units; ++u) {
      float total = 0.0f;
      for (int64_t j = u * args.group; j < (u + 1) * args.group; ++j) total += sums[j];
      args.out[i * args.units + u] = total;
    }
  }
}

}  // namespace

Status mask_grad_cpu(const MaskGradArgs& args, int64_t begin, int64_t end) {
  switch (args.dtype) {
    case DType::f32:
      run<float>(args, begin, end);
      return Status::ok;
    case DType::bf16:
      run<BFloat16>(args, begin, end);
      return Status::ok;
    case DType::f16:
      run<Half>(args, begin, end);
      return Status::ok;
    default:
      return Status::unsupported_dtype;
  }
}

}  // namespace fastprune
