// From tensors to the argument structs of the kernels: checks, layouts and results, for every
// device alike. A call owns the tensors its pointers point into.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "../kernels/block_lstsq.h"
#include "../kernels/fisher_outer.h"
#include "../kernels/gram.h"
#include "../kernels/greedy_rearrange.h"
#include "../kernels/hard_concrete.h"
#include "../kernels/mask_grad.h"
#include "../kernels/masked_norm.h"
#include "../kernels/obs_greedy.h"
#include "../kernels/path_step.h"
#include "../kernels/trajectory_distance.h"
#include "../kernels/tuning_system.h"

namespace fastprune {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

template <class Args>
struct Call {
  Args args{};
  std::vector<Tensor> inputs;  // kept alive while the kernel runs
  std::vector<Tensor> outputs;
  Sizes sizes;
  Sizes groups;
};

Call<MaskGradArgs> mask_grad_call(const Tensor& x, const Tensor& grad, int64_t group,
                                  const OptionalTensor& valid, const OptionalTensor& offsets);
Call<FisherOuterArgs> fisher_outer_call(const Tensor& blocks, const Tensor& grads, Sizes sizes);
Call<GreedyRearrangeArgs> greedy_rearrange_call(const Tensor& blocks, Sizes sizes,
                                                const Tensor& masks);
Call<GramArgs> gram_call(const Tensor& out, const Tensor& x, const OptionalTensor& columns,
                         const OptionalTensor& valid);
Call<TuningSystemArgs> tuning_system_call(const Tensor& gram, const Tensor& weight,
                                          const Tensor& cross, int64_t group);
Call<BlockLstsqArgs> block_lstsq_call(const Tensor& systems, const Tensor& rhs, Sizes sizes,
                                      double damping);
Call<ObsGreedyArgs> obs_greedy_call(const Tensor& inverse, const Tensor& weight, Sizes sizes,
                                    Sizes groups);
Call<TrajectoryDistanceArgs> trajectory_distance_call(const Tensor& out, const Tensor& features,
                                                      const Tensor& teacher);
// The state is updated in place: there are no outputs.
Call<PathStepArgs> path_step_call(const Tensor& mask, const Tensor& dual, const Tensor& gate,
                                  const Tensor& crossing, const Tensor& gradient,
                                  const Tensor& threshold, const Tensor& kappa, const Tensor& alpha,
                                  const Tensor& nu, double step);

Call<HardConcreteArgs> hard_concrete_call(const Tensor& alpha, const Tensor& noise,
                                          const Tensor& shares, Sizes sizes, bool sublayers,
                                          int64_t hidden);

Call<MaskedNormArgs> masked_norm_call(const Tensor& x, const Tensor& weight,
                                      const OptionalTensor& bias, const Tensor& gate, double eps,
                                      bool centered);
Call<MaskedNormBackwardArgs> masked_norm_backward_call(const Tensor& dy, const Tensor& x,
                                                       const Tensor& weight,
                                                       const OptionalTensor& bias,
                                                       const Tensor& gate, const Tensor& mean,
                                                       const Tensor& rstd, bool centered);

// Throws what a kernel's status means.
void throw_unless_ok(const char* op, Status status);

}  // namespace fastprune
