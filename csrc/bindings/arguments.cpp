#include "arguments.h"

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <numeric>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace fastprune {
namespace {

using torch::headeronly::ScalarType;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "fastprune: ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

DType dtype_of(const char* name, const Tensor& tensor, std::initializer_list<DType> allowed) {
  const ScalarType type = tensor.scalar_type();
  for (DType dtype : allowed) {
    if ((dtype == DType::f32 && type == ScalarType::Float) ||
        (dtype == DType::bf16 && type == ScalarType::BFloat16) ||
        (dtype == DType::f16 && type == ScalarType::Half) ||
        (dtype == DType::f64 && type == ScalarType::Double)) {
      return dtype;
    }
  }
  fail(name, " has an unsupported dtype");
}

void require_type(const char* name, const Tensor& tensor, ScalarType type) {
  require(tensor.scalar_type() == type, name, " has the wrong dtype");
}

void require_device(const char* name, const Tensor& tensor, const Tensor& like) {
  require(tensor.is_cuda() == like.is_cuda() && tensor.get_device() == like.get_device(), name,
          " is on another device");
}

void require_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> shape) {
  bool equal = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (int64_t extent : shape) equal = equal && tensor.size(axis++) == extent;
  require(equal, name, " has the wrong shape");
}

// Kernels stride over everything but the last dimension.
Tensor with_dense_columns(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1 ? tensor
                                                            : torch::stable::contiguous(tensor);
}

const uint8_t* row_mask(const Tensor& valid, const Tensor& like) {
  const ScalarType type = valid.scalar_type();
  require(type == ScalarType::Bool || type == ScalarType::Byte, "valid must be bool or uint8");
  require_device("valid", valid, like);
  return static_cast<const uint8_t*>(valid.const_data_ptr());
}

const int64_t* indices(const char* name, const Tensor& tensor, const Tensor& like) {
  require_type(name, tensor, ScalarType::Long);
  require(tensor.dim() == 1, name, " must have one dimension");
  require_device(name, tensor, like);
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}

// A checked input of the type of `like`, contiguous and kept alive in `inputs`.
const void* dense(std::vector<Tensor>& inputs, const char* name, const Tensor& tensor,
                  std::initializer_list<int64_t> shape, const Tensor& like) {
  require_shape(name, tensor, shape);
  require_type(name, tensor, like.scalar_type());
  require_device(name, tensor, like);
  inputs.push_back(torch::stable::contiguous(tensor));
  return inputs.back().const_data_ptr();
}

int64_t total(const Sizes& sizes) {
  for (int64_t size : sizes) require(size >= 0, "sizes must not be negative");
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
}

int64_t total_squares(const Sizes& sizes) {
  return std::inner_product(sizes.begin(), sizes.end(), sizes.begin(), int64_t{0});
}

// What both directions of masked_norm take.
template <class Args>
Call<Args> norm_call(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                     const Tensor& gate, bool centered) {
  require(x.dim() == 2, "x must be [rows, width]");
  Call<Args> call;
  Args& args = call.args;
  args.dtype = dtype_of("x", x, {DType::f32, DType::f64});
  args.centered = centered;
  args.rows = x.size(0);
  args.width = x.size(1);
  args.x = dense(call.inputs, "x", x, {args.rows, args.width}, x);
  args.weight = dense(call.inputs, "weight", weight, {args.width}, x);
  args.bias = bias ? dense(call.inputs, "bias", *bias, {args.width}, x) : nullptr;
  args.gate = dense(call.inputs, "gate", gate, {args.width}, x);
  return call;
}

}  // namespace

