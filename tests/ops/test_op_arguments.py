"""Bad arguments end in one clear line, before any kernel runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastprune import ops
from fastprune.errors import FastpruneError

X = torch.zeros(2, 3, 8)


def _step(**other: Any) -> Any:
    """A step of three paths of eight units, with something in another's place."""
    state = {name: torch.zeros(3, 8) for name in ("mask", "dual", "gate", "gradient", "threshold")}
    rates = {name: torch.ones(3) for name in ("kappa", "alpha", "nu")}
    crossing = torch.zeros(3, 8, dtype=torch.float64)
    return ops.path_step(**{**state, **rates, "crossing": crossing, "step": 0.0, **other})


def _learning(values: torch.Tensor) -> torch.Tensor:
    return values.clone().requires_grad_()


def _draw(**other: Any) -> Any:
    """A draw of three gates and one of a sublayer, with something in another's place."""
    given = {
        "alpha": torch.zeros(4),
        "noise": torch.zeros(4),
        "sizes": [3],
        "shares": torch.ones(1, dtype=torch.float64),
        "sublayers": True,
    }
    return ops.hard_concrete(**{**given, **other})


def _norm(function: Callable[..., Any] = ops.masked_norm, **other: Any) -> Any:
    """Three rows of eight, normalised, with something in another's place."""
    columns = {name: torch.ones(8) for name in ("weight", "bias", "gate")}
    return function(**{"x": X[0], **columns, "eps": 1e-5, "centered": True, **other})


def _norm_backward(**other: Any) -> Any:
    """Its derivatives, likewise."""
    rows = {"dy": X[0], "mean": torch.zeros(3), "rstd": torch.ones(3)}

    def backward(eps: float, **given: Any) -> Any:
        return ops.masked_norm_backward(**given)

    return _norm(backward, **{**rows, **other})


