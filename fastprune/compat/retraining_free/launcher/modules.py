"""Our modules under the original's names."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

_REPLACED = (
    "efficiency.latency",
    "efficiency.mac",
    "prune.fisher",
    "prune.rearrange",
    "prune.rescale",
    "prune.search",
    "utils.linalg",
    "utils.schedule",
)
# Folders of the repository. They have no __init__.py, so that any installed package of the same
# name, such as Hugging Face's evaluate, would be found in their place.
_FOLDERS = ("dataset", "efficiency", "evaluate", "prune", "utils")
_OURS = "fastprune.compat.retraining_free"


@contextmanager
def modules_replaced(directory: Path, *, bug_compatible: bool) -> Iterator[None]:
    """Within the context, ``import prune.fisher`` and the like give our modules.

    What else lies in the repository's folders is imported from there.

    Args:
        directory: of the repository.
        bug_compatible: functions that take it get it.
    """
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _concerns(name)}
    try:
        for folder in _FOLDERS:
            inside = [name for name in _REPLACED if name.startswith(f"{folder}.")]
            if inside or (directory / folder).is_dir():
                _add_folder(directory / folder)
            for name in inside:
                _add_module(name, bug_compatible)
        yield
    finally:
        for name in list(sys.modules):
            if _concerns(name):
                del sys.modules[name]
        sys.modules.update(hidden)


def _concerns(name: str) -> bool:
    return name.partition(".")[0] in _FOLDERS


def _add_folder(path: Path) -> None:
    if (path / "__init__.py").is_file():
        importlib.import_module(path.name)
        return
    package = ModuleType(path.name)
    package.__path__ = [str(path)]
    sys.modules[path.name] = package


def _add_module(name: str, bug_compatible: bool) -> None:
    ours = importlib.import_module(f"{_OURS}.{name}")
    module = ModuleType(name, ours.__doc__)
    for key, value in vars(ours).items():
        if key.startswith("_"):
            continue
        if inspect.isfunction(value) and "bug_compatible" in inspect.signature(value).parameters:
            value = partial(value, bug_compatible=bug_compatible)
        setattr(module, key, value)
    sys.modules[name] = module
    folder, _, child = name.partition(".")
    setattr(sys.modules[folder], child, module)