Call<MaskGradArgs> mask_grad_call(const Tensor& x, const Tensor& grad, int64_t group,
                                  const OptionalTensor& valid, const OptionalTensor& offsets) {
  const bool packed = offsets.has_value();
  require(x.dim() == (packed ? 2 : 3),
          "x must be [samples, tokens, columns], or [rows, columns] "
          "with offsets");
  require(!packed || !valid.has_value(), "give valid or offsets, not both");
  const int64_t columns = x.size(x.dim() - 1);
  require(group > 0 && columns % group == 0, "group must divide the columns of x");
  require_type("grad", grad, x.scalar_type());
  require_device("grad", grad, x);

  Call<MaskGradArgs> call;
  MaskGradArgs& args = call.args;
  args.dtype = dtype_of("x", x, {DType::f32, DType::bf16, DType::f16});
  args.units = columns / group;
  args.group = group;
  const Tensor dense_x = with_dense_columns(x);
  const Tensor dense_grad = with_dense_columns(grad);
  if (packed) {
    require_shape("grad", grad, {x.size(0), columns});
    const Tensor contiguous = torch::stable::contiguous(*offsets);
    args.offsets = indices("offsets", contiguous, x);
    require(contiguous.size(0) >= 1, "offsets must be [samples + 1]");
    call.inputs.push_back(contiguous);
    args.samples = contiguous.size(0) - 1;
    args.tokens = x.size(0);
  } else {
    require_shape("grad", grad, {x.size(0), x.size(1), columns});
    args.samples = x.size(0);
    args.tokens = x.size(1);
    args.x_strides[0] = dense_x.stride(0);
    args.grad_strides[0] = dense_grad.stride(0);
    if (valid) {
      require_shape("valid", *valid, {args.samples, args.tokens});
      call.inputs.push_back(torch::stable::contiguous(*valid));
      args.valid = row_mask(call.inputs.back(), x);
    }
  }
  args.x_strides[1] = dense_x.stride(x.dim() - 2);
  args.grad_strides[1] = dense_grad.stride(x.dim() - 2);
  args.x = dense_x.const_data_ptr();
  args.grad = dense_grad.const_data_ptr();
  call.inputs.push_back(dense_x);
  call.inputs.push_back(dense_grad);
  call.outputs.push_back(
      torch::stable::new_empty(x, {args.samples, args.units}, ScalarType::Float));
  args.out = static_cast<float*>(call.outputs[0].mutable_data_ptr());
  return call;
}

Call<FisherOuterArgs> fisher_outer_call(const Tensor& blocks, const Tensor& grads, Sizes sizes) {
  require(grads.dim() == 2, "grads must be [rows, sum(sizes)]");
  require_shape("grads", grads, {grads.size(0), total(sizes)});
  require_shape("blocks", blocks, {total_squares(sizes)});
  require_type("blocks", blocks, ScalarType::Float);
  require(blocks.is_contiguous(), "blocks must be contiguous");
  require_device("blocks", blocks, grads);

  Call<FisherOuterArgs> call;
  call.sizes = std::move(sizes);
  call.inputs = {with_dense_columns(grads), blocks};
  FisherOuterArgs& args = call.args;
  args.dtype = dtype_of("grads", grads, {DType::f32, DType::bf16, DType::f16});
  args.grads = call.inputs[0].const_data_ptr();
  args.rows = grads.size(0);
  args.row_stride = call.inputs[0].stride(0);
  args.sites = static_cast<int64_t>(call.sizes.size());
  args.sizes = call.sizes.data();
  args.blocks = static_cast<float*>(blocks.mutable_data_ptr());
  return call;
}

