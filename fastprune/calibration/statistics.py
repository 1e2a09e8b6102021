"""Statistics: everything selection needs to know about the data. Additive and serialisable."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fastprune.errors import CheckpointError, DataError
from fastprune.structure.site import Site

FisherKind = Literal["sample", "batch"]


@dataclass(frozen=True)
class Statistics:
    """Block-diagonal Fisher information of the masks, summed over calibration samples.

    Sums over disjoint samples, batches, shards or machines add up: ``a + b``.

    Attributes:
        site_names: sites in order; each contributes one block.
        sizes: units per site.
        blocks: float32 [sum(sizes**2)], the flat blocks ``G_s^T G_s`` (Kwon et al. 2022, eq. 7).
        rows: number of gradient rows summed: samples, or mini-batches where ``fisher="batch"``.
        samples: number of calibration samples seen.
        tokens: number of valid tokens seen.
        fisher: whose gradients the rows are.
        targets: what the losses were taken against, ``"labels"`` or the ``"model"``'s own outputs.
        output_fisher: float32 [sites, outputs, outputs], second moments of the gradients at the
            outputs of the sites' projections, summed over tokens; None where not collected.
    """

    site_names: tuple[str, ...]
    sizes: tuple[int, ...]
    blocks: torch.Tensor
    rows: int
    samples: int
    tokens: int
    fisher: FisherKind = "sample"
    targets: str = "labels"
    output_fisher: torch.Tensor | None = None

    @property
    def mean_length(self) -> float:
        """Mean number of valid tokens per sample."""
        return self.tokens / max(self.samples, 1)

    def block(self, index: int) -> torch.Tensor:
        """Fisher block of site ``index``: float32 [units, units], a view."""
        start = sum(size * size for size in self.sizes[:index])
        size = self.sizes[index]
        return self.blocks[start : start + size * size].view(size, size)

    def importance(self) -> torch.Tensor:
        """Diagonal of every block, side by side: float32 [sum(sizes)] (Kwon et al. 2022, eq. 6)."""
        return torch.cat([self.block(i).diagonal() for i in range(len(self.sizes))])

    def check_fit(self, sites: Sequence[Site], *, output_fisher: bool) -> None:
        """Refuse statistics that were not collected on these sites.

        Args:
            sites: where they are to be used.
            output_fisher: whether ``output_fisher`` is needed.

        Raises:
            DataError: other sites or widths, or something that was not collected.
        """
        ours = list(zip(self.site_names, self.sizes, strict=True))
        if ours != [(site.name, site.units) for site in sites]:
            raise DataError(
                "these statistics belong to another model or to other widths; collect them again "
                "with collect_statistics(model, samples)"
            )
        if output_fisher and self.output_fisher is None:
            raise DataError(
                'tune="scale" needs statistics collected with output_fisher=True; collect them '
                "again"
            )

    def output_metrics(self) -> dict[str, torch.Tensor]:
        """Per site, ``output_fisher`` where it was collected: how much errors of outputs matter."""
        if self.output_fisher is None:
            return {}
        return dict(zip(self.site_names, self.output_fisher, strict=True))

    def __add__(self, other: Statistics) -> Statistics:
        kinds = [(s.site_names, s.sizes, s.fisher, s.targets) for s in (self, other)]
        if kinds[0] != kinds[1]:
            raise DataError(
                "statistics of different models or kinds of Fisher information do not add up; "
                "collect both with the same model, `fisher` and `targets`"
            )
        return Statistics(
            site_names=self.site_names,
            sizes=self.sizes,
            blocks=self.blocks + other.blocks.to(self.blocks.device),
            rows=self.rows + other.rows,
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
            fisher=self.fisher,
            targets=self.targets,
            output_fisher=_sum(self.output_fisher, other.output_fisher),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to one safetensors file; the file appears whole or not at all.

        Raises:
            CheckpointError: the file cannot be written.
        """
        path = Path(path)
        fields = {
            "site_names": self.site_names,
            "sizes": self.sizes,
            "rows": self.rows,
            "samples": self.samples,
            "tokens": self.tokens,
            "fisher": self.fisher,
            "targets": self.targets,
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            tensors = {"blocks": self.blocks, "output_fisher": self.output_fisher}
            found = {name: t.cpu().contiguous() for name, t in tensors.items() if t is not None}
            save_file(found, partial, {"fields": json.dumps(fields)})
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write statistics to {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged or not a statistics file.
        """
        try:
            with safe_open(path, "pt") as file:
                fields = json.loads((file.metadata() or {})["fields"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            fields["site_names"] = tuple(fields["site_names"])
            fields["sizes"] = tuple(fields["sizes"])
            statistics = cls(**tensors, **fields)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a readable statistics file ({error}); collect it again with "
                "fastprune.collect_statistics(...).save(path)"
            ) from error
        blocks = statistics.blocks
        expected = sum(size * size for size in statistics.sizes)
        if blocks.shape != (expected,) or blocks.dtype != torch.float32:
            raise CheckpointError(
                f"{path} is damaged: its blocks have shape {tuple(blocks.shape)}, expected "
                f"({expected},) in float32; collect the statistics again"
            )
        if not torch.isfinite(blocks).all():
            raise CheckpointError(f"{path} holds values that are not finite; collect it again")
        return statistics


def _sum(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> torch.Tensor | None:
    """What only one side has collected does not cover both."""
    if ours is None or theirs is None:
        return None
    return ours + theirs.to(ours.device)
