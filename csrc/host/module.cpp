// The Python module fastprune._host: host code over NumPy arrays. No torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <span>
#include <vector>

#include "allocate.h"
#include "budget_search.h"
#include "build_info.h"

namespace py = pybind11;

namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Masks = py::array_t<uint8_t, py::array::c_style>;
using Choices = py::array_t<int64_t, py::array::c_style>;
using Flags = py::array_t<bool, py::array::c_style>;

std::span<const double> view(const Doubles& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

std::vector<std::span<const double>> views(const std::vector<Doubles>& arrays) {
  std::vector<std::span<const double>> spans;
  for (const Doubles& array : arrays) spans.push_back(view(array));
  return spans;
}

py::tuple budget_search(const Doubles& heads, const Doubles& filters, double head_cost,
                        double filter_cost, const Doubles& budgets) {
  Masks head_masks({budgets.size(), heads.size()});
  Masks filter_masks({budgets.size(), filters.size()});
  {
    const auto limits = view(budgets);
    uint8_t* head_row = head_masks.mutable_data();
    uint8_t* filter_row = filter_masks.mutable_data();
    const py::gil_scoped_release release;
    const fastprune::BudgetSearch search(view(heads), view(filters), head_cost, filter_cost);
    for (double budget : limits) {
      const fastprune::UnitCounts counts = search.solve(budget);
      search.mark_heads(counts.heads, head_row);
      search.mark_filters(counts.filters, filter_row);
      head_row += heads.size();
      filter_row += filters.size();
    }
  }
  return py::make_tuple(head_masks, filter_masks);
}

py::tuple allocate(const std::vector<Doubles>& errors, const std::vector<Doubles>& costs,
                   const Doubles& budgets) {
  Choices chosen({budgets.size(), static_cast<py::ssize_t>(errors.size())});
  Flags exact(budgets.size());
  {
    const auto limits = view(budgets);
    const auto error_views = views(errors);
    const auto cost_views = views(costs);
    int64_t* row = chosen.mutable_data();
    bool* proved = exact.mutable_data();
    const py::gil_scoped_release release;
    const fastprune::Allocator allocator(error_views, cost_views);
    for (double budget : limits) {
      *proved++ = allocator.solve(budget, row);
      row += errors.size();
    }
  }
  return py::make_tuple(chosen, exact);
}

py::dict build_info() {
  using namespace fastprune::build;
  py::dict info;
  info["compiler"] = kCompiler;
  info["flags"] = kFlags;
  info["cuda_compiler"] = kCudaCompiler;
  info["cuda_flags"] = kCudaFlags;
  info["cuda_architectures"] = kCudaArchitectures;
  info["torch"] = kTorch;
  info["torch_target"] = kTorchTarget;
  return info;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Torch-free host code of fastprune.";
  m.def("budget_search", &budget_search, py::arg("head_importance"), py::arg("filter_importance"),
        py::arg("head_cost"), py::arg("filter_cost"), py::arg("budgets"));
  m.def("allocate", &allocate, py::arg("errors"), py::arg("costs"), py::arg("budgets"));
  m.def("build_info", &build_info);
}