Call<GreedyRearrangeArgs> greedy_rearrange_call(const Tensor& blocks, Sizes sizes,
                                                const Tensor& masks) {
  require(masks.dim() == 2, "masks must be [problems, sum(sizes)]");
  require_shape("masks", masks, {masks.size(0), total(sizes)});
  require_shape("blocks", blocks, {total_squares(sizes)});
  require_type("blocks", blocks, ScalarType::Float);
  require_type("masks", masks, ScalarType::Float);
  require_device("masks", masks, blocks);

  Call<GreedyRearrangeArgs> call;
  call.sizes = std::move(sizes);
  call.inputs = {torch::stable::contiguous(blocks), torch::stable::contiguous(masks)};
  call.outputs = {torch::stable::new_empty(masks, {masks.size(0), masks.size(1)})};
  GreedyRearrangeArgs& args = call.args;
  args.blocks = static_cast<const float*>(call.inputs[0].const_data_ptr());
  args.masks = static_cast<const float*>(call.inputs[1].const_data_ptr());
  args.problems = masks.size(0);
  args.sites = static_cast<int64_t>(call.sizes.size());
  args.sizes = call.sizes.data();
  args.out = static_cast<float*>(call.outputs[0].mutable_data_ptr());
  return call;
}

Call<GramArgs> gram_call(const Tensor& out, const Tensor& x, const OptionalTensor& columns,
                         const OptionalTensor& valid) {
  require(x.dim() == 2, "x must be [rows, width]");
  Call<GramArgs> call;
  call.inputs = {with_dense_columns(x), out};
  GramArgs& args = call.args;
  args.dtype = dtype_of("x", x, {DType::f32, DType::bf16, DType::f16});
  args.out_dtype = dtype_of("out", out, {DType::f32, DType::f64});
  args.x = call.inputs[0].const_data_ptr();
  args.rows = x.size(0);
  args.row_stride = call.inputs[0].stride(0);
  args.selected = x.size(1);
  if (columns) {
    call.inputs.push_back(torch::stable::contiguous(*columns));
    args.columns = indices("columns", call.inputs.back(), x);
    args.selected = columns->size(0);
    for (int64_t k = 0; x.is_cpu() && k < args.selected; ++k) {
      require(0 <= args.columns[k] && args.columns[k] < x.size(1), "columns out of range");
    }
  }
  if (valid) {
    require_shape("valid", *valid, {args.rows});
    call.inputs.push_back(torch::stable::contiguous(*valid));
    args.valid = row_mask(call.inputs.back(), x);
  }
  require_shape("out", out, {args.selected, args.selected});
  require(out.is_contiguous(), "out must be contiguous");
  require_device("out", out, x);
  args.out = out.mutable_data_ptr();
  return call;
}

Call<TuningSystemArgs> tuning_system_call(const Tensor& gram, const Tensor& weight,
                                          const Tensor& cross, int64_t group) {
  require(weight.dim() == 2, "weight must be [outputs, columns]");
  const int64_t columns = weight.size(1);
  require(group > 0 && columns % group == 0, "group must divide the columns of weight");
  require_shape("gram", gram, {columns, columns});
  require_shape("cross", cross, {columns, weight.size(0)});
  require_type("cross", cross, gram.scalar_type());
  require_device("gram", gram, weight);
  require_device("cross", cross, weight);

  Call<TuningSystemArgs> call;
  call.inputs = {torch::stable::contiguous(gram), with_dense_columns(weight),
                 torch::stable::contiguous(cross)};
  TuningSystemArgs& args = call.args;
  args.stat_dtype = dtype_of("gram", gram, {DType::f32, DType::f64});
  args.weight_dtype = dtype_of("weight", weight, {DType::f32, DType::bf16, DType::f16, DType::f64});
  args.units = columns / group;
  args.group = group;
  args.outputs = weight.size(0);
  args.weight_stride = call.inputs[1].stride(0);
  call.outputs = {torch::stable::new_empty(gram, {args.units, args.units}),
                  torch::stable::new_empty(gram, {args.units})};
  args.gram = call.inputs[0].const_data_ptr();
  args.weight = call.inputs[1].const_data_ptr();
  args.cross = call.inputs[2].const_data_ptr();
  args.a = call.outputs[0].mutable_data_ptr();
  args.b = call.outputs[1].mutable_data_ptr();
  return call;
}

