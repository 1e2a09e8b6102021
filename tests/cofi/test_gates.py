"""Gates as parameters: draws, expected sparsity, settled values, and budgets met exactly."""

from __future__ import annotations

import math

import pytest
import torch
from gated_models import gates_of, layout
from tiny_models import tiny

from fastprune.budget import price_sites
from fastprune.cofi.budgets import within
from fastprune.cofi.choices import GATES
from fastprune.cofi.folding import compact_gated
from fastprune.cofi.gates import LARGEST, Gates
from fastprune.cofi.layout import GateLayout
from fastprune.errors import BudgetError, UnsupportedModelError
from fastprune.structure import find_sites

SUBSETS = [
    ("heads",),
    ("filters",),
    ("sublayers",),
    ("hidden",),
    ("heads", "filters"),
    ("sublayers", "hidden"),
    ("heads", "filters", "hidden"),
    GATES,
]


def random_gates(found: GateLayout, seed: int = 0) -> Gates:
    generator = torch.Generator().manual_seed(seed)
    return Gates(found, 3 * torch.randn(sum(found.lengths), generator=generator))


def expected_sparsity(gates: Gates) -> float:
    """From the probabilities, weight by weight, over the outer product with hidden dimensions."""
    found = gates.layout
    p = torch.sigmoid(gates.alpha.detach().double() + 2 / 3 * math.log(11))
    *units, sublayers, hidden = p.split(found.lengths)
    hidden = hidden if len(hidden) else torch.ones(1).double()
    kept, whole = 0.0, 0.0
    for i, (site, cost) in enumerate(zip(found.sites, found.prices.per_unit, strict=True)):
        part = units[i] if len(units[i]) else torch.ones(site.units).double()
        sublayer = sublayers[i] if len(sublayers) else 1.0
        kept += float(torch.outer(hidden, part * sublayer).sum()) * cost / len(hidden)
        whole += cost * site.units
    return 1 - kept / whole


@pytest.mark.parametrize("gates", SUBSETS, ids="+".join)
@pytest.mark.parametrize("family", ["bert", "distilbert", "llama"])
def test_every_subset_has_its_closed_form(family: str, gates: tuple[str, ...]) -> None:
    found = random_gates(layout(tiny(family), *gates))
    torch.manual_seed(0)
    values, sparsity = found.draw()
    assert sparsity.item() == pytest.approx(expected_sparsity(found), abs=1e-6)
    assert found.sparsity() == pytest.approx(sparsity.item(), abs=1e-12)
    assert (values.hidden is not None) == ("hidden" in gates)
    assert bool(values.sublayers) == ("sublayers" in gates)
    kinds = {site.name: site.kind for site in found.layout.sites}
    named = {"attention": "heads", "ffn": "filters"}
    assert {named[kinds[name]] for name in values.units} == {*gates} & {"heads", "filters"}


def test_gradients_of_draws_and_sparsity_by_differences() -> None:
    found = random_gates(layout(tiny("bert"))).double()
    weights = torch.randn(
        found.alpha.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    def value(alpha: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        found.alpha.data = alpha
        values, sparsity = found.draw()
        assert values.hidden is not None
        row = torch.cat(
            [
                *values.units.values(),
                torch.stack(list(values.sublayers.values())),
                values.hidden,
            ]
        )
        return (row * weights).sum() + 100 * sparsity

    start = found.alpha.detach().clone()
    (gradient,) = torch.autograd.grad(value(start), found.alpha)
    step = 1e-6
    for gate in range(0, len(start), 7):
        shift = torch.zeros_like(start)
        shift[gate] = step
        slope = (value(start + shift) - value(start - shift)).item() / (2 * step)
        assert float(gradient[gate]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_fresh_gates_are_open_and_bounded() -> None:
    found = Gates(layout(tiny("bert")))
    assert found.alpha.max().item() <= LARGEST
    assert found.alpha.min().item() > LARGEST - 0.1
    assert found.sparsity() < 0.01
    with torch.no_grad():
        found.alpha.fill_(100)
    found.clamp_()
    assert float(found.alpha.max()) == pytest.approx(math.log(100))


def test_settled_values_are_those_of_the_released_code() -> None:
    found = Gates(layout(tiny("bert"), "filters"), torch.zeros(3 * 37))
    alpha = torch.linspace(-4.605, 4.605, 37)
    with torch.no_grad():
        found.alpha.copy_(alpha.repeat(3))
    p = torch.sigmoid(alpha.double() + 1.5986)
    gone = 37 - round(float(p.sum()))
    for z in found.settled().units.values():
        assert int((z == 0).sum()) == gone > 5
        assert torch.equal(z[:gone], torch.zeros(gone))
        torch.testing.assert_close(z[gone:], torch.sigmoid(1.2 * alpha[gone:]), rtol=1e-6, atol=0)
        assert float(z.max()) == pytest.approx(0.996, abs=5e-4)


def test_sublayers_settle_where_they_are_likelier() -> None:
    found = Gates(layout(tiny("bert"), "sublayers"), torch.tensor([4.0, -1.5, -1.7, 1, -4, 0]))
    values = list(found.settled().sublayers.values())
    assert [bool(v) for v in values] == [True, True, False, True, False, True]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("share", [0.7, 0.4, 0.2, 0.1])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_budgets_are_kept_and_used_up(family: str, share: float, kind: str, seed: int) -> None:
    model = tiny(family)
    gates = random_gates(layout(model, kind=kind), seed)
    dense = gates.layout.prices.dense
    values = within(gates, share * dense)
    small = compact_gated(model, gates.layout.sites, values)
    left = price_sites(find_sites(small), kind, 10.0).dense if find_sites(small) else 0.0
    assert left == pytest.approx(gates.layout.cost(values))
    assert left <= share * dense
    # Any unit of a sublayer that is there, or any hidden dimension, would be too much.
    assert values.hidden is not None
    open_sites = [name for name, z in values.sublayers.items() if z]
    for row in (values.hidden, *(values.units[name] for name in open_sites)):
        closed = (row == 0).nonzero().flatten()
        if len(closed):
            row[closed[0]] = 1
            assert gates.layout.cost(values) > share * dense
            row[closed[0]] = 0


def test_without_sublayers_budgets_are_met_to_a_few_units() -> None:
    gates = random_gates(layout(tiny("bert"), "heads", "filters"))
    dense = gates.layout.prices.dense
    for share in (0.8, 0.5, 0.3):
        cost = gates.layout.cost(within(gates, share * dense))
        assert share - 0.06 <= cost / dense <= share


def test_what_the_gates_think_of_each_other_stays() -> None:
    gates = random_gates(layout(tiny("bert"), "filters"))
    dense = gates.layout.prices.dense
    looser, tighter = (within(gates, share * dense) for share in (0.9, 0.8))
    for name, z in tighter.units.items():
        kept = z != 0
        assert torch.equal(z[kept], looser.units[name][kept])


def test_impossible_budgets_name_the_least() -> None:
    gates = random_gates(layout(tiny("bert"), "hidden"))
    with pytest.raises(BudgetError, match="is the least that is left"):
        within(gates, 1.0)


def test_models_have_the_gates_they_can() -> None:
    assert gates_of(tiny("bert")) == GATES
    assert gates_of(tiny("vit")) == ("sublayers", "heads", "filters")
    assert layout(tiny("vit")).hidden == 0
    with pytest.raises(UnsupportedModelError, match="not declared"):
        layout(tiny("vit"), "hidden")
