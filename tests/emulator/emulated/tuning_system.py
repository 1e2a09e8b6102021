"""Systems of mask tuning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
from emulator import to_float64

from emulated.common import (
    DOUBLE,
    FLOAT,
    INPUTS,
    ROUNDOFF,
    Case,
    check,
    draw,
    embed,
    gamma,
    symmetric,
)


def check_tuning(
    e, rng, units, group, outputs, stat=DOUBLE, weight_dtype=FLOAT, padding=0, offset=0
):
    columns = units * group
    x = rng.standard_normal((max(columns, 1), columns))
    gram = (x.T @ x / max(columns, 1)).astype(stat)
    gram = np.ascontiguousarray(np.tril(gram) + np.tril(gram, -1).T)
    weight = draw(rng, (outputs, columns), weight_dtype)
    cross = rng.standard_normal((columns, outputs)).astype(stat)
    a, b = e.tuning_system(gram, embed(weight, padding, offset), cross, group)

    w, g, c = to_float64(weight), gram.astype(np.float64), cross.astype(np.float64)
    real = DOUBLE if weight_dtype == DOUBLE else FLOAT
    blocks = (units, group, units, group)
    expected = (w.T @ w * g).reshape(blocks).sum((1, 3))
    size = (np.abs(w).T @ np.abs(w) * np.abs(g)).reshape(blocks).sum((1, 3))
    depth = min(outputs, 256) + 1
    slack = gamma(outputs + group * group + 2, DOUBLE)  # the f64 part and the reference's own sums
    bound = (gamma(depth, real) + 2 * slack + ROUNDOFF[stat]) * size
    check(a, expected, 1.01 * bound)
    assert symmetric(a)
    terms = (c * w.T).reshape(units, group * outputs)
    slack = 2 * gamma(group * outputs + 2, DOUBLE) + ROUNDOFF[stat]
    check(b, terms.sum(1), 1.01 * slack * np.abs(terms).sum(1))


def tuning_cases() -> Iterator[tuple[str, Case]]:
    shapes = [
        (0, 4, 3), (1, 1, 1), (3, 2, 0), (5, 1, 7), (65, 1, 5), (9, 3, 17), (4, 16, 31),
        (3, 21, 33), (23, 5, 3), (12, 6, 2), (2, 32, 16), (3, 33, 5), (2, 63, 4), (2, 64, 40),
        (3, 65, 20), (2, 128, 3),
        (2, 129, 3), (1, 256, 2), (3, 1, 260),
    ]  # fmt: skip
    for units, group, outputs in shapes:
        yield (
            f"({units}, {group}, {outputs})",
            partial(check_tuning, units=units, group=group, outputs=outputs),
        )
    weights = {**INPUTS, "f64": DOUBLE}
    for (name, weight), stat in itertools.product(weights.items(), (FLOAT, DOUBLE)):
        yield (
            f"{name} weight, {stat}",
            partial(
                check_tuning,
                units=5,
                group=20,
                outputs=35,
                stat=stat,
                weight_dtype=weight,
                padding=3,
                offset=1,
            ),
        )