Call<BlockLstsqArgs> block_lstsq_call(const Tensor& systems, const Tensor& rhs, Sizes sizes,
                                      double damping) {
  require(rhs.dim() == 2, "rhs must be [sum(sizes), columns]");
  require_shape("rhs", rhs, {total(sizes), rhs.size(1)});
  require_shape("systems", systems, {total_squares(sizes)});
  require_type("rhs", rhs, systems.scalar_type());
  require_device("rhs", rhs, systems);
  require(damping >= 0, "damping must not be negative");
  for (int64_t size : sizes) require(size <= 4096, "a system has more than 4096 unknowns");

  Call<BlockLstsqArgs> call;
  call.sizes = std::move(sizes);
  call.inputs = {torch::stable::contiguous(systems), torch::stable::contiguous(rhs)};
  BlockLstsqArgs& args = call.args;
  args.dtype = dtype_of("systems", systems, {DType::f32, DType::f64});
  args.systems = call.inputs[0].const_data_ptr();
  args.rhs = call.inputs[1].const_data_ptr();
  args.sites = static_cast<int64_t>(call.sizes.size());
  args.sizes = call.sizes.data();
  args.columns = rhs.size(1);
  args.damping = damping;
  call.outputs = {torch::stable::new_empty(rhs, {rhs.size(0), rhs.size(1)}),
                  torch::stable::new_empty(rhs, {args.sites}, ScalarType::Int)};
  args.out = call.outputs[0].mutable_data_ptr();
  args.info = static_cast<int32_t*>(call.outputs[1].mutable_data_ptr());
  return call;
}

Call<ObsGreedyArgs> obs_greedy_call(const Tensor& inverse, const Tensor& weight, Sizes sizes,
                                    Sizes groups) {
  const int64_t units = total(sizes);
  require(groups.size() == sizes.size(), "sizes and groups must have one entry per site");
  Sizes columns;
  for (size_t s = 0; s < sizes.size(); ++s) {
    require(1 <= groups[s] && groups[s] <= kWidestGroup, "groups must lie within [1, 4096]");
    columns.push_back(sizes[s] * groups[s]);
  }
  require(weight.dim() == 2, "weight must be [sum(sizes * groups), outputs]");
  require_shape("weight", weight, {total(columns), weight.size(1)});
  require_shape("inverse", inverse, {total_squares(columns)});
  require_type("weight", weight, inverse.scalar_type());
  require_device("weight", weight, inverse);

  Call<ObsGreedyArgs> call;
  call.sizes = std::move(sizes);
  call.groups = std::move(groups);
  call.inputs = {torch::stable::contiguous(inverse), torch::stable::contiguous(weight)};
  ObsGreedyArgs& args = call.args;
  args.dtype = dtype_of("inverse", inverse, {DType::f32, DType::f64});
  args.inverse = call.inputs[0].const_data_ptr();
  args.weight = call.inputs[1].const_data_ptr();
  args.sites = static_cast<int64_t>(call.sizes.size());
  args.sizes = call.sizes.data();
  args.groups = call.groups.data();
  args.outputs = weight.size(1);
  call.outputs = {torch::stable::new_empty(inverse, {units}, ScalarType::Int),
                  torch::stable::new_empty(inverse, {units}),
                  torch::stable::new_empty(inverse, {args.sites}, ScalarType::Int)};
  args.order = static_cast<int32_t*>(call.outputs[0].mutable_data_ptr());
  args.curve = call.outputs[1].mutable_data_ptr();
  args.info = static_cast<int32_t*>(call.outputs[2].mutable_data_ptr());
  return call;
}

