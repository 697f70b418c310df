# Copyright (c) The monai_essa authors
# SPDX-License-Identifier: Apache-2.0

"""Check which tensors may be claimed before a network is changed, and restore the network if a step fails."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn as nn

from monai_essa.anatomy.lean_marks import check_not_lean
from monai_essa.anatomy.parts import check_known, dead_parameters
from monai_essa.methods.method import AdaptationMethod
from monai_essa.outside import check_pattern

__all__ = ["also_train_names", "claimed_tensors", "on_trial", "unchanged_on_error"]


def claimed_tensors(network: nn.Module, methods: Sequence[AdaptationMethod]) -> set[str]:
    """Name the tensors that methods train, act on or add.

    Raises:
        TypeError: if the class of the network is unknown, so that its encoder is unknown too.
        ValueError: if the network is lean (lean comes after ``adapt``), a method other than HeadOnly matches nothing,
            or two methods claim one tensor.
    """
    check_known(network)
    check_not_lean(network, "adapt")
    claimed: dict[str, AdaptationMethod] = {}
    for method in methods:
        names = method.claims(network)
        if not names and type(method).__name__ != "HeadOnly":
            raise ValueError(f"{method} matches no layer of {type(network).__name__}; the README says what fits what")
        for name in names:
            if name in claimed:
                raise ValueError(f"{claimed[name]} and {method} both claim '{name}'; let one method act on each tensor")
            claimed[name] = method
    return set(claimed)


def also_train_names(network: nn.Module, patterns: Sequence[str], claims: set[str]) -> set[str]:
    """Name the parameters that train beside the methods.

    Args:
        network: a plain network.
        patterns: regular expressions, matched in full against plain parameter names.
        claims: what the methods claim.

    Raises:
        ValueError: if a pattern is not a regular expression or may take forever to match (it may come from a file), or
            if it matches nothing, a claimed tensor or a parameter that no forward pass reaches.
    """
    if isinstance(patterns, str):
        raise ValueError(f"also_train must be a list of patterns, got the text {patterns!r}")
    for pattern in patterns:
        check_pattern(pattern, "also_train")
    names = [name for name, _ in network.named_parameters()]
    dead, chosen = dead_parameters(network), set()
    for pattern in patterns:
        matched = {name for name in names if re.fullmatch(pattern, name)}
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(f"also_train pattern {pattern!r} matches no parameter; names look like {', '.join(near)}")
        for taken, owner in ((matched & claims, "the method trains"), (matched & dead, "no forward pass reaches")):
            if taken:
                raise ValueError(
                    f"also_train pattern {pattern!r} matches '{min(taken)}', which {owner}; narrow the pattern"
                )
        chosen |= matched
    return chosen


@contextmanager
def unchanged_on_error(network: nn.Module) -> Iterator[None]:
    """Restore a network that is changed within the block if an error leaves the block.

    Args:
        network: any module. The same module objects are restored, each with its attributes and hooks.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> try:
        ...     with unchanged_on_error(net):
        ...         net[0] = nn.Identity()
        ...         raise ValueError("late")
        ... except ValueError:
        ...     print(net[0])
        Linear(in_features=2, out_features=2, bias=True)
    """
    snapshot = _Snapshot(network)
    try:
        yield
    except BaseException:
        snapshot.restore()
        raise


@contextmanager
def on_trial(network: nn.Module) -> Iterator[None]:
    """Try a change of a network: its parameters have no storage within the block, and everything is undone after it.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with on_trial(net):
        ...     net.weight.new_empty(10**12, 2).shape
        torch.Size([1000000000000, 2])
        >>> net.weight.device
        device(type='cpu')
    """
    snapshot = _Snapshot(network)
    shapes: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    try:
        for module in snapshot.modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    shape = torch.empty_like(parameter, device="meta", requires_grad=False)
                    module._parameters[name] = shapes.setdefault(
                        id(parameter), nn.Parameter(shape, parameter.requires_grad)
                    )
        yield
    finally:
        snapshot.restore()


class _Snapshot:
    def __init__(self, network: nn.Module) -> None:
        self.modules = list(network.modules())
        self._attributes = [dict(vars(module)) for module in self.modules]
        self._contents = [
            (value, dict(value)) for kept in self._attributes for value in kept.values() if isinstance(value, dict)
        ]
        self._parameters = [(p, p.requires_grad, dict(vars(p))) for p in network.parameters()]
        self._storages = [(tensor, tensor.data) for tensor in (*network.parameters(), *network.buffers())]

    def restore(self) -> None:
        for module, kept in zip(self.modules, self._attributes, strict=True):
            vars(module).clear()
            vars(module).update(kept)
        for dictionary, content in self._contents:  # filled again, not replaced: handles of hooks point to it
            dictionary.clear()
            dictionary.update(content)
        for parameter, learns, marks in self._parameters:
            parameter.requires_grad_(learns)
            vars(parameter).clear()
            vars(parameter).update(marks)
        for tensor, data in self._storages:
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
