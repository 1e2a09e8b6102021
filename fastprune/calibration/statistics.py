"""Statistics: everything selection needs to know about the data. Additive and serialisable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import torch

from fastprune.calibration.moments import InputMoments
from fastprune.calibration.objective import Targets
from fastprune.calibration.storage import check_shapes, read_sums, unreadable, write_sums
from fastprune.distributed import Group
from fastprune.errors import CheckpointError, DataError
from fastprune.structure.site import Site

FisherKind = Literal["sample", "batch"]


_INPUT_MOMENTS = ("grams", "sums", "weights", "tokens")


class Needs(TypedDict):
    """What a method of selection or tuning needs of :class:`Statistics`."""

    mask_fisher: bool
    mask_gradients: bool
    output_fisher: bool
    input_moments: bool


@dataclass(frozen=True)
class Statistics:
    """What calibration samples say about the sites of a model.

    Sums over disjoint samples, batches, shards or machines add up: ``a + b``.

    Attributes:
        site_names: sites in order; each contributes one block.
        sizes: units per site.
        blocks: float32 [sum(sizes**2)], the Fisher information of the masks: flat blocks
            ``G_s^T G_s`` (Kwon et al. 2022, eq. 7); None where not collected.
        rows: number of gradient rows summed: samples, or mini-batches where ``fisher="batch"``.
        samples: number of calibration samples seen.
        tokens: number of valid tokens seen.
        fisher: whose gradients the rows are.
        targets: what the losses were taken against, ``"labels"`` or the ``"model"``'s own outputs.
        output_fisher: float32 [sites, outputs, outputs], second moments of the gradients at the
            outputs of the sites' projections, summed over tokens; None where not collected.
        input_moments: second moments of the inputs of the sites' projections; None where not
            collected.
        mask_gradients: float32 [rows, sum(sizes)], the gradients of the masks themselves, in no
            particular order; None where not collected.
    """

    site_names: tuple[str, ...]
    sizes: tuple[int, ...]
    blocks: torch.Tensor | None
    rows: int
    samples: int
    tokens: int
    fisher: FisherKind = "sample"
    targets: Targets = "labels"
    output_fisher: torch.Tensor | None = None
    input_moments: InputMoments | None = None
    mask_gradients: torch.Tensor | None = None

    @property
    def mean_length(self) -> float:
        """Mean number of valid tokens per sample."""
        return self.tokens / max(self.samples, 1)

    def mask_fisher(self) -> torch.Tensor:
        """``blocks``, where they were collected.

        Raises:
            DataError: they were not.
        """
        if self.blocks is None:
            raise _not_collected(["mask_fisher"])
        return self.blocks

    def gradient_rows(self) -> torch.Tensor:
        """``mask_gradients``, where they were collected.

        Raises:
            DataError: they were not.
        """
        if self.mask_gradients is None:
            raise _not_collected(["mask_gradients"])
        return self.mask_gradients

    def kronecker_factors(self) -> tuple[InputMoments, torch.Tensor]:
        """``input_moments`` and ``output_fisher``, where both were collected.

        Raises:
            DataError: they were not.
        """
        if self.input_moments is None or self.output_fisher is None:
            raise _not_collected(["input_moments", "output_fisher"])
        return self.input_moments, self.output_fisher

    def block(self, index: int) -> torch.Tensor:
        """Fisher block of site ``index``: float32 [units, units], a view."""
        start = sum(size * size for size in self.sizes[:index])
        size = self.sizes[index]
        return self.mask_fisher()[start : start + size * size].view(size, size)

    def importance(self) -> torch.Tensor:
        """Diagonal of every block, side by side: float32 [sum(sizes)] (Kwon et al. 2022, eq. 6)."""
        return torch.cat([self.block(i).diagonal() for i in range(len(self.sizes))])

    def check_fit(
        self,
        sites: Sequence[Site],
        *,
        mask_fisher: bool = False,
        mask_gradients: bool = False,
        output_fisher: bool = False,
        input_moments: bool = False,
    ) -> None:
        """Refuse statistics that do not serve these sites.

        Args:
            sites: where they are to be used.
            mask_fisher: whether ``blocks`` are needed.
            mask_gradients: whether ``mask_gradients`` are needed.
            output_fisher: whether ``output_fisher`` is needed.
            input_moments: whether ``input_moments`` are needed.

        Raises:
            DataError: other sites or widths, or something that was not collected.
        """
        ours = list(zip(self.site_names, self.sizes, strict=True))
        fits = ours == [(site.name, site.units) for site in sites]
        if self.input_moments is not None:
            fits = fits and self.input_moments.columns == tuple(site.columns for site in sites)
        if self.output_fisher is not None:
            fits = fits and all(self.output_fisher.shape[-1] == site.outputs for site in sites)
        if not fits:
            raise DataError(
                "these statistics belong to another model or to other widths; collect them again "
                "with collect_statistics(model, samples)"
            )
        needed = {
            "mask_fisher": mask_fisher and self.blocks is None,
            "mask_gradients": mask_gradients and self.mask_gradients is None,
            "output_fisher": output_fisher and self.output_fisher is None,
            "input_moments": input_moments and self.input_moments is None,
        }
        missing = [name for name, lacks in needed.items() if lacks]
        if missing:
            raise _not_collected(missing)

    def output_metrics(self) -> dict[str, torch.Tensor]:
        """Per site, ``output_fisher`` where it was collected: how much errors of outputs matter."""
        if self.output_fisher is None:
            return {}
        return dict(zip(self.site_names, self.output_fisher, strict=True))

    def input_means(self) -> dict[str, torch.Tensor]:
        """Per site, the mean input of its projection, [columns], where moments were collected."""
        if self.input_moments is None:
            return {}
        return {name: self.input_moments.mean(i) for i, name in enumerate(self.site_names)}

    def __add__(self, other: Statistics) -> Statistics:
        kinds = [(s.site_names, s.sizes, s.fisher, s.targets) for s in (self, other)]
        inputs = [s.input_moments.columns for s in (self, other) if s.input_moments is not None]
        outputs = [s.output_fisher.shape for s in (self, other) if s.output_fisher is not None]
        if any(len(set(alike)) > 1 for alike in (kinds, inputs, outputs)):
            raise DataError(
                "statistics of different models or kinds of Fisher information do not add up; "
                "collect both with the same model, `fisher` and `targets`"
            )
        return Statistics(
            site_names=self.site_names,
            sizes=self.sizes,
            blocks=_sum(self.blocks, other.blocks),
            rows=self.rows + other.rows,
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
            fisher=self.fisher,
            targets=self.targets,
            output_fisher=_sum(self.output_fisher, other.output_fisher),
            input_moments=None
            if self.input_moments is None or other.input_moments is None
            else self.input_moments + other.input_moments,
            mask_gradients=None
            if self.mask_gradients is None or other.mask_gradients is None
            else torch.cat(
                [self.mask_gradients, other.mask_gradients.to(self.mask_gradients.device)]
            ),
        )

    def to(self, device: torch.device) -> Statistics:
        """The same sums on another device."""
        names = ("blocks", "output_fisher", "input_moments", "mask_gradients")
        moved = {name: getattr(self, name) for name in names}
        present = {name: sums.to(device) for name, sums in moved.items() if sums is not None}
        return replace(self, **present)

    def summed(self, group: Group) -> Statistics:
        """The sums of what all processes of a group have seen; tensors are summed in place."""
        counts = torch.tensor([self.rows, self.samples, self.tokens])
        sums = [self.blocks, self.output_fisher]
        if self.input_moments is not None:
            sums += [getattr(self.input_moments, name) for name in _INPUT_MOMENTS]
        group.sum_(counts, *(tensor for tensor in sums if tensor is not None))
        rows, samples, tokens = counts.tolist()
        gradients = self.mask_gradients
        if gradients is not None:
            gradients = _joined(gradients, group)
        return replace(self, rows=rows, samples=samples, tokens=tokens, mask_gradients=gradients)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics to one safetensors file; the file appears whole or not at all.

        Raises:
            CheckpointError: the file cannot be written.
        """
        fields = {
            "site_names": self.site_names,
            "sizes": self.sizes,
            "rows": self.rows,
            "samples": self.samples,
            "tokens": self.tokens,
            "fisher": self.fisher,
            "targets": self.targets,
        }
        inputs = self.input_moments
        fields["columns"] = () if inputs is None else inputs.columns
        tensors = {
            "blocks": self.blocks,
            "output_fisher": self.output_fisher,
            "mask_gradients": self.mask_gradients,
        }
        if inputs is not None:
            tensors |= {name: getattr(inputs, name) for name in _INPUT_MOMENTS}
        write_sums(path, {k: v for k, v in tensors.items() if v is not None}, fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged or not a statistics file.
        """
        tensors, fields = read_sums(path)
        try:
            names, sizes, columns = (
                tuple(fields.pop(key)) for key in ("site_names", "sizes", "columns")
            )
            outputs = tensors["output_fisher"].shape[-1] if "output_fisher" in tensors else 0
            expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
                "blocks": ((sum(n * n for n in sizes),), torch.float32),
                "output_fisher": ((len(sizes), outputs, outputs), torch.float32),
                "mask_gradients": ((fields["rows"], sum(sizes)), torch.float32),
                "grams": ((sum(n * n for n in columns),), torch.float32),
                "sums": ((sum(columns),), torch.float64),
                "weights": ((len(columns),), torch.float64),
                "tokens": ((len(columns),), torch.int64),
            }
            check_shapes(path, tensors, expected)
            counts = [fields[name] for name in ("rows", "samples", "tokens")]
            if len(names) != len(sizes) or any(type(n) is not int or n < 0 for n in counts):
                raise ValueError("its sites or its numbers of samples make no sense")
            return cls(
                names,
                sizes,
                tensors.get("blocks"),
                output_fisher=tensors.get("output_fisher"),
                mask_gradients=tensors.get("mask_gradients"),
                input_moments=InputMoments(columns, *(tensors[name] for name in _INPUT_MOMENTS))
                if columns
                else None,
                **fields,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(unreadable(path, error)) from error


def _not_collected(names: Sequence[str]) -> DataError:
    return DataError(
        f"these statistics were collected without {' and '.join(names)}, which this method needs; "
        f"collect them again with {', '.join(f'{name}=True' for name in names)}"
    )


def _sum(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> torch.Tensor | None:
    """What only one side has collected does not cover both."""
    if ours is None or theirs is None:
        return None
    return ours + theirs.to(ours.device)


def _joined(rows: torch.Tensor, group: Group) -> torch.Tensor:
    """The rows of all processes, one process after the other."""
    if group.size == 1:
        return rows
    counts = group.gather(len(rows))
    start = sum(counts[: group.rank])
    joined = rows.new_zeros(sum(counts), rows.shape[1])
    joined[start : start + len(rows)] = rows
    group.sum_(joined)
    return joined