Call<TrajectoryDistanceArgs> trajectory_distance_call(const Tensor& out, const Tensor& features,
                                                      const Tensor& teacher) {
  require(features.dim() == 3, "features must be [variants, rows, width]");
  require_shape("teacher", teacher, {features.size(1), features.size(2)});
  require_type("teacher", teacher, features.scalar_type());
  require_device("teacher", teacher, features);
  require_shape("out", out, {features.size(0)});
  require_type("out", out, ScalarType::Double);
  require(out.is_contiguous(), "out must be contiguous");
  require_device("out", out, features);

  Call<TrajectoryDistanceArgs> call;
  call.inputs = {with_dense_columns(features), with_dense_columns(teacher), out};
  TrajectoryDistanceArgs& args = call.args;
  args.dtype = dtype_of("features", features, {DType::f32, DType::bf16, DType::f16});
  args.features = call.inputs[0].const_data_ptr();
  args.teacher = call.inputs[1].const_data_ptr();
  args.variants = features.size(0);
  args.rows = features.size(1);
  args.width = features.size(2);
  args.strides[0] = call.inputs[0].stride(0);
  args.strides[1] = call.inputs[0].stride(1);
  args.teacher_stride = call.inputs[1].stride(0);
  args.out = static_cast<double*>(out.mutable_data_ptr());
  return call;
}

Call<PathStepArgs> path_step_call(const Tensor& mask, const Tensor& dual, const Tensor& gate,
                                  const Tensor& crossing, const Tensor& gradient,
                                  const Tensor& threshold, const Tensor& kappa, const Tensor& alpha,
                                  const Tensor& nu, double step) {
  require(mask.dim() == 2, "mask must be [paths, units]");
  Call<PathStepArgs> call;
  PathStepArgs& args = call.args;
  args.dtype = dtype_of("mask", mask, {DType::f32, DType::f64});
  args.paths = mask.size(0);
  args.units = mask.size(1);
  args.step = step;
  const auto check = [&](const char* name, const Tensor& tensor, bool per_unit, ScalarType type) {
    if (per_unit) require_shape(name, tensor, {args.paths, args.units});
    if (!per_unit) require_shape(name, tensor, {args.paths});
    require_type(name, tensor, type);
    require_device(name, tensor, mask);
  };
  const auto state = [&](const char* name, const Tensor& tensor, ScalarType type) {
    check(name, tensor, true, type);
    require(tensor.is_contiguous(), name, " must be contiguous");
    call.inputs.push_back(tensor);
    return call.inputs.back().mutable_data_ptr();
  };
  const auto input = [&](const char* name, const Tensor& tensor, bool per_unit) {
    check(name, tensor, per_unit, mask.scalar_type());
    call.inputs.push_back(torch::stable::contiguous(tensor));
    return call.inputs.back().const_data_ptr();
  };
  args.mask = state("mask", mask, mask.scalar_type());
  args.dual = state("dual", dual, mask.scalar_type());
  args.gate = state("gate", gate, mask.scalar_type());
  args.crossing = static_cast<double*>(state("crossing", crossing, ScalarType::Double));
  args.gradient = input("gradient", gradient, true);
  args.threshold = input("threshold", threshold, true);
  args.kappa = input("kappa", kappa, false);
  args.alpha = input("alpha", alpha, false);
  args.nu = input("nu", nu, false);
  return call;
}

