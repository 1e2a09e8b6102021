"""Our Fisher information as an importance for Torch-Pruning's pruners.

>>> importance = FisherImportance(model, samples)
>>> pruner = tp.pruner.BasePruner(
...     model, inputs, importance, pruning_ratio=0.5, head_pruning_ratio=0.5, **importance.options()
... )
>>> pruner.step()
>>> importance.finish()
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastprune.calibration import Statistics, collect_statistics
from fastprune.calibration.objective import Targets
from fastprune.compaction.surgery import refit_
from fastprune.data import Samples
from fastprune.errors import FastpruneError, UnsupportedModelError
from fastprune.structure import Site, find_sites
from fastprune.structure.declaration import anatomy
from fastprune.structure.ragged import Ragged

try:
    import torch_pruning as tp
except ImportError as error:
    raise FastpruneError(
        "Torch-Pruning is not installed; run: pip install torch-pruning"
    ) from error


class FisherImportance(tp.importance.Importance):
    """Diagonal Fisher information of the masks of heads and FFN filters (Kwon et al. 2022, 4.1).

    The columns of a head share the head's importance. It knows the model as it is now: before a
    further step of an iterative pruner, make a new one.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples | None = None,
        *,
        statistics: Statistics | None = None,
        targets: Targets = "labels",
    ) -> None:
        """Collect the Fisher information.

        Args:
            model: one :func:`fastprune.find_sites` understands, with plain ``nn.Linear`` layers.
            samples: calibration samples (:func:`fastprune.load_samples`).
            statistics: already collected with ``mask_fisher``, instead of samples.
            targets: ``"labels"``, or ``"model"`` for samples without.

        Raises:
            FastpruneError: neither or both of samples and statistics.
            DataError: statistics of another model, or labels asked for but absent.
            UnsupportedModelError: an architecture without declaration, or one whose units
                Torch-Pruning cannot remove.
        """
        if (samples is None) == (statistics is None):
            raise FastpruneError("give FisherImportance either samples or statistics")
        self._model = model
        self._sites = find_sites(model)
        for site in self._sites:
            _check_linear(model, site)
        if statistics is None:
            assert samples is not None
            statistics = collect_statistics(
                model,
                samples,
                targets=targets,
                mask_gradients=False,
                output_fisher=False,
                input_moments=False,
            )
        statistics.check_fit(self._sites, mask_fisher=True)
        self._columns: dict[nn.Module, tuple[Site, Tensor]] = {}
        scores = statistics.importance().split([site.units for site in self._sites])
        for site, units in zip(self._sites, scores, strict=True):
            columns = units.repeat_interleave(site.group)
            self._columns[model.get_submodule(site.name)] = site, columns

    def options(self) -> dict[str, Any]:
        """Keyword arguments of a pruner that removes whole heads and filters, and nothing else."""
        declaration = anatomy(self._model).declaration
        heads: dict[nn.Module, int] = {}
        prunable: set[nn.Module] = set()
        for site in self._sites:
            sublayer = declaration.ffn if site.kind == "ffn" else declaration.heads
            for path in sublayer.inputs:
                module = self._model.get_submodule(f"{site.block}.{path}")
                prunable.add(module)
                if site.kind == "attention":
                    heads[module] = site.units
        leaves = [module for module in self._model.modules() if not any(module.children())]
        return {
            "num_heads": heads,
            "prune_num_heads": True,
            "prune_head_dims": False,
            "ignored_layers": [module for module in leaves if module not in prunable],
        }

    def finish(self) -> None:
        """After each step, make head counts and config agree with the weights.

        :func:`fastprune.save_pretrained` then writes a directory that reloads.
        """
        refit_(self._model)

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor:
        """Importance of every channel of a group, as Torch-Pruning asks for it: float32 [channels].

        Raises:
            FastpruneError: a group of other channels than those of heads or filters, or of a model
                that has been pruned since.
        """
        total: Tensor | None = None
        position = {root: i for i, root in enumerate(group[0].root_idxs)}
        for item in group:
            found = self._columns.get(item.dep.target.module)
            if found is None or item.dep.handler != tp.prune_linear_in_channels:
                continue
            site, columns = found
            if item.dep.target.module.in_features != site.columns:
                raise FastpruneError(
                    f"{site.name} has been pruned since its Fisher information was collected; make "
                    "a new FisherImportance for every step"
                )
            if total is None:
                total = columns.new_zeros(len(position))
            at = torch.tensor([position[root] for root in item.root_idxs], device=columns.device)
            total.index_add_(0, at, columns[list(item.idxs)])
        if total is None:
            name = group[0].dep.target.name
            raise FastpruneError(
                f"the Fisher information knows heads and FFN filters, not the channels of {name}; "
                "ignore that layer, as FisherImportance.options() does"
            )
        return total


def _check_linear(model: nn.Module, site: Site) -> None:
    module = model.get_submodule(site.name)
    if not isinstance(module, nn.Linear):
        raise UnsupportedModelError(
            f"{site.name} is a {type(module).__name__}, which Torch-Pruning does not prune; use "
            "fastprune.prune for this model"
        )
    if any(isinstance(module, Ragged) for module in model.modules()):
        raise UnsupportedModelError(
            "heads of this model differ in width, which Torch-Pruning does not know of; use "
            "fastprune.prune for this model"
        )
    attention = anatomy(model).declaration.heads
    owner = model.get_submodule(f"{site.block}.{attention.module}")
    if site.kind == "attention" and getattr(owner, "num_key_value_groups", 1) > 1:
        raise UnsupportedModelError(
            "Torch-Pruning does not remove whole key/value groups, which these heads share; use "
            "fastprune.prune for this model"
        )
