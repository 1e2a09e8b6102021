// CPU implementations: kernels offer independent pieces, idle threads take the next one.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <tuple>

#include "arguments.h"

namespace fastprune {
namespace {

// Tasks differ in cost, so they are handed out one by one; what a task computes does not depend on
// the thread that runs it.
void run_tasks(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min<int64_t>(count, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t i; (i = next.fetch_add(1)) < count;) task(i);
    }
  });
}

// For kernels that offer independent pieces [begin, end).
void run_pieces(const char* op, int64_t pieces,
                const std::function<Status(int64_t begin, int64_t end)>& run) {
  std::atomic<Status> worst{Status::ok};
  run_tasks(pieces, [&](int64_t piece) {
    const Status status = run(piece, piece + 1);
    if (status != Status::ok) worst = status;
  });
  throw_unless_ok(op, worst);
}

Tensor mask_grad(const Tensor& x, const Tensor& grad, int64_t group, const OptionalTensor& valid,
                 const OptionalTensor& offsets) {
  const auto call = mask_grad_call(x, grad, group, valid, offsets);
  run_pieces("mask_grad", call.args.samples,
             [&](int64_t begin, int64_t end) { return mask_grad_cpu(call.args, begin, end); });
  return call.outputs[0];
}

void fisher_outer(const Tensor& blocks, const Tensor& grads, const Sizes& sizes) {
  const auto call = fisher_outer_call(blocks, grads, sizes);
  throw_unless_ok("fisher_outer", fisher_outer_cpu(call.args, run_tasks));
}

Tensor greedy_rearrange(const Tensor& blocks, const Sizes& sizes, const Tensor& masks) {
  const auto call = greedy_rearrange_call(blocks, sizes, masks);
  const int64_t pairs = call.args.problems * call.args.sites;
  run_pieces("greedy_rearrange", pairs, [&](int64_t begin, int64_t end) {
    return greedy_rearrange_cpu(call.args, begin, end);
  });
  return call.outputs[0];
}

void gram(const Tensor& out, const Tensor& x, const OptionalTensor& columns,
          const OptionalTensor& valid) {
  const auto call = gram_call(out, x, columns, valid);
  throw_unless_ok("gram", gram_cpu(call.args, run_tasks));
}

std::tuple<Tensor, Tensor> tuning_system(const Tensor& gram, const Tensor& weight,
                                         const Tensor& cross, int64_t group) {
  const auto call = tuning_system_call(gram, weight, cross, group);
  run_pieces("tuning_system", tuning_system_tiles(call.args),
             [&](int64_t begin, int64_t end) { return tuning_system_cpu(call.args, begin, end); });
  return {call.outputs[0], call.outputs[1]};
}

std::tuple<Tensor, Tensor> block_lstsq(const Tensor& systems, const Tensor& rhs, const Sizes& sizes,
                                       double damping) {
  const auto call = block_lstsq_call(systems, rhs, sizes, damping);
  throw_unless_ok("block_lstsq", block_lstsq_cpu(call.args, run_tasks));
  return {call.outputs[0], call.outputs[1]};
}

std::tuple<Tensor, Tensor, Tensor> obs_greedy(const Tensor& inverse, const Tensor& weight,
                                              const Sizes& sizes, const Sizes& groups) {
  const auto call = obs_greedy_call(inverse, weight, sizes, groups);
  throw_unless_ok("obs_greedy", obs_greedy_cpu(call.args, run_tasks));
  return {call.outputs[0], call.outputs[1], call.outputs[2]};
}

void trajectory_distance(const Tensor& out, const Tensor& features, const Tensor& teacher) {
  const auto call = trajectory_distance_call(out, features, teacher);
  throw_unless_ok("trajectory_distance", trajectory_distance_cpu(call.args, run_tasks));
}

void path_step(const Tensor& mask, const Tensor& dual, const Tensor& gate, const Tensor& crossing,
               const Tensor& gradient, const Tensor& threshold, const Tensor& kappa,
               const Tensor& alpha, const Tensor& nu, double step) {
  const auto call =
      path_step_call(mask, dual, gate, crossing, gradient, threshold, kappa, alpha, nu, step);
  run_pieces("path_step", path_step_pieces(call.args),
             [&](int64_t begin, int64_t end) { return path_step_cpu(call.args, begin, end); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> hard_concrete(const Tensor& alpha,
                                                                 const Tensor& noise,
                                                                 const Tensor& shares,
                                                                 const Sizes& sizes, bool sublayers,
                                                                 int64_t hidden) {
  const auto call = hard_concrete_call(alpha, noise, shares, sizes, sublayers, hidden);
  throw_unless_ok("hard_concrete", hard_concrete_cpu(call.args));
  const auto& out = call.outputs;
  return {out[0], out[1], out[2], out[3], out[4]};
}

std::tuple<Tensor, Tensor, Tensor> masked_norm(const Tensor& x, const Tensor& weight,
                                               const OptionalTensor& bias, const Tensor& gate,
                                               double eps, bool centered) {
  const auto call = masked_norm_call(x, weight, bias, gate, eps, centered);
  run_pieces("masked_norm", masked_norm_pieces(call.args),
             [&](int64_t begin, int64_t end) { return masked_norm_cpu(call.args, begin, end); });
  return {call.outputs[0], call.outputs[1], call.outputs[2]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> masked_norm_backward(
    const Tensor& dy, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
    const Tensor& gate, const Tensor& mean, const Tensor& rstd, bool centered) {
  const auto call = masked_norm_backward_call(dy, x, weight, bias, gate, mean, rstd, centered);
  throw_unless_ok("masked_norm_backward", masked_norm_backward_cpu(call.args, run_tasks));
  const auto& out = call.outputs;
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace
}  // namespace fastprune

STABLE_TORCH_LIBRARY_IMPL(fastprune, CPU, m) {
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