BAD: list[tuple[str, Callable[[], Any], str]] = [
    ("dtype", lambda: ops.mask_grad(X.double(), X.double(), 2), "x must be float32"),
    ("mixed dtypes", lambda: ops.mask_grad(X, X.half(), 2), "grad must be float32"),
    ("shape", lambda: ops.mask_grad(X, X[:1], 2), "grad must have shape [2, 3, 8]"),
    ("group", lambda: ops.mask_grad(X, X, 3), "group 3 does not divide the 8 columns"),
    ("no group", lambda: ops.mask_grad(X, X, 0), "group 0"),
    ("flat", lambda: ops.mask_grad(X[0], X[0], 2), "x must be [samples, tokens, columns]"),
    (
        "valid",
        lambda: ops.mask_grad(X, X, 2, valid=torch.ones(2, 4)),
        "valid must have shape [2, 3]",
    ),
    (
        "both layouts",
        lambda: ops.mask_grad(X[0], X[0], 2, valid=X, offsets=torch.tensor([0, 3])),
        "not both",
    ),
    (
        "offsets",
        lambda: ops.mask_grad(X[0], X[0], 2, offsets=torch.tensor([0, 4])),
        "offsets must ascend within [0, 3]",
    ),
    (
        "descending",
        lambda: ops.mask_grad(X[0], X[0], 2, offsets=torch.tensor([0, 2, 1])),
        "offsets must ascend",
    ),
    ("sizes", lambda: ops.fisher_outer(X[0], [5]), "grads must have shape [3, 5]"),
    ("negative", lambda: ops.fisher_outer(X[0], [9, -1]), "must not be negative"),
    (
        "accumulator",
        lambda: ops.fisher_outer(X[0], [8], out=torch.zeros(8, 8).T),
        "out must have shape [64]",
    ),
    (
        "strided accumulator",
        lambda: ops.gram(X, out=torch.zeros(8, 16).double()[:, ::2]),
        "out must be contiguous",
    ),
    ("half sums", lambda: ops.gram(X, dtype=torch.float16), "out must be float32, float64"),
    ("columns", lambda: ops.gram(X, columns=torch.tensor([8])), "within [0, 8)"),
    ("index type", lambda: ops.gram(X, columns=torch.tensor([1.0])), "columns must be int64"),
    (
        "masks",
        lambda: ops.greedy_rearrange(torch.zeros(9), [3], torch.ones(4)),
        "masks must have shape [3]",
    ),
    (
        "gram",
        lambda: ops.tuning_system(torch.zeros(7, 7), X[0], torch.zeros(8, 3), 2),
        "gram must have shape [8, 8]",
    ),
    ("damping", lambda: ops.block_lstsq(torch.ones(1), torch.ones(1), [1], -1.0), "damping"),
    (
        "huge",
        lambda: ops.block_lstsq(torch.ones(1).expand(4097**2), torch.ones(4097), [4097], 0.0),
        "4097 > 4096",
    ),
    ("groups", lambda: ops.obs_greedy(X[0, 0], X[0], [1], []), "1 sizes, but 0 groups"),
    ("no columns", lambda: ops.obs_greedy(X[0, 0], X[0], [1], [0]), "within [1, 4096]: [0]"),
    ("wide group", lambda: ops.obs_greedy(X[0, 0], X[0], [1], [4097]), "within [1, 4096]: [4097]"),
    ("inverse", lambda: ops.obs_greedy(X[0, 0], X[0], [3], [1]), "inverse must have shape [9]"),
    (
        "rows of the weight",
        lambda: ops.obs_greedy(torch.ones(4), X[0], [1], [2]),
        "weight must have shape [2, 8]",
    ),
    (
        "flat weight",
        lambda: ops.obs_greedy(torch.ones(4), torch.ones(2), [1], [2]),
        "weight must be [columns, outputs]",
    ),
    (
        "mixed statistics",
        lambda: ops.obs_greedy(torch.ones(4).double(), torch.ones(2, 3), [2], [1]),
        "weight must be float64",
    ),
    ("gates", lambda: _draw(sizes=[4]), "alpha must have shape [5], not [4]"),
    ("no gates", lambda: _draw(sizes=[]), "sizes must name one site at least"),
    ("no hidden size", lambda: _draw(hidden=-1), "hidden must be a whole number from 0 on: -1"),
    ("half a hidden size", lambda: _draw(hidden=0.5), "hidden must be a whole number"),
    ("half gates", lambda: _draw(alpha=torch.zeros(4).half()), "alpha must be float32, float64"),
    ("mixed noise", lambda: _draw(noise=torch.zeros(4).double()), "noise must be float32"),
    ("single shares", lambda: _draw(shares=torch.ones(1)), "shares must be float64"),
    ("more shares", lambda: _draw(shares=torch.ones(2).double()), "shares must have shape [1]"),
    ("samples to normalise", lambda: _norm(x=X), "x must be [rows, width], not [2, 3, 8]"),
    ("half rows", lambda: _norm(x=X[0].half()), "x must be float32, float64, not float16"),
    ("a short weight", lambda: _norm(weight=torch.ones(7)), "weight must have shape [8], not [7]"),
    ("mixed bias", lambda: _norm(bias=torch.ones(8).double()), "bias must be float32"),
    ("no gate", lambda: _norm(gate=None), "gate must be a dense tensor, not NoneType"),
    ("negative eps", lambda: _norm(eps=-1.0), "eps must be finite and >= 0, not -1.0"),
    ("eps is NaN", lambda: _norm(eps=float("nan")), "eps must be finite and >= 0, not nan"),
    ("mixed dy", lambda: _norm_backward(dy=X[0].double()), "dy must be float32, not float64"),
    ("a short mean", lambda: _norm_backward(mean=torch.zeros(2)), "mean must have shape [3]"),
    ("one deviation", lambda: _norm_backward(rstd=torch.zeros(1)), "rstd must have shape [3]"),
    ("flat rows", lambda: _norm_backward(x=X[0, 0]), "x must be [rows, width], not [8]"),
    (
        "whole numbers",
        lambda: _norm(ops.normalise_kept, x=X.long()),
        "x must be float32, bfloat16, float16, float64, not int64",
    ),
    ("one number", lambda: _norm(ops.normalise_kept, x=torch.ones(())), "x must be [..., width]"),
    (
        "a wide gate",
        lambda: _norm(ops.normalise_kept, gate=torch.ones(1, 8)),
        "gate must have shape [8], not [1, 8]",
    ),
    (
        "nowhere",
        lambda: _norm(
            ops.normalise_kept,
            **{name: torch.ones(8, device="meta") for name in ("x", "weight", "bias", "gate")},
        ),
        "x is on meta: move it to a CPU or CUDA device",
    ),
    ("endless eps", lambda: _norm(ops.normalise_kept, eps=float("inf")), "eps must be finite"),
    ("flat masks", lambda: _step(mask=X[0, 0]), "mask must be [paths, units], not [8]"),
    ("half masks", lambda: _step(mask=X[0].half()), "mask must be float32, float64"),
    ("a short dual", lambda: _step(dual=X[0, :2]), "dual must have shape [3, 8]"),
    ("mixed states", lambda: _step(gate=X[0].double()), "gate must be float32"),
    ("short crossings", lambda: _step(crossing=X[0]), "crossing must be float64"),
    ("strided state", lambda: _step(dual=torch.zeros(8, 3).T), "dual must be contiguous"),
    (
        "a state that learns",
        lambda: _step(mask=_learning(X[0])),
        "mask requires gr",
    ),
    (
        "an accumulator that learns",
        lambda: ops.fisher_outer(X[0], [8], out=_learning(torch.zeros(64))),
        "out requires gradients",
    ),
    ("gradient", lambda: _step(gradient=X[0, 0]), "gradient must have shape [3, 8]"),
    ("mixed inputs", lambda: _step(threshold=X[0].double()), "threshold must be float32"),
    ("one rate", lambda: _step(nu=torch.ones(1)), "nu must have shape [3]"),
    ("a plain number", lambda: _step(kappa=10.0), "kappa must be a dense tensor, not float"),
    ("half inverse", lambda: ops.obs_greedy(X.half(), X, [1], [1]), "inverse must be float32"),
    ("flat features", lambda: ops.trajectory_distance(X[0], X[0]), "[variants, rows, width]"),
    (
        "wide features",
        lambda: ops.trajectory_distance(X.double(), X[0].double()),
        "features must be float32, bfloat16, float16, not float64",
    ),
    (
        "another teacher",
        lambda: ops.trajectory_distance(X, X[0, :2]),
        "teacher must have shape [3, 8], not [2, 8]",
    ),
    (
        "mixed features",
        lambda: ops.trajectory_distance(X, X[0].bfloat16()),
        "teacher must be float32, not bfloat16",
    ),
    (
        "single sums",
        lambda: ops.trajectory_distance(X, X[0], out=torch.zeros(2)),
        "out must be float64",
    ),
    (
        "sums of others",
        lambda: ops.trajectory_distance(X, X[0], out=torch.zeros(3).double()),
        "out must have shape [2]",
    ),
    (
        "strided sums",
        lambda: ops.trajectory_distance(X, X[0], out=torch.zeros(4).double()[::2]),
        "out must be contiguous",
    ),
]


