"""Ways to prune: how units are chosen, and how those that stay are corrected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastprune.checks import check_known
from fastprune.errors import FastpruneError
from fastprune.selection import METHODS
from fastprune.settings import Settings
from fastprune.tuning import TUNERS

DEFAULT_TUNES = ("none", "scale", "weights")


def default_methods() -> tuple[str, ...]:
    """All but those that train, which take labels, and minutes to hours."""
    return tuple(name for name, method in METHODS.items() if not method.trains)


@dataclass(frozen=True)
class Way:
    """A way to prune.

    Attributes:
        method: how units are chosen.
        tune: how those that stay are corrected.
    """

    method: str
    tune: str

    def __str__(self) -> str:
        return f"{self.method}, {self.tune}"

    def settings(self, choices: Mapping[str, Any]) -> Settings:
        """The settings of a run that prunes this way.

        Args:
            choices: all others; how to train is for methods that do.

        Raises:
            FastpruneError: a run cannot honour them.
        """
        if not METHODS[self.method].trains:
            choices = {**choices, "training": None}
        return Settings(method=self.method, tune=self.tune, **choices)


def combine(
    methods: Iterable[str], tunes: Iterable[str], choices: Mapping[str, Any]
) -> tuple[list[Way], dict[str, str]]:
    """Every method with every way to tune, as :func:`honoured` sorts them.

    Args:
        methods: by name.
        tunes: by name.
        choices: the settings that all of them have in common.

    Raises:
        FastpruneError: an unknown name, one given twice, or nothing that a run can honour.
    """
    methods, tunes = _once("method", methods, METHODS), _once("tune", tunes, TUNERS)
    every = [Way(method, tune) for method in methods for tune in tunes]
    if "none" in tunes:  # what trains has no other way, and nobody needs to be told
        every = [way for way in every if way.tune == "none" or not METHODS[way.method].trains]
    return honoured(every, lambda way: way.settings(choices))


def honoured(
    ways: Iterable[Way], check: Callable[[Way], object]
) -> tuple[list[Way], dict[str, str]]:
    """Those that a check lets pass, and of the others, by name, why not.

    Raises:
        FastpruneError: nothing is left.
    """
    objections = {way: _objection(way, check) for way in ways}
    passed = [way for way, reason in objections.items() if reason is None]
    left_out = {str(way): reason for way, reason in objections.items() if reason is not None}
    if not passed:
        first, *others = dict.fromkeys(left_out.values())
        # What holds for all of them is no matter of method or tuning.
        raise FastpruneError(f"nothing is left to compare: {first}" if others else first)
    return passed, left_out


def _objection(way: Way, check: Callable[[Way], object]) -> str | None:
    try:
        check(way)
    except FastpruneError as reason:
        return str(reason)
    return None


def _once(what: str, names: Iterable[str], choices: Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise FastpruneError(f"no {what} to compare; name at least one")
    if len(set(names)) < len(names):
        raise FastpruneError(f"a {what} is given twice; name each once")
    for name in names:
        check_known(what, name, choices)
    return names
