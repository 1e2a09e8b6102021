"""What masks leave of the sublayers of a model: rows, columns and heads of its projections."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastprune.errors import UnsupportedModelError
from fastprune.structure.declaration import Anatomy, Attention, Sublayer
from fastprune.structure.empty import ZeroOutputs
from fastprune.structure.heads import HeadWidths, head_widths, sharing_queries
from fastprune.structure.projection import Projection, as_projection
from fastprune.structure.site import Site
from fastprune.structure.sites import input_size

Replacements = dict[int, nn.Parameter]


@dataclass(frozen=True)
class Remains:
    """What stays of one sublayer.

    Attributes:
        layer: its number.
        rows: per input projection, by its path from the model: bool [outputs of one part].
        output: path of the output projection.
        columns: bool [inputs of the output projection].
        parts: as in :class:`Sublayer`.
        widths: of the heads that stay; None in an FFN.
        tables: by the path of a parameter with a column per head: bool [heads].
    """

    layer: int
    rows: dict[str, Tensor]
    output: str
    columns: Tensor
    parts: int
    widths: HeadWidths | None
    tables: dict[str, Tensor] = field(default_factory=dict)


def find_remains(
    model: nn.Module, found: Anatomy, masks: Iterable[tuple[Site, Tensor]]
) -> list[Remains]:
    """What masks [units] leave, sublayer by sublayer; nonzero = kept.

    A head without value dimensions adds nothing: its query-key dimensions go, too.
    """
    by_sublayer: dict[tuple[int, bool], list[tuple[Site, Tensor]]] = {}
    for site, mask in masks:
        kept = mask.detach().to("cpu", torch.bool)
        by_sublayer.setdefault((site.layer, site.kind == "ffn"), []).append((site, kept))
    remains = []
    for (layer, is_ffn), given in by_sublayer.items():
        part = found.declarations[layer]
        remains.append(_remains(model, part.ffn if is_ffn else part.heads, given))
    return remains


def cut(model: nn.Module, remains: Iterable[Remains]) -> Replacements:
    """Shortened parameters by the id of the parameter each one replaces.

    Raises:
        UnsupportedModelError: a projection that is no plain one.
    """
    cuts: Replacements = {}
    for left in remains:
        output = as_projection(model.get_submodule(left.output), left.output)
        shorten(cuts, output.weight, left.columns, axis(output, "inputs"))
        for path, rows in left.rows.items():
            module = model.get_submodule(path)
            if isinstance(module, ZeroOutputs):
                continue
            projection = as_projection(module, path)
            rows = rows.repeat(left.parts)
            shorten(cuts, projection.weight, rows, axis(projection, "outputs"))
            if projection.bias is not None:
                shorten(cuts, projection.bias, rows, 0)
        for path, heads in left.tables.items():
            # Where all heads go, the whole module does.
            if heads.any():
                shorten(cuts, model.get_parameter(path), heads, -1)
    return cuts


def axis(projection: Projection, side: str) -> int:
    """Which axis of the stored weight are its ``"inputs"`` or ``"outputs"``."""
    return int((side == "inputs") != isinstance(projection, Conv1D))


def _remains(model: nn.Module, sublayer: Sublayer, masks: list[tuple[Site, Tensor]]) -> Remains:
    block = masks[0][0].block
    rows = {
        path: torch.ones(input_size(model, f"{block}.{path}")[0] // sublayer.parts).bool()
        for path in sublayer.inputs
    }
    output = f"{block}.{sublayer.output}"
    projection = as_projection(model.get_submodule(output), output)
    columns = torch.ones(projection.weight.shape[axis(projection, "inputs")]).bool()
    for site, mask in masks:
        for path in _inputs(sublayer, site):
            rows[path] &= _over_rows(site, mask, len(rows[path]))
        if site.kind != "qk":
            columns &= site.spread(mask)
    widths, tables = None, {}
    if isinstance(sublayer, Attention):
        stay, widths = _drop_heads_without_values(model, block, sublayer, rows, columns)
        tables = {f"{block}.{path}": stay for path in sublayer.tables}
    return Remains(
        layer=masks[0][0].layer,
        rows={f"{block}.{path}": kept for path, kept in rows.items()},
        output=output,
        columns=columns,
        parts=sublayer.parts,
        widths=widths,
        tables=tables,
    )


def _inputs(sublayer: Sublayer, site: Site) -> tuple[str, ...]:
    """Paths of the input projections whose rows belong to the units of a site."""
    if site.kind == "qk":
        return sublayer.inputs[:2]
    return sublayer.inputs[2:] if site.kind == "v" else sublayer.inputs


def _over_rows(site: Site, mask: Tensor, rows: int) -> Tensor:
    """A mask [units] over the rows of an input projection, which may be fewer than columns."""
    return mask.repeat_interleave(rows // (site.units * site.heads)).repeat(site.heads)


def _drop_heads_without_values(
    model: nn.Module,
    block: str,
    attention: Attention,
    rows: dict[str, Tensor],
    columns: Tensor,
) -> tuple[Tensor, HeadWidths]:
    """Which heads stay, bool [heads], and their widths; what is left of the others goes from
    ``rows``, in place.
    """
    before = head_widths(model, block, attention)
    queries = sharing_queries(model.get_submodule(f"{block}.{attention.module}"))
    v = [int(head.sum()) // queries for head in columns.split([n * queries for n in before.v])]
    qk, stay = list(before.qk), torch.tensor(v).bool()
    if not attention.fused:
        query, key = attention.inputs[:2]
        rows[query] &= stay.repeat_interleave(queries * torch.tensor(qk))
        rows[key] &= stay.repeat_interleave(torch.tensor(qk))
        qk = [int(head.sum()) for head in rows[key].split(qk)]
    widths = HeadWidths(
        tuple(n for n, values in zip(qk, v, strict=True) if values), tuple(n for n in v if n)
    )
    return stay, widths


def shorten(
    cuts: Replacements, parameter: Tensor, kept: Tensor, axis: int, *, further: bool = False
) -> None:
    """Add a parameter without what goes along an axis; ``further`` to what has gone already."""
    if kept.all():
        return
    indices = kept.nonzero().flatten().to(parameter.device)
    long = cuts.get(id(parameter), parameter) if further else parameter
    short = long.detach().index_select(axis, indices)
    cuts[id(parameter)] = nn.Parameter(short, requires_grad=parameter.requires_grad)


def refuse_shared(
    model: nn.Module, cuts: Replacements, alike: Collection[int] = frozenset()
) -> None:
    """Refuse to shorten what several modules share.

    Args:
        model: whose parameters are to be replaced.
        cuts: of :func:`cut`.
        alike: ids of parameters that every module which has them is cut alike in.

    Raises:
        UnsupportedModelError: naming the parameter.
    """
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in cuts and id(parameter) not in alike:
            if id(parameter) in seen:
                raise UnsupportedModelError(
                    f"{name} is shared with another module, so its units cannot be removed from "
                    "one of them; untie the weight or leave its sites unmasked"
                )
            seen.add(id(parameter))
