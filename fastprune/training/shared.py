"""Checkpoints of modules with shared weights."""

from __future__ import annotations

from typing import Any

from torch import nn


def save_shared_once(module: nn.Module) -> None:
    """Let the state of ``module`` have shared weights under their first names alone: files of
    checkpoints refuse weights that are there twice. Loading gives them back to all names.
    """
    module.register_state_dict_post_hook(_drop_aliases)
    module.register_load_state_dict_pre_hook(_restore_aliases)


def _aliases(module: nn.Module) -> dict[str, str]:
    """Further names of shared weights, and the first name of each."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            found[name] = first[id(parameter)]
    return found


def _drop_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in _aliases(module):
        del state[prefix + name]


def _restore_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, first in _aliases(module).items():
        state[prefix + name] = state[prefix + first]