@pytest.mark.parametrize(("call", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_wrapper_names_the_cause(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(FastpruneError, match=re.escape(message)) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_the_operation_itself_checks_too() -> None:
    native = torch.ops.fastprune
    with pytest.raises((RuntimeError, ValueError)):
        native.mask_grad(X, X, 3, None, None)
    with pytest.raises((RuntimeError, ValueError)):
        native.gram(torch.zeros(8, 8), X[0], torch.tensor([99] * 8), None)
    with pytest.raises((RuntimeError, ValueError)):
        native.fisher_outer(torch.zeros(3), X[0], [8])
    for teacher, out in (X[0, :2], torch.zeros(2)), (X[0], torch.zeros(2).double()[:1]):
        with pytest.raises((RuntimeError, ValueError)):
            native.trajectory_distance(out.double(), X, teacher)
    with pytest.raises((RuntimeError, ValueError)):
        native.trajectory_distance(torch.zeros(2), X, X[0])
    for sizes, groups in ([1], [0]), ([1], [4097]), ([2, 1], [1]), ([-1, 2], [1, 1]):
        with pytest.raises((RuntimeError, ValueError)):
            native.obs_greedy(torch.ones(1), torch.ones(1, 1), sizes, groups)
    row, one = X[0], torch.ones(8)
    for x, gate, eps in (X, one, 0.0), (row, one[:7], 0.0), (row, one.double(), 0), (row, one, -1):
        with pytest.raises((RuntimeError, ValueError)):
            native.masked_norm(x, one, None, gate, eps, True)
    with pytest.raises((RuntimeError, ValueError)):
        native.masked_norm_backward(row, row, one, None, one, one, one[:3], True)
    state, rates = torch.zeros(2, 3), torch.ones(2)
    for crossing, kappa in (state, rates), (state.double(), torch.ones(3)), (rates.double(), rates):
        with pytest.raises((RuntimeError, ValueError)):
            native.path_step(state, state, state, crossing, state, state, kappa, rates, rates, 0.0)
