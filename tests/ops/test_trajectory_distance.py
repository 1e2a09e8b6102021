"""What must hold for distances between Gram matrices, whatever the numbers."""

from __future__ import annotations

import bounds
import numpy as np
import pytest
import torch
from ops.cases import Case
from torch import Tensor

from fastprune import ops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LONG_EPS = np.finfo(np.longdouble).eps


def _plain(features: Tensor, teacher: Tensor) -> np.ndarray:
    """The definition: Gram matrices subtracted, with digits to spare."""
    grams = []
    for rows in (*features, teacher):
        x = rows.double().cpu().numpy().astype(np.longdouble)
        x = x / np.sqrt((x * x).sum(1, keepdims=True))
        grams.append(x @ x.T)
    return np.array([((gram - grams[-1]) ** 2).sum() for gram in grams[:-1]], np.float64)


@pytest.mark.skipif(LONG_EPS > 2e-19, reason="long double is no longer than double here")
@pytest.mark.parametrize("traits", [(), ("near",)], ids=["far", "near"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_subtracted_gram_matrices_of_long_doubles(
    dtype: torch.dtype, traits: tuple[str, ...], device: torch.device
) -> None:
    arguments = Case("trajectory_distance", (4, 50, 9), dtype, traits).arguments(device)
    expected = torch.from_numpy(_plain(**arguments)).to(device)
    actual = ops.trajectory_distance(**arguments)
    # An entry of the plain difference is off by (width + 4) * LONG_EPS of either Gram, at most 1.
    rough = 2 * 13 * LONG_EPS
    bound = bounds.trajectory_distance(**arguments)[1] + 2 * rough * 50 * expected.sqrt()
    assert (bound < 1e-3 * expected).all(), "a bound that says nothing"
    assert ((actual - expected).abs() <= bound).all()


def test_a_difference_in_the_last_digit_is_seen(device: torch.device) -> None:
    """One entry of one row, a unit in the last place: by hand, to first order in it.

    Of d = (e - t (t.e)) / |t| with e in one entry only, only products with that row change:
    twice the sum over the other rows j of (t_j . d)^2, unit rows throughout.
    """
    torch.manual_seed(0)
    teacher = torch.randn(300, 40, device=device)
    features = teacher.clone()[None]
    features[0, 5, 7] = torch.nextafter(teacher[5, 7], teacher.new_tensor(torch.inf))
    t = teacher.double() / teacher.double().norm(dim=1, keepdim=True)
    e = (features[0, 5] - teacher[5]).double() / teacher[5].double().norm()
    d = e - t[5] * (t[5] @ e)
    expected = 2 * (t @ d).square().sum()  # row 5 itself gives zero
    actual = ops.trajectory_distance(features, teacher)
    # Entries are sums of 2 * 40 products in float32; d is exact to about |e| = 1e-7 relative.
    size = 2 * ((t @ d).abs() * (t.abs() @ d.abs())).sum()
    bound = 2 * (2 * 82 * bounds.EPS32 * size)
    assert bound < 1e-2 * expected
    assert abs(actual.item() - expected) <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_features_are_at_distance_zero(dtype: torch.dtype, device: torch.device) -> None:
    teacher = torch.randn(97, 61, device=device).to(dtype)
    teacher[3] = 0.0
    distances = ops.trajectory_distance(teacher.expand(3, -1, -1), teacher)
    assert distances.tolist() == [0.0, 0.0, 0.0]


def test_the_length_of_rows_does_not_matter(device: torch.device) -> None:
    """Powers of two: unit rows are equal to the last bit, and float64 lengths nearly so."""
    teacher = torch.randn(60, 33, device=device)
    scales = torch.exp2(torch.randint(-60, 60, (60, 1), device=device).float())
    distance = ops.trajectory_distance((teacher * scales)[None], teacher)
    # D is off by 5 * (width + 4) * EPS64 of two unit rows, an entry of the result by twice its
    # length, and there are 60 * 60 of them.
    assert 0 <= distance.item() <= (60 * 2 * 2 * 5 * 37 * bounds.EPS64) ** 2


def test_known_distances(device: torch.device) -> None:
    teacher = torch.eye(6, 9, device=device)
    one_gone = teacher.clone()
    one_gone[2] = 0.0  # its product with itself was 1
    all_alike = teacher[:1].expand(6, -1) * torch.arange(1.0, 7.0, device=device)[:, None]
    opposite = -teacher  # the same Gram matrix, by another difference
    features = torch.stack([one_gone, all_alike, opposite])
    expected = torch.tensor([1.0, 30.0, 0.0], dtype=torch.float64, device=device)
    for dtype in DTYPES:
        actual = ops.trajectory_distance(features.to(dtype), teacher.to(dtype))
        assert torch.equal(actual, expected)


def test_layers_add_up_in_out(device: torch.device) -> None:
    layers = [Case("trajectory_distance", (3, 20, width)).arguments(device) for width in (8, 13)]
    out = torch.ones(3, dtype=torch.float64, device=device)
    for layer in layers:
        assert ops.trajectory_distance(**layer, out=out) is out
    first, second = (ops.trajectory_distance(**layer) for layer in layers)
    assert torch.equal(out, 1 + first + second)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_spoils_its_variant_alone(
    dtype: torch.dtype, value: float, device: torch.device
) -> None:
    arguments = Case("trajectory_distance", (5, 130, 21), dtype, ("zeros",)).arguments(device)
    features = arguments["features"]
    clean = ops.trajectory_distance(**arguments)
    features[1, 129, 20] = value
    features[3, 0, 0] = value  # in a row that was zero
    spoilt = ops.trajectory_distance(**arguments)
    assert spoilt[[1, 3]].isnan().all()
    assert torch.equal(spoilt[[0, 2, 4]], clean[[0, 2, 4]])
    arguments["teacher"][7, 7] = value
    assert ops.trajectory_distance(**arguments).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_variant_does_not_depend_on_its_neighbours(
    dtype: torch.dtype, device: torch.device
) -> None:
    arguments = Case("trajectory_distance", (17, 257, 769), dtype).arguments(device)
    features, teacher = arguments["features"], arguments["teacher"]
    together = ops.trajectory_distance(features, teacher)
    for v in (0, 11, 16):
        assert torch.equal(ops.trajectory_distance(features[v : v + 1], teacher)[0], together[v])


def test_variants_may_share_memory(device: torch.device) -> None:
    teacher, variant = torch.randn(2, 12, 7, device=device)
    expected = ops.trajectory_distance(variant[None], teacher)
    assert torch.equal(
        ops.trajectory_distance(variant.expand(4, -1, -1), teacher), expected.expand(4)
    )
