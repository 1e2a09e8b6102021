// CUDA implementations: launch on the tensors' device and torch's current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>
#include <tuple>

#include "arguments.h"

// Lives in libtorch_cuda: weak, so that the library also loads where torch has no CUDA.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace fastprune {
namespace {

Stream current_stream(int32_t device) {
  if (!aoti_torch_get_current_cuda_stream) {
    throw std::runtime_error("fastprune: this torch has no CUDA; install a CUDA build of torch");
  }
  Stream stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device, &stream) != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error("fastprune: torch did not give its current CUDA stream");
  }
  return stream;
}

template <class Launch>
void launch_on(const char* op, const Tensor& tensor, const Launch& launch) {
  const int32_t device = tensor.get_device();
  const torch::stable::accelerator::DeviceGuard guard(device);
  throw_unless_ok(op, launch(current_stream(device)));
}

// The caching allocator orders reuse on the stream, so scratch may be freed right after a launch.
Tensor scratch(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte);
}

Tensor mask_grad(const Tensor& x, const Tensor& grad, int64_t group, const OptionalTensor& valid,
                 const OptionalTensor& offsets) {
  const auto call = mask_grad_call(x, grad, group, valid, offsets);
  const Tensor workspace = scratch(x, mask_grad_workspace(call.args));
  launch_on("mask_grad", x, [&](Stream stream) {
    return mask_grad_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
  return call.outputs[0];
}

void fisher_outer(const Tensor& blocks, const Tensor& grads, const Sizes& sizes) {
  const auto call = fisher_outer_call(blocks, grads, sizes);
  const Tensor workspace = scratch(grads, fisher_outer_workspace(call.args));
  launch_on("fisher_outer", grads, [&](Stream stream) {
    return fisher_outer_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
}

Tensor greedy_rearrange(const Tensor& blocks, const Sizes& sizes, const Tensor& masks) {
  const auto call = greedy_rearrange_call(blocks, sizes, masks);
  const Tensor workspace = scratch(masks, greedy_rearrange_workspace(call.args));
  launch_on("greedy_rearrange", masks, [&](Stream stream) {
    return greedy_rearrange_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
  return call.outputs[0];
}

void gram(const Tensor& out, const Tensor& x, const OptionalTensor& columns,
          const OptionalTensor& valid) {
  const auto call = gram_call(out, x, columns, valid);
  const Tensor workspace = scratch(x, gram_workspace(call.args));
  launch_on("gram", x, [&](Stream stream) {
    return gram_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
}

std::tuple<Tensor, Tensor> tuning_system(const Tensor& gram, const Tensor& weight,
                                         const Tensor& cross, int64_t group) {
  const auto call = tuning_system_call(gram, weight, cross, group);
  launch_on("tuning_system", weight,
            [&](Stream stream) { return tuning_system_cuda(call.args, stream); });
  return {call.outputs[0], call.outputs[1]};
}

std::tuple<Tensor, Tensor> block_lstsq(const Tensor& systems, const Tensor& rhs, const Sizes& sizes,
                                       double damping) {
  const auto call = block_lstsq_call(systems, rhs, sizes, damping);
  const Tensor workspace = scratch(rhs, block_lstsq_workspace(call.args));
  launch_on("block_lstsq", rhs, [&](Stream stream) {
    return block_lstsq_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
  return {call.outputs[0], call.outputs[1]};
}

std::tuple<Tensor, Tensor, Tensor> obs_greedy(const Tensor& inverse, const Tensor& weight,
                                              const Sizes& sizes, const Sizes& groups) {
  const auto call = obs_greedy_call(inverse, weight, sizes, groups);
  const Tensor workspace = scratch(inverse, obs_greedy_workspace(call.args));
  launch_on("obs_greedy", inverse, [&](Stream stream) {
    return obs_greedy_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
  return {call.outputs[0], call.outputs[1], call.outputs[2]};
}

void trajectory_distance(const Tensor& out, const Tensor& features, const Tensor& teacher) {
  const auto call = trajectory_distance_call(out, features, teacher);
  const Tensor workspace = scratch(features, trajectory_distance_workspace(call.args));
  launch_on("trajectory_distance", features, [&](Stream stream) {
    return trajectory_distance_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
}

void path_step(const Tensor& mask, const Tensor& dual, const Tensor& gate, const Tensor& crossing,
               const Tensor& gradient, const Tensor& threshold, const Tensor& kappa,
               const Tensor& alpha, const Tensor& nu, double step) {
  const auto call =
      path_step_call(mask, dual, gate, crossing, gradient, threshold, kappa, alpha, nu, step);
  launch_on("path_step", mask, [&](Stream stream) { return path_step_cuda(call.args, stream); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> hard_concrete(const Tensor& alpha,
                                                                 const Tensor& noise,
                                                                 const Tensor& shares,
                                                                 const Sizes& sizes, bool sublayers,
                                                                 int64_t hidden) {
  const auto call = hard_concrete_call(alpha, noise, shares, sizes, sublayers, hidden);
  launch_on("hard_concrete", alpha,
            [&](Stream stream) { return hard_concrete_cuda(call.args, stream); });
  const auto& out = call.outputs;
  return {out[0], out[1], out[2], out[3], out[4]};
}

std::tuple<Tensor, Tensor, Tensor> masked_norm(const Tensor& x, const Tensor& weight,
                                               const OptionalTensor& bias, const Tensor& gate,
                                               double eps, bool centered) {
  const auto call = masked_norm_call(x, weight, bias, gate, eps, centered);
  launch_on("masked_norm", x, [&](Stream stream) { return masked_norm_cuda(call.args, stream); });
  return {call.outputs[0], call.outputs[1], call.outputs[2]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> masked_norm_backward(
    const Tensor& dy, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& gate, const Tensor& mean, const Tensor& rstd, bool centered) {
  const auto call = masked_norm_backward_call(dy, x, weight, bias, gate, mean, rstd, centered);
  const Tensor workspace = scratch(x, masked_norm_backward_workspace(call.args));
  launch_on("masked_norm_backward", x, [&](Stream stream) {
    return masked_norm_backward_cuda(call.args, workspace.mutable_data_ptr(), stream);
  });
  const auto& out = call.outputs;
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace
}  // namespace fastprune

STABLE_TORCH_LIBRARY_IMPL(fastprune, CUDA, m) {
  m.impl("mask_grad", TORCH_BOX(&fastprune::mask_grad));
  m.impl("fisher_outer", TORCH_BOX(&fastprune::fisher_outer));
  m.impl("greedy_rearrange", TORCH_BOX(&fastprune::greedy_rearrange));
  m.impl("gram", TORCH_BOX(&fastprune::gram));
  m.impl("tuning_system", TORCH_BOX(&fastprune::tuning_system));
  m.impl("block_lstsq", TORCH_BOX(&fastprune::block_lstsq));
  m.impl("obs_greedy", TORCH_BOX(&fastprune::obs_greedy));
  m.impl("trajectory_distance", TORCH_BOX(&fastprune::trajectory_distance));
  m.impl("path_step", TORCH_BOX(&fastprune::path_step));
  m.impl("hard_concrete", TORCH_BOX(&fastprune::hard_concrete));
  m.impl("masked_norm", TORCH_BOX(&fastprune::masked_norm));
  m.impl("masked_norm_backward", TORCH_BOX(&fastprune::masked_norm_backward));
}