Call<HardConcreteArgs> hard_concrete_call(const Tensor& alpha, const Tensor& noise,
                                          const Tensor& shares, Sizes sizes, bool sublayers,
                                          int64_t hidden) {
  const auto sites = static_cast<int64_t>(sizes.size());
  require(hidden >= 0, "hidden must not be negative");
  Call<HardConcreteArgs> call;
  call.sizes = std::move(sizes);
  call.sizes.push_back(sublayers ? sites : 0);
  call.sizes.push_back(hidden);
  const int64_t gates = total(call.sizes);
  HardConcreteArgs& args = call.args;
  args.dtype = dtype_of("alpha", alpha, {DType::f32, DType::f64});
  require_shape("alpha", alpha, {gates});
  require_shape("noise", noise, {gates});
  require_type("noise", noise, alpha.scalar_type());
  require_device("noise", noise, alpha);
  require_shape("shares", shares, {sites});
  require_type("shares", shares, ScalarType::Double);
  require_device("shares", shares, alpha);
  for (const Tensor& input : {alpha, noise, shares}) {
    call.inputs.push_back(torch::stable::contiguous(input));
  }
  args.alpha = call.inputs[0].const_data_ptr();
  args.noise = call.inputs[1].const_data_ptr();
  args.shares = static_cast<const double*>(call.inputs[2].const_data_ptr());
  args.sites = sites;
  args.sizes = call.sizes.data();
  call.outputs = {torch::stable::new_empty(alpha, {gates}),
                  torch::stable::new_empty(alpha, {gates}),
                  torch::stable::new_empty(alpha, {sites + 2}, ScalarType::Double),
                  torch::stable::new_empty(alpha, {}, ScalarType::Double),
                  torch::stable::new_empty(alpha, {gates})};
  args.gates = call.outputs[0].mutable_data_ptr();
  args.slopes = call.outputs[1].mutable_data_ptr();
  args.open = static_cast<double*>(call.outputs[2].mutable_data_ptr());
  args.sparsity = static_cast<double*>(call.outputs[3].mutable_data_ptr());
  args.sparsity_slopes = call.outputs[4].mutable_data_ptr();
  return call;
}

Call<MaskedNormArgs> masked_norm_call(const Tensor& x, const Tensor& weight,
                                      const OptionalTensor& bias, const Tensor& gate, double eps,
                                      bool centered) {
  require(eps >= 0, "eps must not be negative");
  auto call = norm_call<MaskedNormArgs>(x, weight, bias, gate, centered);
  MaskedNormArgs& args = call.args;
  args.eps = eps;
  call.outputs = {torch::stable::new_empty(x, {args.rows, args.width}),
                  torch::stable::new_empty(x, {args.rows}),
                  torch::stable::new_empty(x, {args.rows})};
  args.y = call.outputs[0].mutable_data_ptr();
  args.mean = call.outputs[1].mutable_data_ptr();
  args.rstd = call.outputs[2].mutable_data_ptr();
  return call;
}

Call<MaskedNormBackwardArgs> masked_norm_backward_call(const Tensor& dy, const Tensor& x,
                                                       const Tensor& weight,
                                                       const OptionalTensor& bias,
                                                       const Tensor& gate, const Tensor& mean,
                                                       const Tensor& rstd, bool centered) {
  auto call = norm_call<MaskedNormBackwardArgs>(x, weight, bias, gate, centered);
  MaskedNormBackwardArgs& args = call.args;
  args.dy = dense(call.inputs, "dy", dy, {args.rows, args.width}, x);
  args.mean = dense(call.inputs, "mean", mean, {args.rows}, x);
  args.rstd = dense(call.inputs, "rstd", rstd, {args.rows}, x);
  call.outputs = {torch::stable::new_empty(x, {args.rows, args.width})};
  for (int i = 0; i < 3; ++i) call.outputs.push_back(torch::stable::new_empty(x, {args.width}));
  args.dx = call.outputs[0].mutable_data_ptr();
  args.dweight = call.outputs[1].mutable_data_ptr();
  args.dbias = call.outputs[2].mutable_data_ptr();
  args.dgate = call.outputs[3].mutable_data_ptr();
  return call;
}

void throw_unless_ok(const char* op, Status status) {
  switch (status) {
    case Status::ok:
      return;
    case Status::unsupported_dtype:
      fail(op, ": unsupported dtype");
    case Status::too_large:
      fail(op, ": a dimension is too large for the launch grid; pass fewer samples at a time");
    case Status::launch_failed:
      throw std::runtime_error(std::string("fastprune: ") + op +
                               ": the CUDA launch failed; an earlier kernel may be the cause "
                               "(CUDA_LAUNCH_BLOCKING=1 tells)");
  }
}

}  // namespace fastprune
