"""Every native operation on one screen. The native library and the references implement these."""

from __future__ import annotations

import torch

NAMESPACE = "fastprune"

SCHEMAS = {
    "mask_grad": "(Tensor x, Tensor grad, int group, Tensor? valid, Tensor? offsets) -> Tensor",
    "fisher_outer": "(Tensor(a!) blocks, Tensor grads, int[] sizes) -> ()",
    "greedy_rearrange": "(Tensor blocks, int[] sizes, Tensor masks) -> Tensor",
    "gram": "(Tensor(a!) out, Tensor x, Tensor? columns, Tensor? valid) -> ()",
    "tuning_system": (
        "(Tensor gram, Tensor weight, Tensor cross, int group) -> (Tensor a, Tensor b)"
    ),
    "block_lstsq": (
        "(Tensor systems, Tensor rhs, int[] sizes, float damping) -> (Tensor x, Tensor info)"
    ),
    "obs_greedy": (
        "(Tensor inverse, Tensor weight, int[] sizes, int[] groups) "
        "-> (Tensor order, Tensor curve, Tensor info)"
    ),
    "trajectory_distance": "(Tensor(a!) out, Tensor features, Tensor teacher) -> ()",
    "path_step": (
        "(Tensor(a!) mask, Tensor(b!) dual, Tensor(c!) gate, Tensor(d!) crossing, "
        "Tensor gradient, Tensor threshold, Tensor kappa, Tensor alpha, Tensor nu, float step) "
        "-> ()"
    ),
    "hard_concrete": (
        "(Tensor alpha, Tensor noise, Tensor shares, int[] sizes, bool sublayers, int hidden) "
        "-> (Tensor gates, Tensor slopes, Tensor open, Tensor sparsity, Tensor sparsity_slopes)"
    ),
    "masked_norm": (
        "(Tensor x, Tensor weight, Tensor? bias, Tensor gate, float eps, bool centered) "
        "-> (Tensor y, Tensor mean, Tensor rstd)"
    ),
    "masked_norm_backward": (
        "(Tensor dy, Tensor x, Tensor weight, Tensor? bias, Tensor gate, Tensor mean, "
        "Tensor rstd, bool centered) -> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dgate)"
    ),
}

# Keeps the definitions alive: a Library that is collected takes its operations with it.
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

for _name, _signature in SCHEMAS.items():
    LIBRARY.define(_name + _signature, tags=torch.Tag.pt2_compliant_tag)
